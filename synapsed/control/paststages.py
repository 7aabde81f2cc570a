"""The stages of an upgrade that is long over, read from the entries that opened and ended them."""

from collections.abc import Iterator

from protocols.errors import NotHeldError
from protocols.follow.history import History
from protocols.ledger import entries as e
from protocols.ledger.rollout import StageRecord
from protocols.ledger.state import Closed
from synapsed.control.pastview import MAX_LOOK, STEP

_STAGE = b"\xabclow"
_TICK = b"\xa2dkinddtick"
"""How the canonical encodings of these entries, and of few or no others, begin."""


class PastStages:
    """Run `steps` to its end, then read `stages`: the first shadow first."""

    def __init__(self, history: History, proposal: bytes, ended: Closed) -> None:
        """`ended` is how the vote on it ended."""
        self._history = history
        self._proposal = proposal
        self._closed, self._time = ended.closed, ended.closed_at
        self._opened: tuple[int, int, int] | None = None
        self.stages: list[StageRecord] = []
        self.event = ""
        """How the last one ended: settle, rollback or lapse."""
        self.reason = ""

    def steps(self) -> Iterator[None]:
        """Look."""
        last = min(self._history.head.index, self._closed + MAX_LOOK)
        for index in range(self._closed + 1, last + 1):
            if index % STEP == 0:
                yield
            try:
                payload = self._history.log.payload(index)
            except NotHeldError:
                continue
            if payload.startswith(_TICK):
                entry = e.decode_entry(payload).entry
                self._time = entry.time if isinstance(entry, e.Tick) else self._time
            elif payload.startswith(_STAGE) and self._take(payload, index):
                return

    def _take(self, payload: bytes, index: int) -> bool:
        """Whether that was the end."""
        entry = e.decode_entry(payload).entry
        if not isinstance(entry, e.StageEntry) or entry.proposal != self._proposal:
            return False
        if self._opened is not None:
            permille, at, opened_at = self._opened
            self.stages.append(
                StageRecord(
                    permille,
                    at,
                    opened_at,
                    self._time,
                    entry.low,
                    entry.high,
                    entry.reports,
                    entry.traps,
                )
            )
        self._opened = entry.permille, index, self._time
        if entry.event == "open":
            return False
        self.event, self.reason = entry.event, entry.reason
        return True
