"""Writes tests/vectors/council-transcripts: a few runs of the simulator, told as stories.

    python -m tests.vectors.make_council_transcripts

They change when the council's messages, timers or rules do. Read the difference before you keep
it: it says what the change does to a council in trouble.
"""

from pathlib import Path
from typing import NamedTuple

from simnet.virtual import families
from simnet.virtual.case import Case
from simnet.virtual.town import Town

FOLDER = Path(__file__).parent / "council-transcripts"


class Transcript(NamedTuple):
    """One run."""

    about: str
    case: Case
    messages: bool = False


def transcripts() -> dict[str, Transcript]:
    """By name."""
    return {
        "leader-crashes": Transcript(
            "Four members, every message: what a term is, and how the next one opens.",
            Case(families.load("crashes"), 12, 4, 6.0),
            messages=True,
        ),
        "parted-and-healed": Transcript(
            "Links are cut one way and whole parts fall off; healed, the council goes on.",
            Case(families.load("partitions"), 10, 5, 30.0),
        ),
        "twins": Transcript(
            "Seven members, one or two of them twice; their forks are proven.",
            Case(families.load("twins"), 11, 7, 25.0),
        ),
        "new-councils": Transcript(
            "Epochs end every twelve entries; newcomers take seats, liars sit among them.",
            Case(families.load("epochs"), 3, 4, 40.0),
        ),
        "bad-disks": Transcript(
            "Rows that rotted, a disk that was wiped, a seat that no longer knows what it signed.",
            Case(families.load("disks"), 9, 7, 30.0),
        ),
        "daemons": Transcript(
            "Whole daemons on the real ledger, with a newcomer and a liar.",
            Case(families.load("daemons"), 4, 4, 20.0),
        ),
    }


def text(transcript: Transcript) -> str:
    """The story of a run."""
    town = Town(transcript.case, telling=True, recording=transcript.messages)
    outcome = town.run()
    liars = [f"m{number} ({kind})" for number, kind in town.roles.liars.items()]
    head = f"# {transcript.about}\n# {transcript.case.command}\n"
    if liars:
        head += f"# lying: {', '.join(liars)}\n"
    end = f"# {outcome.ratified} entries ratified in {outcome.terms} terms of epoch "
    end += f"{outcome.epochs} or before; healed after {outcome.healed or 0:.2f} time-outs\n"
    return head + town.world.text() + end


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    for name, transcript in transcripts().items():
        (FOLDER / f"{name}.txt").write_text(text(transcript))


if __name__ == "__main__":
    main()
