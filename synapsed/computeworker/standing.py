"""How a learner's copy of one group stands to the network's versions.

    base    the last version that the group's rounds made: exact, the same at all learners
    left    what this learner's encodings left out so far (feedback.py)
    ref     the copy as far as it is accounted for: what differs from it is not encoded yet

A delta says `ref - copy`, and what was left; then `ref` is the copy. A result moves the base
exactly, and the copy to `base - left + (copy - ref)`: steps done since the delta was encoded stay,
and so does, for this learner, what its deltas have not said yet. (Measured: at 97 times fewer
bytes a loss of 1.849 instead of 1.891, dense training's being 1.786.)

In rounds of one step deltas are gradients: what is left of those is no part of a copy, and is
forgotten when rounds of several steps begin. All values lie in ordinary memory.
"""

from torch import Tensor

from synapsed.computeworker.codecs import Settings
from synapsed.computeworker.feedback import Feedback
from synapsed.computeworker.groups import Values


class Standing:
    """Of one group."""

    def __init__(self, base: Values, left: Values | None = None) -> None:
        self.base = [value.clone() for value in base]
        self._left = self._nothing() if left is None else Feedback(left)
        self._gradients = False
        self._ref = self._start()

    def copy(self) -> Values:
        """What the copy is where no step was done since the base was reached."""
        return self._ref

    def left(self) -> list[Tensor]:
        """What a learner that pauses must not lose."""
        return self._nothing().residual if self._gradients else self._left.residual

    def encode(self, codec: str, now: Values, settings: Settings) -> bytes:
        """The delta of a copy that is `now` so. Raises DeltaError."""
        self._deal_in(gradients=False)
        changed = [old - new for old, new in zip(self._ref, now, strict=True)]
        delta = self._left.encode(codec, changed, settings)
        self._ref = [value.clone() for value in now]
        return delta

    def encode_gradient(self, codec: str, gradient: Values, settings: Settings) -> bytes:
        """The delta of a gradient; the copy has nothing to do with it. Raises DeltaError."""
        self._deal_in(gradients=True)
        return self._left.encode(codec, gradient, settings)

    def take_back(self) -> None:
        """Nobody took the last delta: what it said is left."""
        self._left.take_back()

    def move(self, base: Values, now: Values) -> Values:
        """The copy at a new base."""
        self.base = base
        start = self._start()
        moved = [at + (new - old) for at, new, old in zip(start, now, self._ref, strict=True)]
        self._ref = start
        return moved

    def begin_again(self) -> Values:
        """The copy at the base, with nothing left of what went wrong."""
        self._left = self._nothing()
        self._ref = self._start()
        return self._ref

    def _start(self) -> Values:
        if self._gradients:
            return self.base
        return [value - left for value, left in zip(self.base, self._left.residual, strict=True)]

    def _deal_in(self, *, gradients: bool) -> None:
        if self._gradients != gradients:
            self._gradients = gradients
            self._left = self._nothing()

    def _nothing(self) -> Feedback:
        return Feedback.nothing([value.numel() for value in self.base])
