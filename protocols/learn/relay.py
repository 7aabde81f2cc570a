"""Rounds as an aggregator passes them on: verified, the newest of each group kept, watchers told.

An aggregator applies nothing. It knows a group's open round and base from the newest record, and
gives its learners what it has; whoever is further behind asks a replica.
"""

from collections.abc import Callable, Mapping, Sequence

from protocols.envelope import Verify
from protocols.learn.claims import BadClaimError, Record, check_record
from protocols.learn.following import Seating
from protocols.learn.messages import Ask, Mark, Records, Watch
from protocols.learn.primaries import Primaries
from protocols.learn.round_ports import MAX_WATCHERS, WATCH_MS, Release, Say
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


class Relays:
    """Of all groups: who watches them, and whom we watch for that."""

    def __init__(
        self,
        model: bytes,
        relays: Mapping[int, Relay],
        primaries: Primaries,
        nearest: Callable[[Sequence[bytes]], bytes | None],
    ) -> None:
        self._model = model
        self._relays = relays
        self._primaries = primaries
        self._nearest = nearest
        self.due = 0
        """When to ask again to be sent rounds, in ms; 0: nobody watches us."""

    def of(self, group: int) -> Relay | None:
        """One group's."""
        return self._relays.get(group)

    def turned(self, now_ms: int) -> list[Say]:
        """A new epoch: it has other replicas, who know nobody that watches."""
        asked = [
            Say(to, where)
            for group, relay in self._relays.items()
            if relay.watchers
            for to, where in self._primaries.ask(group)
        ]
        return [*asked, *self.watch(now_ms)]

    def hear(self, message: Records) -> list[Say | Release]:
        """Rounds: on to whoever watches. Raises BadClaimError."""
        relay = self._relays.get(message.group)
        if relay is None:
            return []
        new, gone = relay.hear(message)
        effects: list[Say | Release] = [Release(tuple(gone))] if gone else []
        for record in new:
            told = relay.message(record)
            effects += [Say(peer, told) for peer in relay.watchers if told is not None]
        return effects

    def watched(self, peer: bytes, message: Watch, now_ms: int) -> list[Say]:
        """Somebody wants to be sent rounds of these groups."""
        marks = {mark.group: mark.number for mark in message.marks}
        said: list[Say] = []
        began = False
        for group, relay in self._relays.items():
            if group not in marks:
                relay.watchers.pop(peer, None)
                continue
            behind = relay.number is not None and relay.number < marks[group]
            began = began or behind or not relay.watchers
            relay.watch(peer, now_ms)
            told = relay.since(marks[group])
            said += [] if told is None else [Say(peer, told)]
        return [*said, *self.watch(now_ms)] if began else said

    def watch(self, now_ms: int) -> list[Say]:
        """Be sent rounds ourselves, for whoever watches us: of each group by one replica."""
        self.due = now_ms + WATCH_MS // 3
        by: dict[bytes, list[Mark]] = {}
        for group, relay in self._relays.items():
            source = self._source(group, relay)
            if relay.watchers and source is not None:
                by.setdefault(source, []).append(Mark(group, relay.number or 0))
        if not by:
            self.due = 0
        return [Say(to, Watch(model=self._model, marks=tuple(it))) for to, it in by.items()]

    def _source(self, group: int, relay: Relay) -> bytes | None:
        """The nearest replica; the primary, where nothing came from there since we asked last."""
        near = self._nearest(self._primaries.replicas(group))
        here = -1 if relay.number is None else relay.number
        if near is None or relay.asked_at == here:
            near = self._primaries.of(group)
        relay.asked_at = here
        return near

    def asked(self, peer: bytes, message: Ask) -> list[Say]:
        """What is here from a round on."""
        relay = self._relays.get(message.group)
        told = None if relay is None else relay.since(message.number)
        return [] if told is None else [Say(peer, told)]

    def tick(self, now_ms: int) -> list[Say]:
        """Time passes."""
        for relay in self._relays.values():
            relay.expire(now_ms)
        return self.watch(now_ms) if 0 < self.due <= now_ms else []
