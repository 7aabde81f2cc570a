"""The ledger: a chain of entries, and the state that is their fold.

`check` says whether bytes may be the next entry, and depends on nothing but the ledger before
them: no clock, no configuration, no opinion. `apply` folds them in. Two daemons with the same
entries have the same state, to the byte; `digest` shows it. Whether a tick is near this daemon's
own clock is not validity: `timely` says that, and a member asks it before it acknowledges.

All arithmetic is on integers. Time is that of the last tick.
"""

import hashlib

import msgspec

from protocols.envelope import Verify
from protocols.ledger import submissions, system, votes
from protocols.ledger.chain import Head, Header, Spine
from protocols.ledger.codec import decode_state, encode_state
from protocols.ledger.election import ranking
from protocols.ledger.entries import (
    Approval,
    Entry,
    EpochEntry,
    Genesis,
    Submission,
    Tick,
    Vote,
    Votes,
    decode_entry,
    decode_waiting,
    encode_entry,
)
from protocols.ledger.errors import InvalidEntryError, WrongGenesisError
from protocols.ledger.genesis import begin, read_genesis
from protocols.ledger.state import State

MAX_KNOWN, KNOWN_BYTES = 2048, 2048
"""Entries that copies have applied and that are not ratified yet: some pipelines of batches; and
the largest of them, so that a lying leader makes nobody keep more than 10 MB."""
MAX_DUE = 64
"""System entries that one call of `due` yields: the next call has the rest."""
MAX_TICK = 32
"""Bytes: every other kind has a hash or a signature, and is longer."""


class Checked(msgspec.Struct, frozen=True):
    """An entry that may follow the head that it was checked against."""

    before: Head
    payload: bytes
    entry: Entry
    name: bytes
    """A submission's id; empty for other kinds."""


def one_by_one(verify: Verify) -> votes.VerifyMany:
    """Checks many signatures with what checks one."""
    return lambda signed: all(verify(key, message, sig) for key, message, sig in signed)


def _no_signatures(_: bytes, __: bytes, ___: bytes) -> bool:
    return False


class LedgerState(State):
    """What a ledger says, up to its head."""

    __slots__ = ()

    @classmethod
    def from_genesis(cls, network: str, payload: bytes) -> "LedgerState":
        """The state that a genesis entry leaves. Raises GenesisError, WrongGenesisError."""
        genesis = read_genesis(payload)
        if genesis.network != network:
            raise WrongGenesisError(f"the genesis of network {genesis.network!r}, not {network!r}")
        state = cls()
        begin(state, genesis, payload)
        return state

    # -- the fold --

    def check(
        self, payload: bytes, verify: Verify, verify_many: votes.VerifyMany | None = None
    ) -> Checked:
        """The next entry, if these bytes may be it. Raises an InvalidEntryError otherwise.

        `verify_many` checks a batch of votes at once; without it they go through `verify`.
        """
        decoded = decode_entry(payload)
        entry = decoded.entry
        name = b""
        if type(entry) is Submission:
            name = submissions.check(self, entry, decoded.signed, verify)
        elif type(entry) is Votes:
            votes.check_votes(self, entry, verify_many or one_by_one(verify))
        elif type(entry) is Approval:
            votes.check_approval(self, entry, verify)
        elif type(entry) is Genesis:
            raise WrongGenesisError("a second genesis entry")
        else:
            assert not isinstance(entry, Submission | Votes | Approval | Genesis | Vote)
            system.check(self, entry, self.digest)
        assert not isinstance(entry, Vote)
        return Checked(self.head, payload, entry, name)

    def fold(self, checked: Checked) -> Header:
        """Take a checked entry in; its header. It must have been checked against this head."""
        if checked.before != self.head:
            raise ValueError(
                f"checked after index {checked.before.index}, not after {self.head.index}"
            )
        header = self.spine.next_header(self.epoch, checked.payload)
        return self._take_in(checked, header, self.spine.extended(self.network, header))

    def _take_in(self, checked: Checked, header: Header, spine: Spine) -> Header:
        entry = checked.entry
        self.spine = spine
        self._digest = None
        if type(entry) is Submission:
            submissions.fold(self, entry, checked.name, header.index)
        elif type(entry) is Votes:
            votes.fold_votes(self, entry)
        elif type(entry) is Approval:
            votes.fold_approval(self, entry, header.index)
        elif type(entry) is EpochEntry:
            system.fold_epoch(self, entry, self.head)
        else:
            assert not isinstance(entry, Submission | Votes | Approval | Genesis)
            system.fold(self, entry, header.index)
        return header

    def apply(
        self, payload: bytes, verify: Verify, verify_many: votes.VerifyMany | None = None
    ) -> Header:
        """Check the next entry and take it in; its header. Where it raises, nothing has changed."""
        before = self.head.hash
        checked = self.check(payload, verify, verify_many)
        header = self.fold(checked)
        if len(payload) <= KNOWN_BYTES:
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[before, payload] = (checked, header, self.spine)
        return header

    def apply_again(self, payload: bytes, verify: Verify) -> Header:
        """`apply`, where whoever calls knows that all signatures are good.

        A member folds each entry twice: at the end of its log, and when it is ratified. Whether it
        is valid depends on nothing but the entries before it, which the chain hash names, and on
        its bytes: what was found once for a copy of this state is taken over.
        """
        known = self._known.pop((self.head.hash, payload), None)
        if known is None:
            return self.fold(self.check(payload, verify))
        return self._take_in(*known)

    def check_waiting(self, data: bytes, verify: Verify) -> Submission | Vote | Approval:
        """A submission, vote or approval that may go into the next entry.

        Raises an InvalidEntryError; its `permanent` says whether waiting could help.
        """
        decoded = decode_waiting(data)
        waiting = decoded.entry
        if type(waiting) is Submission:
            submissions.check(self, waiting, decoded.signed, verify)
        elif type(waiting) is Vote:
            votes.check_vote(self, waiting, verify)
        elif type(waiting) is Approval:
            votes.check_approval(self, waiting, verify)
        assert isinstance(waiting, Submission | Vote | Approval)
        return waiting

    # -- what a leader writes --

    def timely(self, payload: bytes, unix_ms: int) -> bool:
        """Whether a tick is near this daemon's clock; whatever else is timely always, valid or
        not."""
        if len(payload) > MAX_TICK:
            return True
        try:
            entry = decode_entry(payload).entry
        except InvalidEntryError:
            return True
        return not isinstance(entry, Tick) or self.near(entry.time, unix_ms)

    def near(self, time: int, unix_ms: int) -> bool:
        """Whether two times differ by no more than a member accepts."""
        return abs(time - unix_ms) <= self.params["council.skew_ms"]

    def tick(self, unix_ms: int, *, idle: bool = False) -> bytes | None:
        """The tick that is due by this clock, or None.

        With `idle` there is always one: where a leader before had a clock ahead of this one, the
        ledger's time creeps on until this clock has caught up with it.
        """
        if idle:
            return encode_entry(Tick(time=max(unix_ms, self.time + system.least_rise(self))))
        if unix_ms - self.time < self.params["council.tick_ms"]:
            return None
        return encode_entry(Tick(time=unix_ms))

    def due(self, unix_ms: int | None = None) -> list[bytes]:
        """The system entries that come next, in order: with `unix_ms`, a due tick before them.

        At most MAX_DUE. Nothing follows an epoch entry, which is the last of its council.
        """
        payloads: list[bytes] = []
        tick = None if unix_ms is None else self.tick(unix_ms)
        scratch = self
        if tick is not None:
            payloads.append(tick)
            scratch = self.copy()
            scratch.apply(tick, _no_signatures)
        while len(payloads) < MAX_DUE:
            entry = system.due(scratch, scratch.digest)
            if entry is None:
                break
            payloads.append(encode_entry(entry))
            if isinstance(entry, EpochEntry):
                break
            scratch = self.copy() if scratch is self else scratch
            scratch.fold(Checked(scratch.head, payloads[-1], entry, b""))
        return payloads

    def owed(self, unix_ms: int) -> bytes | None:
        """What a leader should have appended by this clock, or None.

        A leader that keeps the ledger's time back, or what is due, holds up every deadline and the
        end of its own epoch. A member that is owed the same for a time-out suspects it (rule 5).
        """
        late = self.params["council.tick_ms"] + self.params["council.skew_ms"]
        if unix_ms - self.time > late:
            return b"tick"
        entry = system.due(self, self.digest)
        return None if entry is None else encode_entry(entry)

    def ranking(self, group: bytes) -> list[bytes]:
        """The members for one tile group: its primary, then the successors."""
        return ranking(self.council.beacon, group, self.members, self.banned)

    # -- copies --

    def copy(self) -> "LedgerState":
        """The same, to fold on without changing this one. Costs some microseconds."""
        twin = type(self)()
        self.copy_into(twin)
        return twin

    def encode(self) -> bytes:
        """The state as bytes."""
        return encode_state(self)

    @classmethod
    def decode(cls, data: bytes, genesis: bytes | None = None) -> "LedgerState":
        """What `encode` wrote. Raises MalformedEntryError, or WrongGenesisError where the
        ledger does not begin with the chain hash `genesis`."""
        state = cls()
        decode_state(data, state)
        if genesis is not None and state.genesis != genesis:
            raise WrongGenesisError("a saved state of a ledger with another beginning")
        return state

    def digest(self) -> bytes:
        """sha256 of `encode`: what a checkpoint states."""
        if self._digest is None:
            self._digest = hashlib.sha256(self.encode()).digest()
        return self._digest
