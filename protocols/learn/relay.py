"""Rounds as an aggregator passes them on: verified, the newest of each group kept, watchers told.

An aggregator applies nothing. It knows a group's open round and base from the newest record, and
gives its learners what it has; whoever is further behind asks a replica.
"""

from protocols.envelope import Verify
from protocols.learn.claims import BadClaimError, Record, check_record
from protocols.learn.following import Seating
from protocols.learn.messages import Records
from protocols.learn.round_ports import MAX_WATCHERS, WATCH_MS
from protocols.realm import Realm

KEPT = 8
"""Records of a group, and with them results on disk: learners that are further behind were away."""
MAX_JUMP = 1 << 20
"""Rounds ahead of what we have that a hint may claim."""


class Relay:
    """Of one group."""

    def __init__(self, model: bytes, group: int, realm: Realm, seats: Seating, verify: Verify):
        self._model = model
        self._group = group
        self._realm = realm
        self._seats = seats
        self._verify = verify
        self._records: dict[int, Record] = {}
        self.asked_at: int | None = None
        """The open round when we last asked to be sent rounds; -1: none was known."""
        self.watchers: dict[bytes, int] = {}
        """Until when, by peer."""

    @property
    def number(self) -> int | None:
        """The open round; None where no record is known."""
        return max(self._records) + 1 if self._records else None

    @property
    def base(self) -> bytes | None:
        """Of the open round."""
        return self._records[max(self._records)].round.head if self._records else None

    def hear(self, message: Records) -> tuple[list[Record], list[bytes]]:
        """New records, and results that are kept no longer. Raises BadClaimError."""
        new: list[Record] = []
        floor = min(self._records, default=0)
        for record in message.records:
            decided = record.round
            if decided.number in self._records or decided.number < floor:
                continue
            if decided.model != self._model or decided.group != self._group:
                raise BadClaimError("a record of another group than its message is about")
            replicas = self._seats(self._group, decided.epoch)
            if not replicas:
                break  # an epoch that the ledger has not brought here yet: it is asked for again
            check_record(self._realm, record, replicas, self._verify)
            self._records[decided.number] = record
            new.append(record)
        gone: list[bytes] = []
        while len(self._records) > KEPT:
            gone.append(self._records.pop(min(self._records)).round.result)
        return [record for record in new if record.round.number in self._records], gone

    def watch(self, peer: bytes, now_ms: int) -> None:
        """Tell `peer` of what comes."""
        self.watchers.pop(peer, None)
        while len(self.watchers) >= MAX_WATCHERS:
            del self.watchers[next(iter(self.watchers))]
        self.watchers[peer] = now_ms + WATCH_MS

    def expire(self, now_ms: int) -> None:
        """Forget who watches no longer."""
        for peer in [it for it, until in self.watchers.items() if until <= now_ms]:
            del self.watchers[peer]

    def since(self, number: int) -> Records | None:
        """What is here from that round on; None where no record is known."""
        records = tuple(self._records[at] for at in sorted(self._records) if at >= number)
        return self._message(records)

    def message(self, record: Record) -> Records | None:
        """One, for the watchers."""
        return self._message((record,))

    def _message(self, records: tuple[Record, ...]) -> Records | None:
        if self.number is None or self.base is None:
            return None
        return Records(
            model=self._model,
            group=self._group,
            oldest=0,  # what is not here, replicas have
            number=self.number,
            base=self.base,
            records=records,
        )
