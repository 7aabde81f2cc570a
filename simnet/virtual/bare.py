"""A ledger with hardly anything in it, to run the council's log on its own and fast.

Entries are a letter and what belongs to it:

    t  time (ms, 8 bytes)                    a tick; time rises
    s  author (1 byte), number (4), data     what somebody submits; numbers rise by author
    c  identity, key                         asks to be seated under that key
    e                                        ends an epoch that has lasted `epoch_entries`
    anything else                            invalid

The next council are the members with the keys that they asked for, one seat after another handed
to who waits for one. The real ledger is protocols/ledger/fold.py; this one has the same shape.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import cast

from protocols.envelope import Verify
from protocols.errors import MalformedError
from protocols.ledger.chain import Head, Header, Spine
from protocols.ledger.council import Council, Instant, Seat
from protocols.peerid import PEER_ID_LENGTH, PUBLIC_KEY_LENGTH
from protocols.raft.ports import Ledger
from protocols.realm import Realm

TICK, SUBMITTED, CANDIDATE, EPOCH = b"t", b"s", b"c", b"e"
_NUMBERS = slice(2, 6)
SKEW_MS = 10_000
"""As council.skew_ms: by which a tick may differ from the clock of who acknowledges it."""


class BareEntryError(MalformedError):
    """An entry that is not valid at its place."""


def submission(author: int, number: int) -> bytes:
    """What author `author` submits as its `number`th."""
    return SUBMITTED + bytes([author]) + number.to_bytes(4, "big")


class BareLedger:
    """The fold. Councils are in force from the entry that names them."""

    __slots__ = (
        "_time",
        "candidates",
        "council",
        "epoch_entries",
        "lax",
        "network",
        "numbers",
        "realm",
        "spine",
    )

    def __init__(self, network: str, seats: Iterable[Seat], epoch_entries: int) -> None:
        genesis = b"genesis" + network.encode()
        self.network = network
        self.spine = Spine.begin(network, genesis)
        self.realm = Realm(network, self.spine.head.hash)
        beacon = hashlib.sha256(genesis).digest()
        self.council = Council(1, beacon, tuple(seats), self.spine.head)
        self.epoch_entries = epoch_entries
        self.candidates: dict[bytes, bytes] = {}
        self.numbers: dict[int, int] = {}
        self.lax = False
        """A liar's: takes everything for valid."""
        self._time = 0

    @property
    def head(self) -> Head:
        """The newest entry."""
        return self.spine.head

    @property
    def epoch(self) -> int:
        """Of the entry that comes next."""
        return self.council.epoch

    def copy(self) -> "BareLedger":
        """One that goes its own way."""
        made = object.__new__(BareLedger)
        made.network, made.spine, made.council = self.network, self.spine, self.council
        made.realm = self.realm
        made.epoch_entries, made._time, made.lax = self.epoch_entries, self._time, self.lax
        made.candidates, made.numbers = dict(self.candidates), dict(self.numbers)
        return made

    def digest(self) -> bytes:
        """Of the whole state."""
        state = (
            self.head,
            self.council.epoch,
            self.council.seats,
            sorted(self.candidates.items()),
            sorted(self.numbers.items()),
            self._time,
        )
        return hashlib.sha256(repr(state).encode()).digest()

    # -- entries ------------------------------------------------------------------------------

    def apply(self, payload: bytes, verify: Verify) -> Header:  # noqa: ARG002 - nothing is signed
        """Append an entry. Raises BareEntryError, and changes nothing."""
        header = self.spine.next_header(self.epoch, payload)
        letter = payload[:1]
        if letter == TICK and len(payload) == 9:
            time = int.from_bytes(payload[1:], "big")
            self._need(time > self._time, "a tick that does not rise")
            self._time = time
        elif letter == SUBMITTED and len(payload) >= 6:
            author, number = payload[1], int.from_bytes(payload[_NUMBERS], "big")
            self._need(number > self.numbers.get(author, -1), "an old submission")
            self.numbers[author] = number
        elif letter == CANDIDATE and len(payload) == 1 + PEER_ID_LENGTH + PUBLIC_KEY_LENGTH:
            self._candidate(payload)
        elif letter == EPOCH and len(payload) == 1:
            self._need(self.may_end, "an epoch that ends too early")
        else:
            self._need(False, "no entry at all")
        self.spine = self.spine.extended(self.network, header)
        if letter == EPOCH and len(payload) == 1:
            self._next_council()
        return header

    def _need(self, holds: bool, what: str) -> None:
        if not holds and not self.lax:
            raise BareEntryError(f"{what}, at index {self.head.index + 1}")

    def _candidate(self, payload: bytes) -> None:
        identity = payload[1 : 1 + PEER_ID_LENGTH]
        key = payload[1 + PEER_ID_LENGTH :]
        self._need(self.candidates.get(identity) != key, "a candidacy that changes nothing")
        self.candidates[identity] = key

    @property
    def may_end(self) -> bool:
        """Whether the epoch has lasted long enough."""
        return self.head.index - self.council.start.index >= self.epoch_entries

    def _next_council(self) -> None:
        old = self.council
        seats = [
            Seat(seat.identity, self.candidates.get(seat.identity, seat.key), 1)
            for seat in old.seats
        ]
        seated = {seat.identity for seat in old.seats}
        waiting = sorted(set(self.candidates) - seated)
        if waiting:
            place = old.epoch % len(seats)
            self.candidates[seats[place].identity] = seats[place].key
            seats[place] = Seat(waiting[0], self.candidates.pop(waiting[0]), 1)
        beacon = hashlib.sha256(old.beacon + self.head.hash).digest()
        self.council = Council(old.epoch + 1, beacon, tuple(seats), self.head)

    # -- what a replica asks ------------------------------------------------------------------

    def timely(self, payload: bytes, unix_ms: int) -> bool:
        """Whether a tick is near this clock."""
        return payload[:1] != TICK or abs(int.from_bytes(payload[1:], "big") - unix_ms) <= SKEW_MS

    def tick(self, unix_ms: int, *, idle: bool = False) -> bytes | None:
        """A tick of that time; with `idle` of a later one than the ledger has, at any rate."""
        time = max(unix_ms, self._time + 1) if idle else unix_ms
        return TICK + time.to_bytes(8, "big") if time > self._time else None


class BarePool:
    """What waits to be ratified, in order of arrival."""

    __slots__ = ("_since", "garbage", "ledger", "verify")

    def __init__(self, ledger: Callable[[], BareLedger], verify: Verify) -> None:
        self._since: dict[bytes, float] = {}
        self.ledger = ledger
        self.verify = verify
        self.garbage: Callable[[], bytes | None] = lambda: None
        """What a lying leader puts among the entries."""

    def add(self, payload: bytes, now: Instant) -> bool:
        """Whether it is new, and could be ratified."""
        if payload in self._since or not self._valid(self.ledger().copy(), payload):
            return False
        self._since[payload] = now.mono
        return True

    def waiting(self) -> list[bytes]:
        """In order of arrival."""
        return list(self._since)

    def _valid(self, ledger: BareLedger, payload: bytes) -> bool:
        try:
            ledger.apply(payload, self.verify)
        except BareEntryError:
            return False
        return True

    def take(self, ledger: Ledger, now: Instant, max_entries: int, max_bytes: int) -> list[bytes]:
        """Entries that may follow `ledger`; the end of an epoch first, and nothing after it."""
        del now, max_bytes  # these entries are tiny
        trial = cast(BareLedger, ledger.copy())
        if trial.may_end:
            return [EPOCH]
        taken: list[bytes] = []
        for payload in list(self._since):
            if len(taken) == max_entries or trial.may_end:
                break
            if self._valid(trial, payload):
                taken.append(payload)
        garbage = self.garbage()
        return taken if garbage is None else [*taken, garbage]

    def ratified(self) -> None:
        """Forget what the ledger has meanwhile, or can never have."""
        ledger = self.ledger()
        for payload in list(self._since):
            if not self._valid(ledger.copy(), payload):
                del self._since[payload]

    def overdue(self, now: Instant, time_out: float) -> bool:
        """Whether something has waited for a time-out."""
        return any(now.mono - since > time_out for since in self._since.values())
