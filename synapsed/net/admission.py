"""Who is let in: bans, room, shares of one address, and which of two connections is kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from protocols.ratelimit import TokenBucket
from synapsed.net.connection import Connection
from synapsed.net.peers import PeerBook
from synapsed.net.settings import NetSettings

MAX_HANDSHAKES = 64
"""Inbound handshakes at a time: each costs 3 ms of work and holds a socket for up to 10 s."""

MAX_HANDSHAKES_PER_IP = 16
"""So that one address alone cannot hold all of them."""

KNOCK_RATE, KNOCK_BURST = 10.0, 200.0
"""Connections a second from one address: 3 % of a core of handshakes, and a street's burst."""

MAX_KNOCKERS = 4096
"""Addresses whose rate is remembered."""

SIMULTANEOUS = 10.0
"""Seconds within which a second connection means that both sides dialled at once."""

VISITORS = 4
"""A full node takes a fourth more for a while: whoever knows only us learns of others from us."""


class Admission:
    """The rules, over the connections that there are."""

    def __init__(
        self,
        own: bytes,
        settings: NetSettings,
        book: PeerBook,
        live: Callable[[], list[Connection]],
        find: Callable[[bytes], Connection | None],
    ) -> None:
        self._own = own
        self._settings = settings
        self._book = book
        self._live = live
        self._find = find
        self._shaking: dict[str, int] = {}
        self._knocks: dict[str, TokenBucket] = {}

    # -- before the handshake

    @contextmanager
    def handshake(self, host: str) -> Iterator[bool]:
        """Whether a handshake with `host` may begin; it counts while the block runs."""
        if not self._may_shake(host):
            yield False
            return
        self._shaking[host] = self._shaking.get(host, 0) + 1
        try:
            yield True
        finally:
            self._shaking[host] -= 1
            if not self._shaking[host]:
                del self._shaking[host]

    def _may_shake(self, host: str) -> bool:
        if len(self._knocks) >= MAX_KNOCKERS:
            self._knocks.clear()
        bucket = self._knocks.setdefault(host, TokenBucket(KNOCK_RATE, KNOCK_BURST))
        return (
            not bucket.take(1, trio.current_time())
            and sum(self._shaking.values()) < MAX_HANDSHAKES
            and self._shaking.get(host, 0) < MAX_HANDSHAKES_PER_IP
        )

    # -- after it

    def refusal(self, new: Connection) -> str:
        """Why an inbound connection is not let in; "" if it is. Makes room where it is worth it."""
        if new.peer == self._own or self._book.banned(new.peer):
            return "ourselves" if new.peer == self._own else "banned"
        if not self.wins(new):
            return "the other connection to it is kept"
        if self._find(new.peer) is not None:
            return ""
        limit = self._settings.max_connections_per_ip
        if sum(conn.address.host == new.address.host for conn in self._live()) >= limit:
            return f"{limit} connections from its address"
        return "no room" if self._is_full() and not self.make_room(new) else ""

    def _is_full(self) -> bool:
        most = self._settings.max_connections
        # Inbound ones never take the room that our own dials need.
        reserve = min(self._settings.target_peers, most // 4)
        live = self._live()
        inbound = sum(not conn.dialled for conn in live)
        visitors = most // VISITORS
        return len(live) >= most + visitors or inbound >= most + visitors - reserve

    def make_room(self, new: Connection) -> bool:
        """Cut the least worthy inbound connection, if `new` is worthier."""
        inbound = [conn for conn in self._live() if not conn.dialled]
        least = min(inbound, key=lambda conn: self._book.worth(conn.peer), default=None)
        if least is None or self._book.worth(least.peer) >= self._book.worth(new.peer):
            return False
        least.muxed_conn.cut("no room: a worthier peer came")
        return True

    def wins(self, new: Connection) -> bool:
        """Whether `new` is kept where there is another connection to the same peer.

        Both sides decide alike: where both dialled at once, the smaller peer id's dial is kept;
        where a connection comes long after the other, the peer knows that the other is dead.
        """
        old = self._find(new.peer)
        if old is None:
            return True
        together = trio.current_time() - old.started < SIMULTANEOUS
        if together and old.dialled != new.dialled:
            return new.dialled == (self._own < new.peer)
        return True
