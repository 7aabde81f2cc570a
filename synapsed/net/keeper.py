"""One task that looks after all connections: pings, dead peers, surplus, the peer book.

The round trip is measured and never believed: an average over pings of ours, told as an event
when it changes by much, and part of a peer's worth.
"""

import logging

import trio

from protocols.errors import SynapseError
from protocols.peerid import peer_id_text
from synapsed.net.connection import Connection
from synapsed.net.switch import Switch

log = logging.getLogger(__name__)

TICK = 5.0
"""Seconds between looks at all connections."""

PING_INTERVAL = 10.0
"""Seconds between pings of one peer: a changed link is noticed within a minute."""

DEAD_AFTER = 25.0
"""Seconds without an answer after which a peer is gone: two intervals and a slow link."""

RTT_NEWS_FACTOR, RTT_NEWS_SECONDS = 2.0, 0.02
"""What makes a changed round trip news: by a factor, and by more than a busy machine's noise."""

FLUSH_INTERVAL = 60.0
"""Seconds between writes of the peer book: what a crash forgets."""

SURPLUS_AFTER = 20.0
"""Seconds that a visitor beyond max_connections has, to learn whom else it could ask."""


class Keeper:
    """Looks after the connections of a switch."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._pinged: dict[Connection, float] = {}
        self._told: dict[bytes, float] = {}
        self._flushed = trio.current_time()
        switch.on_connected.append(self._ping_soon)
        switch.on_disconnected.append(self._forget)

    def _ping_soon(self, conn: Connection) -> None:
        async def ping() -> None:
            await self._ping(conn)

        self._pinged[conn] = trio.current_time()
        conn.start_soon(ping)

    async def run(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(TICK)
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        live = self._switch.all_connections()
        for conn in live:
            conn.muxed_conn.sweep()
            if now - self._pinged.get(conn, 0.0) >= PING_INTERVAL:
                self._ping_soon(conn)
        self._trim(live, now)
        if now - self._flushed >= FLUSH_INTERVAL:
            self._flushed = now
            self._switch.book.flush()

    def _forget(self, conn: Connection) -> None:
        self._pinged.pop(conn, None)
        self._told.pop(conn.peer, None)

    async def _ping(self, conn: Connection) -> None:
        with trio.move_on_after(DEAD_AFTER) as scope:
            try:
                await conn.ping()
            except SynapseError:
                return  # it ended by itself
        if scope.cancelled_caught:
            conn.muxed_conn.cut(f"no answer for {DEAD_AFTER:.0f} s")
            return
        self._heard(conn)

    def _heard(self, conn: Connection) -> None:
        rtt = conn.muxed_conn.rtt()
        self._switch.book.round_trip(conn.peer, rtt)
        told = self._told.get(conn.peer)
        if told is None:
            self._told[conn.peer] = rtt
        elif (
            abs(rtt - told) > RTT_NEWS_SECONDS and max(rtt, told) > min(rtt, told) * RTT_NEWS_FACTOR
        ):
            self._told[conn.peer] = rtt
            self._switch.emit("peer.rtt", peer=peer_id_text(conn.peer), seconds=rtt, before=told)

    def _trim(self, live: list[Connection], now: float) -> None:
        """End the least worthy of those beyond the limit, once they have had their time."""
        surplus = len(live) - self._switch.settings.max_connections
        if surplus <= 0:
            return
        settled = [conn for conn in live if not conn.dialled and now - conn.started > SURPLUS_AFTER]
        settled.sort(key=lambda conn: self._switch.book.worth(conn.peer))
        for conn in settled[:surplus]:
            conn.start_soon(conn.close)
