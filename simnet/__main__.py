"""`python -m simnet SCENARIO --seed N`: a world of real daemons on this machine.

`python -m simnet virtual FAMILY` is about worlds in virtual time (simnet/virtual/cli.py).

Exit codes: 0 every promise kept, 1 a step failed or a promise was broken, 2 a wrong scenario.
"""

import argparse
import signal
import sys
from pathlib import Path

import msgspec
import trio

from simnet import report
from simnet.run import Result, run_scenario
from simnet.scenario import Scenario
from simnet.scenarioload import ScenarioError, load
from simnet.virtual import cli as virtual
from synapsed.process.supervise import leaves

EXIT_KEPT, EXIT_BROKEN, EXIT_USAGE = 0, 1, 2
VIRTUAL = "virtual"
"""The first word for worlds in virtual time; what follows is theirs."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == [VIRTUAL]:
        return virtual.main(words[1:])
    arguments = _parser().parse_args(argv)
    # As Ctrl-C: what was started is ended, and the homes are removed.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    path = Path(arguments.scenario)
    try:
        scenario = load(path)
    except ScenarioError as error:
        print(f"simnet: {error}", file=sys.stderr)
        return EXIT_USAGE
    out = Path(arguments.out or Path("demo-out") / path.stem).resolve()
    result: Result | None = None
    refused = False
    try:
        result = trio.run(_run, scenario, path, out, arguments)
    except* ScenarioError as group:
        refused = True
        print(*(f"simnet: {leaf}" for leaf in leaves(group)), sep="\n", file=sys.stderr)
    except* KeyboardInterrupt:
        print("simnet: interrupted; every daemon has ended", file=sys.stderr)
    if result is None:
        return EXIT_USAGE if refused else EXIT_BROKEN
    report.write(result, out)
    if arguments.json:
        print(msgspec.json.encode(result).decode())
    else:
        report.show(result)
    return EXIT_KEPT if result.passed else EXIT_BROKEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simnet", description="Run a scenario with real daemons on this machine."
    )
    parser.add_argument("scenario", help="a file as in configs/scenarios")
    parser.add_argument("--seed", type=int, default=1, help="what is drawn follows from it")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.add_argument("--out", help="folder for logs and picture (default: demo-out/NAME)")
    parser.add_argument("--keep", action="store_true", help="keep the daemons' homes")
    parser.add_argument("--no-picture", action="store_true", help="draw none")
    return parser


async def _run(scenario: Scenario, path: Path, out: Path, arguments: argparse.Namespace) -> Result:
    result = await run_scenario(
        scenario, path, arguments.seed, out, report.say, keep=arguments.keep
    )
    if not arguments.no_picture:
        result.picture = _draw(out)
    return result


def _draw(out: Path) -> str:
    from simnet.timeline import Timeline  # noqa: PLC0415

    try:
        # The extra `demo` has matplotlib; a run without it is still a run.
        from simnet import (  # noqa: PLC0415
            councilpicture,
            learnpicture,
            picture,
            upgradepicture,
        )
    except ImportError as error:
        report.say(f"no picture: {error}; pip install 'synapsed[demo]'")
        return ""
    timeline = msgspec.json.decode((out / "timeline.json").read_bytes(), type=Timeline)
    draw = councilpicture.draw if timeline.has_ledger else picture.draw
    if timeline.stages:
        draw = upgradepicture.draw
    if timeline.learning:
        draw = learnpicture.draw
    draw(timeline, out / "picture.png")
    return str(out / "picture.png")


if __name__ == "__main__":
    sys.exit(main())
