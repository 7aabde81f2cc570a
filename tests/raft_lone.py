"""One Replica, told what a test writes: the council's rules, scripted one by one."""

from collections.abc import Sequence
from typing import TypeVar

from protocols.effects import Save, Send
from protocols.ledger.chain import Head, chain_hash
from protocols.ledger.council import Certificate, Council, Instant, Kind, Opening, Statement
from protocols.raft.messages import Append, Fetched, Message, Opened, Signed, pack, unpack
from protocols.raft.ports import Alarm, Event, Ratify, Received, Start
from protocols.raft.replica import Replica
from protocols.raft.state import blank_state
from tests.gossip_kit import mac_verify
from tests.raft_kit import (
    NETWORK,
    REALM,
    SETTINGS,
    UNIX,
    ToyLedger,
    ToyPool,
    make_council,
    sign_statement,
    sign_time_out,
    signer,
)

M = TypeVar("M")
E = TypeVar("E")


class Lone:
    """One Replica, told what a test writes, by others whose keys the test holds, too."""

    def __init__(
        self,
        seat: int,
        members: int = 4,
        *,
        council: Council | None = None,
        disk: dict[bytes, bytes] | None = None,
        ledger: ToyLedger | None = None,
        certificate: Certificate | None = None,
        start: bool = True,
    ) -> None:
        self.council = council or make_council(members)
        self.seat = seat
        save = blank_state(self.council.seats[seat].key)
        self.disk = {save.key: save.value or b""} if disk is None else disk
        self.ledger = ledger or ToyLedger()
        self.pool = ToyPool()
        self.now = 100.0
        self.effects: list[object] = []
        """Of the last event."""
        self.replica = Replica(
            REALM,
            self.council,
            seat,
            signer(seat),
            mac_verify,
            ledger=self.ledger,
            ratified=certificate,
            pool=self.pool,
            settings=SETTINGS,
            saved=dict(self.disk),
        )
        if start:
            self.handle(Start())

    @property
    def unix_ms(self) -> int:
        return UNIX + int(self.now * 1000)

    def handle(self, event: Event) -> list[object]:
        self.effects = list(self.replica.handle(event, Instant(self.now, self.unix_ms)))
        for effect in self.effects:
            match effect:
                case Save(_, key, None):
                    self.disk.pop(key, None)
                case Save(_, key, value):
                    assert value is not None
                    self.disk[key] = value
                case Ratify(payloads, _, _):
                    for payload in payloads:
                        self.ledger.apply(payload, mac_verify)
        return self.effects

    def hear(self, sender: int, message: Message, parts: Sequence[bytes] = ()) -> list[object]:
        return self.handle(Received(sender, pack(message, parts)))

    def wait(self, seconds: float) -> list[object]:
        """Let time pass, with the alarms that were asked for; all effects of it."""
        end, found = self.now + seconds, []
        while (wake := self.replica.wake_at()) is not None and wake <= end:
            self.now = max(self.now, wake)
            found += self.handle(Alarm())
        self.now = end
        self.effects = found
        return found

    def restart(self) -> "Lone":
        """Another daemon on the same disk."""
        other = Lone(
            self.seat,
            council=self.council,
            disk=self.disk,
            ledger=self.ledger.copy(),
            start=False,
        )
        other.now = self.now
        other.handle(Start())
        return other

    def sent(self, kind: type[M]) -> list[tuple[int, M]]:
        """The messages of one kind among the last effects, with who gets them."""
        return [
            (self.council.seat_of(effect.peer) or 0, message)
            for effect in self.effects
            if isinstance(effect, Send)
            for message in [unpack(effect.data)[0]]
            if isinstance(message, kind)
        ]

    def signed(self, kind: Kind) -> list[Statement]:
        """What the last effects sent out that is signed, each once."""
        said = [message.said for _, message in self.sent(Signed) if message.said.kind is kind]
        return list(dict.fromkeys(said))

    def of(self, kind: type[E]) -> list[E]:
        """The last effects of one kind."""
        return [effect for effect in self.effects if isinstance(effect, kind)]


class Chain:
    """Entries on top of a ledger, for what a test's other members say."""

    def __init__(self, *payloads: bytes, after: "Chain | None" = None) -> None:
        self.ledger: ToyLedger = ToyLedger() if after is None else after.ledger.copy()
        self.prev = self.ledger.head
        self.payloads = list(payloads)
        self.headers = [self.ledger.apply(payload, mac_verify) for payload in payloads]
        self.heads = [Head(header.index, chain_hash(NETWORK, header)) for header in self.headers]

    @property
    def head(self) -> Head:
        return self.ledger.head

    def append(self, council: Council, term: int) -> tuple[Append, list[bytes]]:
        """The batch of these entries, by the term's leader."""
        leader = council.leader(term)
        _, signature = sign_statement(council, leader, Kind.ACK, term, self.head)
        lengths = [len(payload) for payload in self.payloads]
        return Append(council.epoch, term, self.prev, signature, lengths), self.payloads

    def fetched(self, council: Council) -> tuple[Fetched, list[bytes]]:
        """These entries as an answer to a Fetch."""
        lengths = [len(payload) for payload in reversed(self.payloads)]
        message = Fetched(council.epoch, self.headers[::-1], lengths)
        return message, self.payloads[::-1]


def opening(
    council: Council,
    term: int,
    high: Certificate,
    seats: Sequence[int],
    named: Certificate | None = None,
) -> Opened:
    """A term's opening at `high`, with time-outs of `seats` that name `named`."""
    time_outs = [sign_time_out(council, seat, term, named or high) for seat in sorted(seats)]
    return Opened(Opening(council.epoch, term, high, time_outs))
