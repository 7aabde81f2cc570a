"""When the open round closes, as its primary sees it (grace.py has the rule)."""

from collections.abc import Iterable

from protocols.learn.grace import FIRST_LULL, Arrivals, grace_of, learned, quorum_of
from protocols.learn.roundlog import Pending, RoundLog, Spread
from protocols.plan import Plan


class Closing:
    """Of one group. Nothing here is lost with its primary: a successor begins with what waits."""

    def __init__(self, plan: Plan, log: RoundLog, now_ms: int) -> None:
        self._plan = plan
        self._log = log
        self._arrivals = Arrivals()
        self._past = Arrivals()
        self._began = now_ms
        self._lasted: int | None = None
        self.bad: set[bytes] = set()
        """Of what waits: what the worker cannot use."""

    def led(self, now_ms: int) -> None:
        """We are the primary now, or no longer."""
        self._arrivals, self._past = Arrivals(), Arrivals()
        self._began = now_ms
        self._count(now_ms)

    def closed(self, now_ms: int) -> None:
        """A round is committed, and the next one open."""
        self._past, self._arrivals = self._arrivals, Arrivals()
        self._lasted, self._began = now_ms - self._began, now_ms
        self.bad &= self._log.digests
        self._count(now_ms)

    def _count(self, now_ms: int) -> None:
        for found in self._log.fresh:
            self._arrivals.came(now_ms, found.weight)

    def came(self, found: Pending, now_ms: int) -> None:
        """A delta, or a sum: of the open round, or late."""
        arrivals = self._arrivals if found.made.number == self._log.number else self._past
        arrivals.came(now_ms, found.weight)

    def spread(self) -> Spread:
        """With what the round before teaches, whose late ones have had their time."""
        sample = self._past.sample()
        return self._log.spread if sample is None else learned(self._log.spread, sample)

    def usable(self) -> list[Pending]:
        """What would go into the round now, in the order in which it is aggregated."""
        found = (it for it in self._log.pending.values() if it.made.digest not in self.bad)
        return sorted(found, key=lambda it: it.key)

    def cannot_use(self, digests: Iterable[bytes]) -> bool:
        """These are left out, and dropped with the round that closes; whether any is new."""
        fresh = set(digests) - self.bad
        self.bad |= fresh
        return bool(fresh)

    def due(self, now_ms: int) -> int | None:
        """When it closes, as things stand; None: not before something comes."""
        log, plan, arrivals = self._log, self._plan, self._arrivals
        if self.bad.issuperset(log.digests):
            return None
        there = sum(digest not in self.bad for digest in log.seen.values())
        if arrivals.quorum_at is None and there >= quorum_of(plan, len(log.seen_before)):
            arrivals.quorum_at = now_ms
        if arrivals.quorum_at is None:
            return (arrivals.last_at or self._began) + self._lull
        expected = log.seen_before.keys()
        if expected and expected <= log.seen.keys() and there >= plan.learners:
            return arrivals.quorum_at
        return arrivals.quorum_at + grace_of(plan, log.spread)

    def wake(self) -> int | None:
        """When to look again, if nothing comes."""
        return self.due(self._arrivals.quorum_at or self._arrivals.last_at or self._began)

    @property
    def _lull(self) -> int:
        patience = self._plan.patience_ms
        return FIRST_LULL * patience if self._lasted is None else patience + 2 * self._lasted
