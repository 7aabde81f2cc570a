"""A daemon with a council's log and a bare ledger: it follows, and votes while it has a seat.

What synapsed's Participant does for the real ledger, in the least that the log needs: it folds
what is ratified, makes a new `Replica` for each epoch in which it has a seat, fetches from peers
what it lacks, and asks to be seated under a new key when its disk was lost (rule 7).
"""

from collections.abc import Sequence

import libipld
import msgspec

from protocols.effects import Save, Send
from protocols.envelope import Sign, Verify
from protocols.ledger.chain import Head
from protocols.ledger.council import (
    BadCertificateError,
    Certificate,
    Instant,
    check_certificate,
    start_certificate,
)
from protocols.raft.messages import PROTOCOL
from protocols.raft.ports import (
    Alarm,
    Behind,
    Ratified,
    Ratify,
    Received,
    Settings,
    Start,
    Submitted,
)
from protocols.raft.replica import Replica
from simnet.virtual.bare import CANDIDATE, EPOCH, SUBMITTED, BareEntryError, BareLedger, BarePool
from simnet.virtual.disk import Disk

FOLLOW = "/bare/follow/1"
SUBMIT = "/bare/submit/1"
MOST_AT_ONCE = 256
"""Entries in one answer."""
POLL_S = 2.0
"""A daemon asks somebody for news as often."""


class Ask(msgspec.Struct, frozen=True, array_like=True, tag_field="t", tag=1):
    """For entries from an index on."""

    start: int


class Answer(msgspec.Struct, frozen=True, array_like=True, tag_field="t", tag=2):
    """Entries from `start` on, the last of which `certificate` covers."""

    start: int
    payloads: list[bytes]
    certificate: Certificate


def _pack(message: Ask | Answer) -> bytes:
    return bytes(libipld.encode_dag_cbor(msgspec.to_builtins(message, builtin_types=(bytes,))))


def _unpack(data: bytes) -> Ask | Answer:
    plain = libipld.decode_dag_cbor(data)
    message: Ask | Answer = msgspec.convert(plain, Ask | Answer, builtin_types=(bytes,))
    return message


class SeatKey(msgspec.Struct, frozen=True):
    """What a seat signs with."""

    public: bytes
    sign: Sign


class BareProgram:
    """The machine of one node."""

    def __init__(
        self,
        ledger: BareLedger,
        *,
        peer: bytes,
        key: SeatKey,
        verify: Verify,
        disk: Disk,
        settings: Settings,
        others: Sequence[bytes],
    ) -> None:
        self.ledger = ledger
        self.peer = peer
        self.key = key
        self.verify = verify
        self.disk = disk
        self.settings = settings
        self.others = list(others)
        """Everybody's peer id: whom to ask for news."""
        self.pool = BarePool(lambda: self.ledger, verify)
        self.replica: Replica | None = None
        self.certificate = start_certificate(ledger.council)
        self.certificates: dict[int, Certificate] = {}
        """By index: of the ends of epochs."""
        self.payloads: list[bytes] = [b""]
        self.hashes: list[bytes] = [ledger.head.hash]
        self._poll_at = 0.0
        self._wake: float | None = None
        self._asked = 0

    # -- what the checks look at ----------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The newest ratified entry."""
        return self.ledger.head

    def hash_at(self, index: int) -> bytes | None:
        """The chain hash of a ratified entry."""
        return self.hashes[index] if index < len(self.hashes) else None

    # -- events ---------------------------------------------------------------------------------

    def start(self, now: Instant) -> list[object]:
        """Fold what the disk has, and take the seat."""
        table = self.disk.table("ledger")
        rows = [value for _, value in table.items(b"e")]
        proofs = [value for _, value in table.items(b"c")]
        for value in (*proofs, table.get(b"h") or b""):
            at = self.head.index
            certificate = _certificate(value)
            if certificate is None or not at < certificate.said.index <= len(rows):
                continue
            if self._believe(rows[at : certificate.said.index], certificate) is None:
                break
        self._poll_at = now.mono + POLL_S
        return self._seat(now) + self._poll()

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> list[object]:
        """A message."""
        if protocol == PROTOCOL:
            seat = self.ledger.council.seat_of(peer)
            if self.replica is None or seat is None:
                return []
            return self._after(self.replica.handle(Received(seat, data), now), now)
        if protocol == SUBMIT:
            return self._add(data, now)
        message = _unpack(data)
        if isinstance(message, Ask):
            return self._answer(peer, message)
        return self._learn(peer, message, now)

    def heard(self, peer: bytes, kind: str, data: bytes, now: Instant) -> list[object]:
        """Nothing is gossiped here."""
        del peer, kind, data, now
        return []

    def linked(self, peer: bytes, up: bool, now: Instant) -> list[object]:
        """Nothing depends on connections here."""
        del peer, up, now
        return []

    def alarm(self, now: Instant) -> list[object]:
        """The replica's, or the next poll."""
        effects: list[object] = []
        if now.mono >= self._poll_at:
            self._poll_at = now.mono + POLL_S
            effects += self._poll()
        if self.replica is not None and self._wake is not None and self._wake <= now.mono:
            effects += self._after(self.replica.handle(Alarm(), now), now)
        return effects

    def wake_at(self) -> float | None:
        """The earlier of the two."""
        self._wake = self.replica.wake_at() if self.replica is not None else None
        return self._poll_at if self._wake is None else min(self._wake, self._poll_at)

    def propose(self, payload: bytes, now: Instant) -> list[object]:
        """What somebody submits here: to everybody, for each may come to lead."""
        sends: list[object] = [Send(peer, SUBMIT, payload) for peer in self.others]
        return self._add(payload, now) + sends

    # -- the seat -------------------------------------------------------------------------------

    def _seat(self, now: Instant) -> list[object]:
        council = self.ledger.council
        number = council.seat_of(self.peer)
        self.replica = None
        if number is None or council.seats[number].key != self.key.public:
            wish = CANDIDATE + self.peer + self.key.public
            if self.ledger.candidates.get(self.peer) != self.key.public:
                return self.propose(wish, now)
            return []
        self.replica = Replica(
            self.ledger.realm,
            council,
            number,
            self.key.sign,
            self.verify,
            ledger=self.ledger,
            ratified=self.certificate,
            pool=self.pool,
            settings=self.settings,
            saved=dict(self.disk.table("council").items()),
        )
        return self._after(self.replica.handle(Start(), now), now)

    def _after(self, effects: Sequence[object], now: Instant) -> list[object]:
        """Carry out what a replica asks of its owner."""
        done: list[object] = []
        before = self.ledger.epoch
        for effect in effects:
            if isinstance(effect, Ratify):
                done += self._fold(effect.payloads, effect.certificate)
            elif isinstance(effect, Behind):
                done.append(Send(effect.peer, FOLLOW, _pack(Ask(self.head.index + 1))))
            else:
                done.append(effect)
        if self.ledger.epoch != before:
            done += self._seat(now)
        return done

    def _add(self, payload: bytes, now: Instant) -> list[object]:
        if payload[:1] not in (SUBMITTED, CANDIDATE) or not self.pool.add(payload, now):
            return []
        if self.replica is None:
            return []
        return self._after(self.replica.handle(Submitted(), now), now)

    # -- the ratified ledger ----------------------------------------------------------------------

    def _fold(self, payloads: Sequence[bytes], certificate: Certificate) -> list[object]:
        done: list[object] = []
        for payload in payloads:
            self.ledger.apply(payload, self.verify)
            self.payloads.append(payload)
            self.hashes.append(self.head.hash)
            done.append(Save("ledger", b"e" + self.head.index.to_bytes(8, "big"), payload))
            if payload == EPOCH:
                self.certificates[self.head.index] = certificate
                key = b"c" + self.head.index.to_bytes(8, "big")
                done.append(Save("ledger", key, msgspec.msgpack.encode(certificate)))
        self.certificate = certificate
        self.pool.ratified()
        done.append(Save("ledger", b"h", msgspec.msgpack.encode(certificate)))
        return done

    def _believe(self, payloads: Sequence[bytes], certificate: Certificate) -> list[object] | None:
        """Fold them if their certificate, by the council of their epoch, covers them."""
        trial = self.ledger.copy()
        epoch = trial.epoch
        try:
            check_certificate(trial.realm, trial.council, certificate, self.verify)
            for payload in payloads:
                if trial.epoch != epoch:
                    return None
                trial.apply(payload, self.verify)
        except (BadCertificateError, BareEntryError):
            return None
        if not certificate.ratifies or trial.head != certificate.said.head:
            return None
        return self._fold(payloads, certificate)

    def _poll(self) -> list[object]:
        others = [peer for peer in self.others if peer != self.peer]
        if not others:
            return []
        self._asked += 1
        peer = others[self._asked % len(others)]
        return [Send(peer, FOLLOW, _pack(Ask(self.head.index + 1)))]

    def _answer(self, peer: bytes, ask: Ask) -> list[object]:
        if not 1 <= ask.start <= self.head.index:
            return []
        ends = (index for index in sorted(self.certificates) if index >= ask.start)
        upto = next(ends, self.head.index)
        certificate = self.certificates.get(upto, self.certificate)
        payloads = self.payloads[ask.start : upto + 1]
        return [Send(peer, FOLLOW, _pack(Answer(ask.start, payloads, certificate)))]

    def _learn(self, peer: bytes, answer: Answer, now: Instant) -> list[object]:
        skipped = self.head.index + 1 - answer.start
        if skipped < 0 or skipped >= len(answer.payloads):
            return []
        epoch = self.ledger.epoch
        payloads = answer.payloads[skipped:]
        done = self._believe(payloads, answer.certificate)
        if done is None:
            return []
        if self.ledger.epoch != epoch:
            done += self._seat(now)
        elif self.replica is not None:
            event = Ratified(payloads, answer.certificate)
            done += self._after(self.replica.handle(event, now), now)
        return [*done, Send(peer, FOLLOW, _pack(Ask(self.head.index + 1)))]


def _certificate(row: bytes) -> Certificate | None:
    try:
        return msgspec.msgpack.decode(row, type=Certificate)
    except msgspec.DecodeError:
        return None


def submitted(payload: bytes) -> bool:
    """Whether an entry is somebody's submission."""
    return payload[:1] == SUBMITTED
