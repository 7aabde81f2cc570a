"""Many runs: one after another, or on every core."""

import gc
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from simnet.virtual.case import Case, Outcome
from simnet.virtual.shrink import shrink
from simnet.virtual.tileliar import LiarTown
from simnet.virtual.tiletown import TileTown
from simnet.virtual.town import Town

OLD = 50_000
"""Objects until the collector looks: worlds are cycles, and few in number."""


def run(case: Case) -> Outcome:
    """One run."""
    return town_of(case).run()


def town_of(case: Case, *, telling: bool = False, recording: bool = False) -> Town | TileTown:
    """The world of a run: a council's, or a tile group's."""
    towns: dict[str, type[Town | TileTown]] = {"tile": TileTown, "tile-liar": LiarTown}
    made = towns.get(case.family.ledger, Town)
    return made(case, telling=telling, recording=recording)


def run_all(cases: Sequence[Case], workers: int = 1) -> Iterator[Outcome]:
    """Every run, as they end."""
    if workers == 1 or len(cases) == 1:
        yield from map(run, cases)
        return
    # Forked: the imports are made once, and nothing else runs in this process.
    context = multiprocessing.get_context("fork")
    with context.Pool(workers, initializer=_calm) as pool:
        yield from pool.imap_unordered(run, cases, chunksize=1)


def _calm() -> None:
    gc.freeze()
    gc.set_threshold(OLD)


def totals(outcomes: Sequence[Outcome]) -> Counter[str]:
    """How often each fault happened, in all of them."""
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total.update(outcome.tally)
    return total


def shrunk(case: Case, found: Outcome, say: Callable[[str], None]) -> Case:
    """The shortest run that we find that breaks the same check."""
    everything = [number for number in found.episodes if number not in case.without]

    def made(dropped: frozenset[int], seconds: float) -> Case:
        without = tuple(sorted(dropped | set(case.without)))
        return Case(case.family, case.seed, case.members, seconds, without)

    def fails(dropped: frozenset[int], seconds: float) -> bool:
        return run(made(dropped, seconds)).check == found.check

    return made(*shrink(everything, case.safety_s, fails, say))
