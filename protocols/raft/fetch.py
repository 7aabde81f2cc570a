"""Fetching unratified entries by their hash: what a certificate covers, or a disk has lost.

Entries come from the highest downwards, so that each is proven by the header above it and the
first by the certificate, or by what this member has signed itself; nothing else is stored.
Ratified entries are not fetched here: whoever lacks those follows the ledger (`Behind`).
"""

from collections.abc import Iterator

from protocols.ledger.chain import Head, Header
from protocols.raft.core import Core
from protocols.raft.log import MAX_TAIL, MAX_TAIL_BYTES
from protocols.raft.messages import MAX_BATCH_BYTES, MAX_FETCHED, Fetch, Fetched
from protocols.raft.ports import Behind
from protocols.ratelimit import TokenBucket

BUDGET = 2 * MAX_TAIL_BYTES
"""Bytes of entries to one member, at once and in each time-out: all that it can lack, twice."""
TIMES = 2
"""That one entry is sent to one member in a time-out: what was lost twice, another member has. So a
liar that asks for ever gets no more than what it really could lack, which mostly is little."""


class Fetching:
    """What one member asks others for, and answers them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._asked_at = -1e9
        self._asked = core.seat
        self._missing: Head | None = None
        self._answered: dict[int, tuple[float, Head]] = {}
        """Of each seat: when it was answered last, and about what."""
        self._budgets: dict[int, TokenBucket] = {}
        self._given: dict[int, dict[bytes, int]] = {}
        """To each seat: how often each entry was sent since `_given_since`."""
        self._given_since = -1e9

    @property
    def pending(self) -> bool:
        """Whether something was missing when it was last looked at."""
        return self._missing is not None

    # -- asking --------------------------------------------------------------------------------

    def _targets(self) -> Iterator[Head]:
        """The places whose entries we must hold."""
        core = self._core
        yield core.vows.high.said.head
        acked = core.vows.acked_in(core.term)
        if acked is not None:
            yield acked
        if core.opening is not None:
            yield core.floor
        if core.wanted is not None:
            yield core.wanted.said.head

    def _lacking(self) -> Head | None:
        """The highest place that is missing of what must be held."""
        core = self._core
        for head in self._targets():
            if head.index > core.ratified.index:
                path = core.log.path(head)
                if isinstance(path, Head):
                    return path
        return None

    def ask(self, first: int | None = None) -> None:
        """Ask the next member (or `first`) for what is missing: for the same once a retry."""
        core = self._core
        missing = self._lacking()
        if missing is None:
            self._missing = None
            return
        if missing == self._missing and core.now.mono < self._asked_at + core.settings.retry:
            return
        self._missing, self._asked_at = missing, core.now.mono
        self._asked = self._after(self._asked) if first is None else first
        if self._asked == core.seat:
            self._asked = self._after(self._asked)
        if missing.index > core.ratified.index + MAX_TAIL:
            # A log's tail is shorter than that: what is below is ratified, and followed.
            peer = core.council.seats[self._asked].identity
            core.effect(Behind(peer, missing.index - MAX_TAIL))
        else:
            core.send(self._asked, Fetch(core.council.epoch, missing, core.ratified.index))

    def _after(self, seat: int) -> int:
        return (seat + 1) % len(self._core.council.seats)

    def ask_again(self) -> None:
        """On the retry timer."""
        self.ask()
        if self._core.behind is not None:
            self._asked = self._after(self._asked)
            self._core.fall_behind(self._asked)

    def fetched(self, seat: int, message: Fetched, parts: list[bytes]) -> bool:
        """Store what was asked for: each entry proves itself. Whether there was any."""
        core = self._core
        wanted = self._lacking()
        if wanted is None or len(message.headers) != len(parts):
            return False
        took = False
        for header, payload in zip(message.headers, parts, strict=True):
            if core.log.take(header, payload, wanted, core.vows.term) is None:
                break
            took = True
            wanted = Head(wanted.index - 1, header.prev)
            if wanted.index <= core.ratified.index or core.log.entry(wanted.hash) is not None:
                break
        if took:
            self.ask(seat)
            self._repair()
        return took

    def _repair(self) -> None:
        """What a disk had lost of the highest certificate's entries goes back to it."""
        core = self._core
        high = core.vows.high.said.head
        if high.index > core.ratified.index:
            path = core.log.path(high)
            if isinstance(path, list):
                core.log.save_all(path)

    # -- answering -----------------------------------------------------------------------------

    def answer(self, seat: int, message: Fetch) -> None:
        """Send entries from the place that is asked for downwards, as far as they are not ratified:
        those are for following, which is metered by itself."""
        core = self._core
        if not self._may_answer(seat, message.top):
            return
        headers: list[Header] = []
        parts: list[bytes] = []
        size = 0
        above = max(message.above, core.ratified.index)
        given = self._given_to(seat)
        name = message.top.hash
        while len(headers) < MAX_FETCHED:
            entry = core.log.entry(name)
            if entry is None or entry.header.index <= above or given.get(name, 0) >= TIMES:
                break
            size += len(entry.payload)
            if size > MAX_BATCH_BYTES and headers:
                break
            headers.append(entry.header)
            parts.append(entry.payload)
            name = entry.header.prev
        if not headers:
            if message.above < core.ratified.index:
                core.show_ratified(seat)
        elif self._budget(seat).take(size, core.now.mono) == 0:
            lengths = [len(part) for part in parts]
            core.send(seat, Fetched(core.council.epoch, headers, lengths), parts)
            name = message.top.hash
            for header in headers:
                given[name] = given.get(name, 0) + 1
                name = header.prev

    def _given_to(self, seat: int) -> dict[bytes, int]:
        core = self._core
        if core.now.mono >= self._given_since + core.settings.time_out:
            self._given.clear()
            self._given_since = core.now.mono
        return self._given.setdefault(seat, {})

    def _may_answer(self, seat: int, top: Head) -> bool:
        """The same place once a retry: whoever asks more often has not lost the answer."""
        now = self._core.now.mono
        before, asked = self._answered.get(seat, (-1e9, top))
        if asked == top and now < before + self._core.settings.retry / 2:
            return False
        self._answered[seat] = (now, top)
        return True

    def _budget(self, seat: int) -> TokenBucket:
        budget = self._budgets.get(seat)
        if budget is None:
            rate = BUDGET / self._core.settings.time_out
            budget = self._budgets[seat] = TokenBucket(rate, float(BUDGET))
        return budget
