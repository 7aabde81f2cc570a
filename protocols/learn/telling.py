"""Records of one group at one replica: who is told of them, and what is answered to questions."""

from protocols.learn.claims import Record
from protocols.learn.endorsing import Endorsing, record_size
from protocols.learn.messages import MAX_RECORDS, RECORDS_BYTES, Records, Watch
from protocols.learn.round_ports import MAX_WATCHERS, WATCH_MS, Say
from protocols.learn.roundlog import RoundLog


class Telling:
    """Watchers, and messages of records."""

    def __init__(self, model: bytes, log: RoundLog, endorsing: Endorsing) -> None:
        self._model = model
        self._log = log
        self._endorsing = endorsing
        self.oldest = 0
        """The first round whose result is still on our disk."""
        self.watchers: dict[bytes, int] = {}
        """Until when, by peer."""

    def watch(self, peer: bytes, message: Watch, now_ms: int) -> list[Say]:
        """Somebody wants rounds from now on; first those that he lacks."""
        marks = {mark.group: mark.number for mark in message.marks}
        number = marks.get(self._log.group)
        self.watchers.pop(peer, None)
        if number is None:
            return []
        while len(self.watchers) >= MAX_WATCHERS:
            del self.watchers[next(iter(self.watchers))]
        self.watchers[peer] = now_ms + WATCH_MS
        # An answer without records, too: it says which round is open.
        return [Say(peer, self.records(number))]

    def expire(self, now_ms: int) -> None:
        """Forget who watches no longer."""
        for peer in [it for it, until in self.watchers.items() if until <= now_ms]:
            del self.watchers[peer]

    def tell(self, number: int) -> list[Say]:
        """Everybody who watches, of one round."""
        message = self.records(number, most=1)
        return [Say(peer, message) for peer in self.watchers]

    def records(self, number: int, most: int = MAX_RECORDS) -> Records:
        """Those from a round on, as many as go into one message."""
        records: list[Record] = []
        size = 0
        number = max(number, self.oldest)
        while len(records) < most and number < self._log.number:
            record = self._endorsing.record(number)
            if record is None:
                break
            size += record_size(record)
            if records and size > RECORDS_BYTES:
                break
            records.append(record)
            number += 1
        return Records(
            model=self._model,
            group=self._log.group,
            oldest=self.oldest,
            number=self._log.number,
            base=self._log.head,
            records=tuple(records),
        )
