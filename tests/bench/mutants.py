"""mutants: deliberate bugs in copies of the real source, and how many of them are caught.

Every rule of the council's log dropped in turn, state forgotten, bounds loosened, proofs not
looked at: the whole list, with what each drops, is `python -m tests.mutants --list`.
"""

from collections.abc import Callable

from tests.mutants.__main__ import measured
from tests.mutants.catalogue import MUTANTS

REACH = {"total": ">= 20", "survivors": "0"}


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """All of them; the seeds and the seconds that it took."""
    results, found = measured(MUTANTS, say, resume=False)
    by_simulator = sum(bool(result.seed) for result in results)
    return {
        "caught": found["caught"],
        "total": found["total"],
        "survivors": len(found["survivors"]),
        "by_simulator": by_simulator,
        "most_seeds": found["most_seeds"],
    }
