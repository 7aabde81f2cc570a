"""What one seat of a council has signed: the only place where its key is used.

Rules of this file, each with its number in the council's rules (docs/council.md):
1. (rule 1, one chain a term) An ack extends the previous ack of its term; Jolteon's voting rule
   "round > last voted" allows one vote a round, here many, all on one chain (Raft's).
2. (rule 2, floor) No ack in a term below the place where the term opened.
3. (rule 3, time-out) After a time-out for term t nothing is signed in a term below t. Jolteon
   section 3.2, PBFT section 4.4 (view change: "stops accepting messages").
4. (rule 4) A certificate-ack only for a certificate of the current term.
5. (rule 7, lost state) A seat whose state is missing, damaged or another key's signs nothing.
6. What is signed is saved first. `Save` goes out before the caller can send the signature.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

import libipld
import msgspec

from protocols.codec import decode_plain
from protocols.effects import Effect, Save
from protocols.envelope import Sign
from protocols.errors import MalformedError
from protocols.ledger.chain import Hash, Head, Index
from protocols.ledger.council import (
    Certificate,
    Council,
    Kind,
    Opening,
    PublicKey,
    SignedTimeOut,
    Statement,
    Term,
    TimeOut,
    signed_bytes,
    start_certificate,
)
from protocols.raft.ports import TABLE
from protocols.realm import Realm
from protocols.records import guarded, unguarded

STATE = b"state"
OPENING = b"opening"
VERSION = 1
MAX_WHY = 200
"""Characters of the reason why a seat's state is lost."""


class Acked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The highest ack of the highest term in which there is one."""

    term: Term
    index: Index
    hash: Hash

    @property
    def head(self) -> Head:
        """The place that it speaks of."""
        return Head(self.index, self.hash)


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a seat must remember. Of an epoch that is over it means: nothing signed since."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    key: PublicKey
    """The seat's: a record of another key is none."""
    epoch: Index
    acked: Acked | None
    high: Certificate | None
    time_out: SignedTimeOut | None
    lost: Annotated[str, msgspec.Meta(max_length=MAX_WHY)]
    """Why this key signs nothing any more (rule 5), if so."""


def _pack(key: bytes, value: Record | Opening) -> Save:
    plain = libipld.encode_dag_cbor(msgspec.to_builtins(value, builtin_types=(bytes,)))
    return Save(TABLE, key, guarded(TABLE, key, plain))


def _unpack(key: bytes, record: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Raises MalformedError."""
    plain = decode_plain(unguarded(TABLE, key, record))
    try:
        return msgspec.convert(plain, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedError(f"not a seat's state: {error}") from error


def blank_state(key: bytes) -> Save:
    """What is saved together with a new seat key: it has signed nothing yet. A seat without any
    record has lost its state (rule 7)."""
    return _pack(STATE, Record(VERSION, key, 0, None, None, None, ""))


def opening_record(opening: Opening) -> Save:
    """How the current term opened: it proves itself, and is sent to whoever is behind."""
    return _pack(OPENING, opening)


def saved_opening(saved: Mapping[bytes, bytes], epoch: int) -> Opening | None:
    """The opening of this epoch that was saved last, unchecked; None also where it is damaged:
    others have it, and the seat's state does not depend on it."""
    record = saved.get(OPENING)
    if record is None:
        return None
    try:
        opening = _unpack(OPENING, record, Opening)
    except MalformedError:
        return None
    return opening if isinstance(opening, Opening) and opening.epoch == epoch else None


class Vows:
    """What this seat has signed, and whether it may sign something more."""

    def __init__(
        self,
        realm: Realm,
        council: Council,
        seat: int,
        sign: Sign,
        emit: Callable[[Effect], None],
    ) -> None:
        self._realm = realm
        self._council = council
        self._seat = seat
        self._key = council.seats[seat].key
        self._sign = sign
        self._emit = emit
        self.acked: Acked | None = None
        self.high = start_certificate(council)
        """The highest certificate whose entries are held and saved."""
        self.time_out: SignedTimeOut | None = None
        self.lost = ""
        """Why nothing is signed any more, if so."""
        self._acks: tuple[Statement, bytes] | None = None

    def load(self, saved: Mapping[bytes, bytes]) -> None:
        """Remember. Rule 7: who cannot, signs nothing in this epoch, or with this key."""
        record = saved.get(STATE)
        if record is None:
            self.lost = "missing"
            return
        try:
            state = _unpack(STATE, record, Record)
        except MalformedError as error:
            self.lost = str(error)
            return
        if not isinstance(state, Record) or state.key != self._key:
            self.lost = "it belongs to another key of this seat"
        elif state.lost:
            self.lost = state.lost
        elif state.epoch > self._council.epoch:
            self.lost = f"it is of a later epoch, {state.epoch}"
        elif state.epoch == self._council.epoch:
            self.acked, self.time_out = state.acked, state.time_out
            if state.high is not None:
                self.high = state.high

    def _save(self) -> None:
        if self.lost:
            return  # what the disk still has may say why; nothing replaces it
        epoch = self._council.epoch
        state = (epoch, self.acked, self.high, self.time_out)
        self._emit(_pack(STATE, Record(VERSION, self._key, *state, "")))

    def lose(self, why: str) -> None:
        """Rule 5: this disk has forgotten something. Under this key nothing is signed again."""
        if not self.lost:
            self.lost = why[:MAX_WHY]
            epoch = self._council.epoch
            state = (epoch, self.acked, self.high, self.time_out)
            self._emit(_pack(STATE, Record(VERSION, self._key, *state, self.lost)))

    def _signed(self, said: Statement | TimeOut) -> bytes:
        return self._sign(signed_bytes(self._realm, said))

    @property
    def term(self) -> int:
        """The highest term that this seat has signed in, or for."""
        acked = 0 if self.acked is None else self.acked.term
        return max(acked, 0 if self.time_out is None else self.time_out.said.term)

    def acked_in(self, term: int) -> Head | None:
        """The highest ack of that term."""
        return self.acked.head if self.acked is not None and self.acked.term == term else None

    def last_ack(self, term: int) -> tuple[Statement, bytes] | None:
        """The highest ack of `term`, to send again."""
        acked = self.acked
        if acked is None or acked.term != term or self.lost:
            return None
        if self._acks is None or self._acks[0].head != acked.head:
            epoch = self._council.epoch
            said = Statement(Kind.ACK, epoch, term, acked.index, acked.hash)
            self._acks = (said, self._signed(said))
        return self._acks

    def repeat(self, term: int, head: Head) -> bytes | None:
        """The signature of an ack at or below the last of `term`, on the same chain."""
        acked = self.acked_in(term)
        if self.lost or acked is None or head.index > acked.index:
            return None
        epoch = self._council.epoch
        return self._signed(Statement(Kind.ACK, epoch, term, head.index, head.hash))

    def ack(
        self, term: int, head: Head, floor: Head, extends: Callable[[Head], bool]
    ) -> tuple[Statement, bytes] | None:
        """Acknowledge `head`, whose entries are saved; None where a rule forbids it.

        `extends` tells whether a place is on the chain that ends at `head`.
        """
        before = self.acked_in(term)
        if self.lost or term < self.term or head.index < floor.index or not extends(floor):
            return None  # rules 7, 3, 2
        if before is not None:
            if head.index < before.index or not extends(before):
                return None  # rule 1
            if head == before:
                return self.last_ack(term)
        said = Statement(Kind.ACK, self._council.epoch, term, head.index, head.hash)
        self.acked = Acked(term, head.index, head.hash)
        self._save()
        self._acks = (said, self._signed(said))
        return self._acks

    def adopt(self, certificate: Certificate) -> None:
        """Hold a higher certificate, whose entries are saved: it is what a time-out names."""
        self.high = certificate
        self._save()

    def certificate_ack(
        self, certificate: Certificate, term: int
    ) -> tuple[Statement, bytes] | None:
        """Acknowledge a certificate that is held: the lock of HotStuff and of PBFT's "prepared".

        None where a rule forbids it.
        """
        said = certificate.said
        if self.lost or said.term != term or term < self.term or self.high.rank < certificate.rank:
            return None  # rules 7, 4, 3, and a lock that is not held is none
        answer = Statement(Kind.CERTIFICATE_ACK, said.epoch, term, said.index, said.hash)
        return answer, self._signed(answer)

    def sign_time_out(self, term: int) -> SignedTimeOut | None:
        """Rule 3: nothing more in a term below `term`; None where it was signed before."""
        if self.lost or term <= self.term:
            return None
        high = self.high.said
        said = TimeOut(self._council.epoch, term, high.term, high.index, high.hash)
        self.time_out = SignedTimeOut(self._seat, said, self._signed(said))
        self._save()
        return self.time_out
