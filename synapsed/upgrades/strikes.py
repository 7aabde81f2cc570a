"""When a module that fails is not tried again."""

from protocols.errors import SynapseError
from synapsed.jail.errors import JailDiedError, ModuleTrapError
from synapsed.upgrades.modules import Key

LIMIT = 3
"""Strikes that are too many: three calls that the module did not answer ..."""
DEATH = 2
"""... or two that took the worker with them; one may be the system's doing, short of memory."""
FORGIVEN = 1000
"""Calls answered in a row after which former strikes are forgotten: what fails so seldom costs an
occasional answer of the incumbent's, and the council hears of it in any case."""


def weight(error: SynapseError, module: bytes) -> int:
    """Strikes for one failed call; 0 where it was not the module's doing."""
    if isinstance(error, ModuleTrapError):
        return 1
    return DEATH if isinstance(error, JailDiedError) and error.module == module else 0


class Strikes:
    """Counted since the start; what is in quarantine, the memory keeps."""

    def __init__(self) -> None:
        self._counts: dict[Key, int] = {}
        self._good: dict[Key, int] = {}

    def add(self, key: Key, strikes: int) -> bool:
        """Whether these make too many."""
        self._good[key] = 0
        self._counts[key] = self._counts.get(key, 0) + strikes
        return self._counts[key] >= LIMIT

    def answered(self, key: Key) -> None:
        """It did its work."""
        if key not in self._counts:
            return
        self._good[key] += 1
        if self._good[key] >= FORGIVEN:
            self.forget(key)

    def forget(self, key: Key) -> None:
        """It begins anew."""
        self._counts.pop(key, None)
        self._good.pop(key, None)
