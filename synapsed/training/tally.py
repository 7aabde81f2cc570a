"""Totals of training since the start, for the metrics: counted from the daemon's own events.

What is a matter of the moment (groups that are led here, bytes) is read from the service when it
is asked for (owner/overview.py).
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from synapsed.process.events import Event

WINDOW_S = 60.0
"""Over which the share of time in torch is told: a round of a home's model takes seconds."""
MAX_NAMES = 64
"""Reasons kept apart; they are words of ours, and of a peer only those that we know."""


Fields = dict[str, Any]


class TrainingTally:
    """`heard` is told of every event."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic seconds."""
        self.rounds: Counter[str] = Counter()
        """Committed here, by what we are of their group: primary, replica."""
        self.deltas: Counter[str] = Counter()
        """Of others, at groups that are served here: taken, refused."""
        self.refused: Counter[str] = Counter()
        """Those refused, by reason."""
        self.ours: Counter[str] = Counter()
        """Deltas of our learners: acknowledged, refused."""
        self.done: Counter[str] = Counter()
        """Other work: aggregated, summed (a region's), compacted."""
        self.audits: Counter[str] = Counter()
        """Sums and results of others that were recomputed here: same, other, unknown."""
        self.caught = 0
        self.checkpoints: Counter[str] = Counter()
        """On the ledger: judged to hold, judged not to, ratified; and proposed by this daemon."""
        self.steps = 0
        self.torch_s = 0.0
        self.loss: dict[str, float] = {}
        """Of the last steps here, by model."""
        self.workers: Counter[str] = Counter()
        """Compute workers: started, died, hung."""
        self._clock = clock
        self._began = clock()
        self._lately: deque[tuple[float, float]] = deque()
        self._lately_s = 0.0
        self._counts: dict[str, Callable[[Fields], None]] = {
            "training.round": lambda it: _one(self.rounds, "primary" if it["own"] else "replica"),
            "training.taken": lambda _: _one(self.deltas, "taken"),
            "training.refused": self._refused,
            "training.acked": lambda _: _one(self.ours, "acknowledged"),
            "training.given-back": lambda _: _one(self.ours, "refused"),
            "training.aggregated": lambda _: _one(self.done, "aggregated"),
            "training.summed": lambda _: _one(self.done, "summed"),
            "training.compacted": lambda _: _one(self.done, "compacted"),
            "training.audited": self._audited,
            "training.caught": self._caught,
            "training.trained": self._trained,
            "training.left": self._left,
            "training.checkpoint": lambda _: _one(self.checkpoints, "proposed"),
            "checkpoint.judged": self._judged,
            "checkpoint.ratified": lambda _: _one(self.checkpoints, "ratified"),
            "compute.started": lambda _: _one(self.workers, "started"),
            "compute.died": lambda it: _one(self.workers, "hung" if it["hung"] else "died"),
        }

    @property
    def torch_share(self) -> float:
        """Of the last minute, the share that steps of training took in torch."""
        now = self._clock()
        self._forget(now)
        return self._lately_s / max(1e-3, min(WINDOW_S, now - self._began))

    def heard(self, event: Event) -> None:
        """Count it, if it is of training or of the compute worker. One that lacks a field is not
        counted: nothing may fail because it is told of."""
        count = self._counts.get(event.kind)
        if count is not None:
            with suppress(KeyError):
                count(event.fields)

    def _refused(self, fields: Fields) -> None:
        reason = fields["reason"]
        self.deltas["refused"] += 1
        if reason in self.refused or len(self.refused) < MAX_NAMES:
            self.refused[reason] += 1

    def _audited(self, fields: Fields) -> None:
        same = fields.get("same")
        self.audits["unknown" if same is None else "same" if same else "other"] += 1

    def _caught(self, fields: Fields) -> None:
        self.caught += "proven" not in fields  # which is the machine's own word for it

    def _judged(self, fields: Fields) -> None:
        self.checkpoints["holds" if fields["holds"] else "does-not-hold"] += 1

    def _left(self, fields: Fields) -> None:
        self.loss.pop(fields["model"], None)

    def _trained(self, fields: Fields) -> None:
        steps, seconds, loss = fields["steps"], fields["seconds"], fields["loss"]
        self.steps += steps
        self.torch_s += seconds
        self.loss[fields["model"]] = loss
        now = self._clock()
        self._lately.append((now, seconds))
        self._lately_s += seconds
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._lately and self._lately[0][0] < now - WINDOW_S:
            self._lately_s -= self._lately.popleft()[1]


def _one(counts: Counter[str], name: str) -> None:
    counts[name] += 1
