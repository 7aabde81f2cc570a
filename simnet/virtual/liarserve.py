"""Members that lie to whoever leads, and to everybody.

withholder   keeps most of its acknowledgements to itself
yes-man      signs everything that it is shown: every branch, every certificate, every term,
             and time-outs that name the lowest certificate
forger       changes certificates, openings and frames that it passes on
replayer     sends what it heard or said earlier, to anybody, again
hasty        suspects every leader at once, and times out for terms far ahead
whisperer    submits to everybody but the leader, who so seems to leave things out
boaster      says that it has ratified what nobody ever will
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from protocols.effects import Publish, Send
from protocols.follow import messages as followmessages
from protocols.follow.messages import HEADS, Status
from protocols.ledger.chain import payload_hash
from protocols.ledger.council import (
    Certificate,
    Instant,
    Kind,
    SignedTimeOut,
    Statement,
    TimeOut,
    start_certificate,
)
from protocols.raft.messages import (
    PROTOCOL,
    Append,
    Certified,
    Message,
    Opened,
    Signed,
    Suspicion,
    TimedOut,
    pack,
    unpack,
)
from simnet.virtual.kits import Kit
from simnet.virtual.liar import REMEMBERED, Heard, Liar, branch, read
from simnet.virtual.node import Node


class Withholder(Liar):
    """Keeps most acknowledgements to itself."""

    def twist(self, send: Send) -> list[object]:
        message, _ = unpack(send.data)
        if isinstance(message, Signed) and self.rng.random() < 0.8:
            self.count("withhold")
            return []
        return [send]


class YesMan(Liar):
    """Signs everything."""

    def __init__(self, node: Node, kit: Kit) -> None:
        super().__init__(node, kit)
        self._hashes: dict[bytes, dict[int, bytes]] = {}
        """Of each place that it has seen, the places before it, as far as it knows."""
        self._timed: set[int] = set()

    def hears(self, heard: Heard) -> list[object]:
        message, payloads = read(heard.data)
        if isinstance(message, Append):
            return self._ack(heard.peer, message, payloads)
        if isinstance(message, Certified) and not message.certificate.ratifies:
            said = message.certificate.said
            yes = Statement(Kind.CERTIFICATE_ACK, said.epoch, said.term, said.index, said.hash)
            self.count("double-sign")
            return [self.says(member, Signed(yes, self.sign(yes))) for member in self.members]
        if isinstance(message, TimedOut):
            return self._time_out(message.signed.said.term)
        return []

    def _ack(self, peer: bytes, append: Append, payloads: list[bytes]) -> list[object]:
        log = self.log
        known = self._hashes.get(append.prev.hash, {})

        def hash_at(index: int) -> bytes | None:
            found = known.get(index)
            return found if found is not None else log.hash_at(index)

        places = dict(known)
        at = append.prev
        for payload in payloads:
            after = branch(self.network, append.epoch, at, [payload], hash_at)
            if after is None:
                return []
            places[at.index] = at.hash
            at = after
        if len(self._hashes) < 16 * REMEMBERED:
            self._hashes[at.hash] = places
        said = Statement(Kind.ACK, append.epoch, append.term, at.index, at.hash)
        self.count("double-sign")
        return [self.says(peer, Signed(said, self.sign(said)))]

    def _time_out(self, term: int) -> list[object]:
        if term in self._timed:
            return []
        self._timed.add(term)
        council = self.daemon.ledger.council
        lowest = start_certificate(council)
        said = TimeOut(council.epoch, term, 0, lowest.said.index, lowest.said.hash)
        seat = council.seat_of(self.node.key.peer)
        signed = SignedTimeOut(seat, said, self.sign(said))
        return [self.says(member, TimedOut(signed, lowest)) for member in self.members]


class Forger(Liar):
    """Adds a forged copy to what it sends."""

    def __init__(self, node: Node, kit: Kit) -> None:
        super().__init__(node, kit)
        self._certificates: list[Certificate] = []

    def hears(self, heard: Heard) -> list[object]:
        message, _ = read(heard.data)
        if isinstance(message, Certified):
            self._keep(message.certificate)
            return self._forge(heard.peer, message, ())
        if isinstance(message, Opened):
            return self._forge(heard.peer, message, ())
        return []

    def twist(self, send: Send) -> list[object]:
        message, payloads = unpack(send.data)
        if isinstance(message, Certified):
            self._keep(message.certificate)
        return [send, *self._forge(send.peer, message, payloads)]

    def _keep(self, certificate: Certificate) -> None:
        self._certificates.append(certificate)
        del self._certificates[:-REMEMBERED]

    def _forge(self, peer: bytes, message: Message, parts: Sequence[bytes]) -> list[object]:
        if self.rng.random() > 0.3:
            return []
        self.count("forge")
        target = self.rng.choice([peer, *self.members])
        if isinstance(message, Certified):
            return [self.says(target, Certified(self._false(message.certificate)))]
        if isinstance(message, Opened):
            return [self.says(target, Opened(self._low(message.opening)))]
        if isinstance(message, Signed):
            said = msgspec.structs.replace(message.said, term=message.said.term + 1)
            return [self.says(target, Signed(said, message.signature))]
        frame = bytearray(pack(message, parts))
        frame[self.rng.randrange(len(frame))] ^= 1 << self.rng.randrange(8)
        return [Send(target, PROTOCOL, bytes(frame))]

    def _false(self, certificate: Certificate) -> Certificate:
        said, seats, signatures = certificate.said, certificate.seats, certificate.signatures
        other = Kind.ACK if certificate.ratifies else Kind.CERTIFICATE_ACK
        lies: list[Callable[[], Certificate]] = [
            lambda: Certificate(msgspec.structs.replace(said, kind=other), seats, signatures),
            lambda: Certificate(
                msgspec.structs.replace(said, term=said.term + 1), seats, signatures
            ),
            lambda: Certificate(
                msgspec.structs.replace(said, index=said.index + 1), seats, signatures
            ),
            lambda: Certificate(
                msgspec.structs.replace(said, epoch=said.epoch + 1), seats, signatures
            ),
            lambda: Certificate(said, seats[:-1], signatures[:-1]),
            lambda: self._mine(said),
        ]
        return self.rng.choice(lies)()

    def _mine(self, said: Statement) -> Certificate:
        """Everybody's seat, and its own signature for each, of a hash that nobody saw."""
        lie = msgspec.structs.replace(said, hash=payload_hash(said.hash))
        count = len(self.daemon.ledger.council.seats)
        return Certificate(lie, list(range(count)), [self.sign(lie)] * count)

    def _low(self, opening: Any) -> Any:
        """An opening that begins lower than its time-outs say, or with fewer of them."""
        lower = [c for c in self._certificates if c.rank < opening.certificate.rank]
        if lower and self.rng.random() < 0.7:
            return msgspec.structs.replace(opening, certificate=self.rng.choice(lower))
        return msgspec.structs.replace(opening, time_outs=opening.time_outs[:-1])


class Replayer(Liar):
    """Says again what was said before."""

    def __init__(self, node: Node, kit: Kit) -> None:
        super().__init__(node, kit)
        self._frames: list[bytes] = []

    def hears(self, heard: Heard) -> list[object]:
        self._keep(heard.data)
        return self._again()

    def twist(self, send: Send) -> list[object]:
        self._keep(send.data)
        return [send, *self._again()]

    def _keep(self, frame: bytes) -> None:
        if len(self._frames) < REMEMBERED:
            self._frames.append(frame)
        else:
            self._frames[self.rng.randrange(REMEMBERED)] = frame

    def _again(self) -> list[object]:
        if self.rng.random() > 0.3 or not self.members:
            return []
        self.count("liar-replay")
        return [Send(self.rng.choice(self.members), PROTOCOL, self.rng.choice(self._frames))]


class Hasty(Liar):
    """Cannot wait."""

    def twist(self, send: Send) -> list[object]:
        if self.rng.random() > 0.2:
            return [send]
        self.count("hasty")
        replica, council = self.daemon.replica, self.daemon.ledger.council
        ahead = self.rng.choice((0, 1, 2, 5, 1 << 40, (1 << 63) - 1 - replica.term))
        suspicion = Suspicion(council.epoch, replica.term, replica.ratified.index)
        lowest = start_certificate(council)
        said = TimeOut(council.epoch, replica.term + ahead, 0, lowest.said.index, lowest.said.hash)
        seat = council.seat_of(self.node.key.peer)
        signed = SignedTimeOut(seat, said, self.sign(said))
        target = self.rng.choice(self.members)
        early = [self.says(target, suspicion), self.says(target, TimedOut(signed, lowest))]
        return [send, *early]


class Now(Liar):
    """Does something every `EVERY_S`, beside what its daemon does."""

    EVERY_S = 1.0

    def __init__(self, node: Node, kit: Kit) -> None:
        super().__init__(node, kit)
        self._at = 0.0

    def alarm(self, now: Instant) -> Sequence[object]:
        effects = list(super().alarm(now))
        if now.mono >= self._at:
            self._at = now.mono + self.EVERY_S
            effects += self.does()
        return effects

    def wake_at(self) -> float | None:
        wake = super().wake_at()
        return self._at if wake is None else min(wake, self._at)

    def does(self) -> list[object]:
        """What it adds."""
        return []


class Whisperer(Now):
    """Submits to everybody but the leader."""

    EVERY_S = 0.7

    def does(self) -> list[object]:
        leading = self.daemon.leading()
        whispered = self.daemon.whisper(self.now)
        if leading is None or leading == self.node.key.peer or whispered is None:
            return []
        self.count("whisper")
        protocol, data = whispered
        return [Send(peer, protocol, data) for peer in self.members if peer != leading]


class Flooder(Now):
    """Submits more in a minute than it may in a day, to every member."""

    EVERY_S = 6.0
    AT_ONCE = 40

    def does(self) -> list[object]:
        whispered = [self.daemon.whisper(self.now) for _ in range(self.AT_ONCE)]
        self.count("flood")
        return [Send(peer, *one) for peer in self.members for one in whispered if one is not None]


class Boaster(Now):
    """Says that it has what nobody has."""

    def does(self) -> list[object]:
        ledger = self.daemon.ledger
        if not hasattr(ledger, "genesis"):
            return []  # the bare ledger's followers hear of no heads
        self.count("boast")
        index = ledger.head.index + self.rng.choice((5, 1 << 40))
        epoch = ledger.epoch + self.rng.choice((0, 1))
        said = Statement(Kind.CERTIFICATE_ACK, epoch, 1, index, payload_hash(b"nothing"))
        seats = list(range(ledger.council.quorum))
        false = Certificate(said, seats, [self.sign(said)] * len(seats))
        status = Status(network=self.network, genesis=ledger.genesis, base=0, certificate=false)
        frame = followmessages.frame(status)
        sends: list[object] = [Send(p, followmessages.PROTOCOL, frame) for p in self.members]
        return [Publish(HEADS, frame), *sends]
