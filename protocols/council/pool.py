"""What waits to be ratified: submissions, votes and approvals, at every daemon that hears of them.

A leader takes from here what it appends; every member sees here what a leader leaves out.

Rules of this file:
1. Only what the ratified ledger would accept comes in, and it is refused with the ledger's own
   typed errors. Each signature is verified once: `Verified` (poolitems.py) remembers the good.
2. Everything is bounded. Of one author no more waits than the ledger would still take; where
   the pool is full, whoever fills most of it for its reputation makes room.
3. First come, first taken; votes are gathered into batches. What was taken stays until it is
   ratified, and is taken anew where the log that it was put into was not continued.
4. (Rule 5 of the council) What could have been ratified and was not, for a time-out, counts as
   suspicion against the leader. Not before it was sent to that very leader, though, by us: or a
   member that keeps something from it alone would unseat every one (PBFT section 4.4: a backup
   relays the request and then starts its timer). Nor is a leader suspected that is merely busy:
   what came before must have had its turn.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from protocols.council.poolitems import (
    VOTES,
    Gone,
    Item,
    Limits,
    PoolFullError,
    Share,
    contains,
    ends_epoch,
    most_of,
    name_of,
    same_debt,
    share_of,
    supersedes,
    vote_name,
)
from protocols.envelope import Verify
from protocols.ledger import submissions, votes
from protocols.ledger.council import Instant
from protocols.ledger.entries import (
    MAX_BATCH,
    Approval,
    Submission,
    Vote,
    Votes,
    Waiting,
    decode_entry,
    decode_waiting,
    encode_entry,
)
from protocols.ledger.errors import DailyQuotaError, ExpiredError, InvalidEntryError
from protocols.ledger.fold import LedgerState
from protocols.ledger.signing import batch
from protocols.raft.ports import Ledger

RANKED_EVERY = 1.0
"""Seconds for which it is remembered who makes room: ranking a full pool takes 20 ms."""
MOST_TOLD = 64
"""Items that a new leader is sent at once by one member ..."""
TELLINGS = 8
"""... and how often in the time that they wait before: others send them, too."""
LATE = 4
"""Time-outs after which nothing excuses a leader any longer."""

K = TypeVar("K")


class Pool:
    """Not a machine: whoever owns it passes on what it finds."""

    def __init__(self, ledger: LedgerState, verify: Verify, limits: Limits | None = None) -> None:
        self.ledger = ledger
        """The ratified one; whoever replaces it sets it here, too."""
        self._verify = verify
        self._limits = limits or Limits()
        self._items: dict[bytes, Item] = {}
        self._fresh: dict[bytes, Item] = {}
        self._taken: dict[bytes, Item] = {}
        self._votes: dict[bytes, Item] = {}
        self._by_author: dict[bytes, int] = {}
        self._shares: dict[Share, int] = {}
        self._ranked: list[Item] = []
        self._ranked_at = -RANKED_EVERY
        self._asked_for: Item | None = None
        self._size = 0
        self._ratified = 0
        self._swept = ledger.time
        self._owed: tuple[bytes, int] | None = None
        """What the ledger owes itself, and since when."""
        self._owed_since = 0.0
        self._leader: bytes | None = None
        self._untold: dict[bytes, Item] = {}
        self._tell_at = 0.0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._size

    def get(self, name: bytes) -> Item | None:
        """What waits under a name."""
        return self._items.get(name)

    # -- coming in -----------------------------------------------------------------------------

    def add(self, data: bytes, now: Instant, *, mine: bool = False) -> Item | None:
        """Let `data` wait; None where it does already.

        Raises InvalidEntryError where the ledger would refuse it, PoolFullError.
        """
        decoded = decode_waiting(data)
        said = decoded.entry
        assert isinstance(said, Submission | Vote | Approval)
        name, author = name_of(said, data)
        known = self._items.get(name)
        if known is not None and not supersedes(said, known.said):
            known.mine = known.mine or mine
            return None
        submission = self._check(said, decoded.signed)
        if known is not None:
            self._drop(known)
        share = share_of(said)
        if self._shares.get(share, 0) >= most_of(share, self.ledger):
            raise DailyQuotaError(
                "as many of this author's wait as the ledger would take",
                remedy="wait until they are ratified",
            )
        self._make_room(author, len(data), now.mono)
        ahead = self._ratified + len(self._items)
        item = Item(name, submission, data, said, author, now.mono, ahead, mine, None, share)
        self._put(item, now.mono)
        return item

    def _put(self, item: Item, now: float) -> None:
        self._items[item.name] = item
        (self._votes if isinstance(item.said, Vote) else self._fresh)[item.name] = item
        self._by_author[item.author] = self._by_author.get(item.author, 0) + 1
        self._shares[item.share] = self._shares.get(item.share, 0) + 1
        self._size += len(item.data)
        item.told = now if self._leader is None else None
        if item.told is None:
            self._untold[item.name] = item

    def _check(self, said: Waiting, signed: bytes) -> bytes:
        """A submission's id. Raises InvalidEntryError."""
        if isinstance(said, Submission):
            return submissions.check(self.ledger, said, signed, self._verify)
        if isinstance(said, Vote):
            votes.check_vote(self.ledger, said, self._verify)
        else:
            votes.check_approval(self.ledger, said, self._verify)
        return b""

    def _make_room(self, author: bytes, size: int, now: float) -> None:
        limits = self._limits
        waiting = self._by_author.get(author, 0)
        if waiting >= limits.per_author:
            raise PoolFullError(
                f"{limits.per_author} items of this author wait already",
                remedy="wait until some are ratified",
            )
        worth = self.ledger.reputation_of(author) / (waiting + 1)
        while len(self._items) >= limits.items or self._size + size > limits.size:
            victim = self._least_worth(worth, now)
            if victim is None:
                raise PoolFullError(
                    f"{len(self._items)} items wait already",
                    remedy="submit it again in a few seconds",
                )
            self._drop(victim)

    def _least_worth(self, worth: float, now: float) -> Item | None:
        """The newest item of who has least reputation for each that waits, below `worth`."""
        if now >= self._ranked_at + RANKED_EVERY:
            self._ranked_at = now
            self._ranked = sorted(
                (item for item in self._items.values() if not item.mine),
                key=lambda item: (-self._worth(item.author), item.since),
            )
        while self._ranked:
            item = self._ranked[-1]
            if self._items.get(item.name) is not item or self._worth(item.author) >= worth:
                if self._items.get(item.name) is item:
                    return None
                self._ranked.pop()
                continue
            return self._ranked.pop()
        return None

    def _worth(self, author: bytes) -> float:
        return self.ledger.reputation_of(author) / max(1, self._by_author.get(author, 0))

    def _drop(self, item: Item) -> None:
        del self._items[item.name]
        for queue in (self._fresh, self._taken, self._votes, self._untold):
            queue.pop(item.name, None)
        self._size -= len(item.data)
        _less(self._by_author, item.author)
        _less(self._shares, item.share)

    # -- telling the leader --------------------------------------------------------------------

    def led_by(self, leader: bytes | None, now: float) -> None:
        """Who leads from here on; None where we do, or nobody that we would tell."""
        if leader == self._leader:
            return
        self._leader = leader
        self._untold = {} if leader is None else dict(self._items)
        self._tell_at = now
        for item in self._items.values():
            item.told = now if leader is None else None

    def told(self, item: Item, now: float) -> None:
        """The leader is being sent this item."""
        item.told = now
        self._untold.pop(item.name, None)

    def tell_at(self, patience: float) -> float | None:
        """When the leader is to be sent what it may not have (mono seconds)."""
        if not self._untold:
            return None
        oldest = next(iter(self._untold.values()))
        return max(self._tell_at, oldest.since) + patience

    def to_tell(self, now: float, patience: float) -> list[Item]:
        """What has waited here for so long under this leader, which may not have it: some of it,
        the oldest first. It counts as sent from here on."""
        at = self.tell_at(patience)
        if at is None or now < at:
            return []
        items = list(self._untold.values())[:MOST_TOLD]
        for item in items:
            self.told(item, now)
        self._tell_at = now - patience * (1 - 1 / TELLINGS)
        return items

    # -- going out -----------------------------------------------------------------------------

    def take(self, ledger: Ledger, now: Instant, max_entries: int, max_bytes: int) -> list[bytes]:
        """Entries to append to `ledger` next: what it owes itself first, then what waits.

        They are applied one by one; one that is refused there is looked at again later.
        """
        assert isinstance(ledger, LedgerState)
        entries = ledger.due(now.unix_ms)[:max_entries]
        if any(ends_epoch(entry) for entry in entries):
            return entries  # rule 6 of the council: nothing follows it
        self._take_back(ledger)
        room = max_bytes - sum(map(len, entries))
        for vote_entry in self._batches(now):
            if len(entries) >= max_entries or len(vote_entry) > room:
                break
            entries.append(vote_entry)
            room -= len(vote_entry)
        for name, item in list(self._fresh.items())[: max(0, max_entries - len(entries))]:
            if len(item.data) > room:
                break
            room -= len(item.data)
            entries.append(item.data)
            self._taken[name] = self._fresh.pop(name)
        return entries

    def _take_back(self, ledger: LedgerState) -> None:
        """Let what was taken wait again, where it did not get into the log that is continued."""
        if not self._taken:
            return
        ends = (next(iter(self._taken.values())), next(reversed(self._taken.values())))
        if all(contains(ledger, item) for item in ends):
            return
        missing = [item for item in self._taken.values() if not contains(ledger, item)]
        first: dict[bytes, Item] = {}
        cast: dict[bytes, Item] = {}
        last: dict[bytes, Item] = {}
        for item in missing:
            del self._taken[item.name]
            if isinstance(item.said, Vote):
                cast[item.name] = item
            else:
                (first if self._fits(ledger, item) else last)[item.name] = item
        self._votes = cast | self._votes
        self._fresh = first | self._fresh | last

    def _fits(self, ledger: LedgerState, item: Item) -> bool:
        """Whether the log that is continued would take it: what it refused waits behind others."""
        try:
            ledger.check_waiting(item.data, self._verify)
        except InvalidEntryError:
            return False
        return True

    def _batches(self, now: Instant) -> Iterable[bytes]:
        while self._votes:
            oldest = next(iter(self._votes.values()))
            if len(self._votes) < MAX_BATCH and now.mono < oldest.since + self._limits.gather:
                return
            chosen = list(self._votes.values())[:MAX_BATCH]
            yield encode_entry(batch(item.said for item in chosen if isinstance(item.said, Vote)))
            for item in chosen:  # only where the entry was wanted
                self._taken[item.name] = self._votes.pop(item.name)

    def wake_at(self) -> float | None:
        """When votes that wait for others have waited long enough (mono seconds)."""
        if not self._votes:
            return None
        oldest = next(iter(self._votes.values()))
        return None if oldest is self._asked_for else oldest.since + self._limits.gather

    def woken(self) -> None:
        """The leader was told of the votes that wait; it takes them when it can."""
        self._asked_for = next(iter(self._votes.values()), None)

    # -- afterwards ----------------------------------------------------------------------------

    def ratified(self, first: int, payloads: Sequence[bytes]) -> list[Gone]:
        """The ledger (which has them already) was advanced by these entries."""
        self._ratified += len(payloads)
        gone: list[Gone] = []
        if not self._items:
            return gone
        for index, payload in enumerate(payloads, first):
            for name in self._names_in(payload):
                item = self._items.get(name)
                if item is not None and contains(self.ledger, item):
                    self._drop(item)
                    gone.append(Gone(item, index, None))
        if self.ledger.time != self._swept:
            self._swept = self.ledger.time
            gone += self._sweep()
        return gone

    def replaced(self) -> list[Gone]:
        """The ledger is a later one, of a snapshot: the entries between were never seen here. What
        it contains was ratified in one of them; which one, its head stands for."""
        gone: list[Gone] = []
        for item in list(self._items.values()):
            if contains(self.ledger, item):
                self._drop(item)
                gone.append(Gone(item, self.ledger.head.index, None))
        return gone + self._sweep()

    def _names_in(self, payload: bytes) -> list[bytes]:
        name = hashlib.sha256(payload).digest()
        if name in self._items:
            return [name]
        if not payload.startswith(VOTES):
            return []
        entry = decode_entry(payload).entry
        assert isinstance(entry, Votes)
        return [
            vote_name(poll.proposal, ballot.voter)
            for poll in entry.polls
            for ballot in poll.ballots
        ]

    def _sweep(self) -> list[Gone]:
        """Forget what has expired, and votes on what is decided."""
        gone: list[Gone] = []
        for item in list(self._items.values()):
            said = item.said
            if isinstance(said, Submission):
                over = said.expires <= self.ledger.time
            else:
                over = said.proposal not in self.ledger.open
            if over:
                self._drop(item)
                gone.append(Gone(item, 0, ExpiredError("it was not ratified in time")))
        return gone

    def overdue(self, now: Instant, time_out: float) -> bool:
        """Whether something that could have been ratified has waited for a time-out, or what the
        ledger owes itself: a leader that lets its time stand would never let an epoch end."""
        owed = same_debt(self.ledger.owed(now.unix_ms), self.ledger.time)
        if owed is None or owed != self._owed:
            self._owed, self._owed_since = owed, now.mono
        elif now.mono >= self._owed_since + time_out:
            return True
        return self._left_out(now, time_out)

    def _left_out(self, now: Instant, time_out: float) -> bool:
        for item in list(self._items.values()):
            if item.told is None or now.mono < item.told + time_out:
                continue
            if self._ratified < item.ahead and now.mono < item.told + LATE * time_out:
                continue
            try:
                self._check(item.said, decode_waiting(item.data).signed)
            except InvalidEntryError as error:
                if error.permanent:
                    self._drop(item)
                else:
                    self._requeue(item, now)
                continue
            return True
        return False

    def _requeue(self, item: Item, now: Instant) -> None:
        """What the ledger cannot take yet waits as if it had come just now."""
        self._drop(item)
        item.since, item.ahead = now.mono, self._ratified + len(self._items)
        self._put(item, now.mono)


def _less(counts: dict[K, int], key: K) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]
