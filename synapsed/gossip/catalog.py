"""The catalog among its peers: gossip in and out, reconciliation, what is kept on disk.

gossip          validated by the catalog as it arrives, our own published as it decides
reconciliation  the one who connected compares catalogs; everybody does so now and then
disk            the table `catalog`, verified anew when the daemon starts
"""

import logging
import random
import time
from collections.abc import Callable, Sequence

import trio

from protocols.effects import Publish
from protocols.errors import LimitError, MalformedError
from protocols.gossip.announcement import KINDS, Body
from protocols.gossip.buckets import Buckets
from protocols.gossip.catalog import (
    TABLE,
    Announce,
    Catalog,
    CatalogLimits,
    Changed,
    Heard,
    Restored,
    Tick,
    Withdraw,
)
from protocols.gossip.peerscore import Fault
from protocols.gossip.reconcile import MAX_TURN, PROTOCOL, Conversation
from protocols.gossip.validation import Verdict
from protocols.peerid import peer_id_text
from synapsed.driver import Driver
from synapsed.keys import verify
from synapsed.net.errors import NetError, StreamClosedError
from synapsed.ports import Identity, Net, Stream, Table
from synapsed.process import supervise

log = logging.getLogger(__name__)

TICK = 1.0
"""Seconds: how late an expiry or a draft may be."""
RECONCILE_SOONEST = 10.0
"""Seconds until the next comparison with somebody, after one that found a difference ..."""
RECONCILE_LATEST = 60.0
"""... doubling up to this while there are none. Gossip has brought everything then, and one
comparison costs 0.4 KB and 5 ms."""
COMPARE_AGAIN = (1.0, 4.0)
"""Seconds until a new neighbour that does not speak this yet is asked again: it is starting."""
CONVERSATION_SECONDS = 120.0
"""For one conversation in all: a full catalog (7 MB) at 0.5 Mbit/s."""
TURN_SECONDS = 20.0
"""For the other side's next turn: MAX_PUSH at 0.1 Mbit/s."""
MAX_ASKING = 2
"""Conversations that we begin at a time: the next one finds here what the last one brought, and
one peer that dawdles does not hold up the others."""
MAX_SERVED = 4
"""Conversations that others may have with us at a time."""
FAIR_SECONDS = 10.0
"""After so long a conversation makes room for a newcomer where all places are taken: what it
brought is kept, and strangers who only sit there keep nobody out."""
SERVED_RATE, SERVED_BURST = 0.2, 6.0
"""Conversations a second and peer that others may begin: twice what the intervals above make."""
BREATH = 16
"""Envelopes verified before others get their turn: 2 ms."""


class CatalogService:
    """One daemon's catalog, driven. Everything here runs in the trio thread."""

    def __init__(
        self,
        net: Net,
        identity: Identity,
        network: str,
        table: Table,
        emit: supervise.Emit,
        *,
        limits: CatalogLimits | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.catalog = Catalog(network, identity.public_key, identity.sign, verify, limits)
        """For its queries only: events go through this service."""
        self.on_changed: list[Callable[[str, bytes], None]] = []
        """Called with (kind, subject) when who offers what has changed. Must not wait."""
        self._net = net
        self._network = network
        self._table = table
        self._emit = emit
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - whom to compare with is no secret
        self._neighbours: dict[bytes, None] = {}
        self._fresh: list[bytes] = []
        self._wake = trio.Event()
        self._asking = trio.CapacityLimiter(MAX_ASKING)
        self._serving: dict[trio.CancelScope, float] = {}
        self._served = Buckets(SERVED_RATE, SERVED_BURST, 4096)
        self._pause = RECONCILE_SOONEST
        self._driver = Driver("catalog", tables={TABLE: table}, emit=emit, blame=net.blame)
        self._driver.on(Publish, self._publish)
        self._driver.on(Changed, self._changed)
        self._restored = trio.Event()
        self._subscribed: set[str] = set()
        net.on_peer(self._connected, self._disconnected)
        net.serve(PROTOCOL, self._serve, 1)

    # -- what the daemon says --------------------------------------------------------------------

    def announce(self, body: Body) -> None:
        """Say that we hold or offer something, and go on saying so until it is withdrawn.

        May be called as often as there is progress: others are told every few seconds.
        Raises LimitError beyond our cap.
        """
        self._driver.submit(self.catalog.handle(Announce(body), self._clock()))

    def withdraw(self, kind: str, subject: bytes) -> None:
        """Take it back. Raises NotHeldError where we have not said it."""
        self._driver.submit(self.catalog.handle(Withdraw(kind, subject), self._clock()))

    async def settle(self) -> None:
        """Wait until what was decided so far is saved and published."""
        await self._driver.settle()

    # -- running -----------------------------------------------------------------------------------

    async def restored(self) -> None:
        """Wait until the records on disk are back."""
        await self._restored.wait()

    async def run(self) -> None:
        """Take part until cancelled. May be run again after it has failed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._driver.run)
            if not self._restored.is_set():
                await self._restore()
            for kind in KINDS:
                if kind not in self._subscribed:
                    self._net.subscribe(self._topic(kind), self._validator(kind), _nothing_more)
                    self._subscribed.add(kind)
            for peer in self._net.peers():  # who was quicker than we
                self._connected(peer.id)
            nursery.start_soon(self._tick)
            nursery.start_soon(self._compare_on_connecting)
            nursery.start_soon(self._compare_now_and_then)

    async def _restore(self) -> None:
        for count, (key, value) in enumerate(list(self._table.items())):
            self._driver.submit(self.catalog.handle(Restored(key, value), self._clock()))
            if count % BREATH == 0:
                await trio.lowlevel.checkpoint()
        self._restored.set()

    async def _tick(self) -> None:
        while True:
            self._driver.submit(self.catalog.handle(Tick(), self._clock()))
            await trio.sleep(TICK)

    # -- gossip ------------------------------------------------------------------------------------

    def _topic(self, kind: str) -> str:
        return f"/synapse/{self._network}/{kind}/1"

    def _validator(self, kind: str) -> Callable[[bytes, bytes], Verdict]:
        def validate(sender: bytes, data: bytes) -> Verdict:
            judgement, effects = self.catalog.hear(Heard(sender, data, kind), self._clock())
            self._driver.submit(effects)
            return judgement.verdict

        return validate

    async def _publish(self, publish: Publish) -> None:
        await self._net.publish(self._topic(publish.kind), publish.data)

    def _changed(self, changed: Changed) -> None:
        for tell in self.on_changed:
            tell(changed.kind, changed.subject)

    # -- reconciliation ----------------------------------------------------------------------------

    def _connected(self, peer: bytes) -> None:
        if peer in self._neighbours:
            return
        self._neighbours[peer] = None
        found = self._net.peer(peer)
        if found is not None and found.direction == "outbound":
            self._fresh.append(peer)
            self._wake.set()

    def _disconnected(self, peer: bytes) -> None:
        self._neighbours.pop(peer, None)

    async def _compare_on_connecting(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                while self._fresh:
                    nursery.start_soon(self._compare_with_new, self._fresh.pop())
                await self._wake.wait()
                self._wake = trio.Event()

    async def _compare_with_new(self, peer: bytes) -> None:
        for pause in (*COMPARE_AGAIN, 0.0):
            if peer not in self._neighbours or await self.compare(peer) is not None:
                return
            await trio.sleep(pause)

    async def _compare_now_and_then(self) -> None:
        while True:
            await trio.sleep(self._pause * self._rng.uniform(0.75, 1.25))
            if self._neighbours:
                moved = await self.compare(self._rng.choice(list(self._neighbours)))
                self._pause = RECONCILE_SOONEST if moved else min(2 * self._pause, RECONCILE_LATEST)

    async def compare(self, peer: bytes) -> int | None:
        """Compare catalogs with a connected peer; how many announcements one of us lacked.

        None where it could not be done: why, is logged, and blamed where there is blame.
        """
        async with self._asking:
            try:
                with trio.fail_after(CONVERSATION_SECONDS):
                    async with self._net.open_stream(peer, PROTOCOL) as stream:
                        conversation = Conversation(self.catalog)
                        await stream.write_frame(conversation.begin())
                        return await self._converse(stream, conversation)
            except (MalformedError, LimitError) as error:
                self._net.blame(peer, Fault.MALFORMED, f"{PROTOCOL}: {error}")
            except trio.TooSlowError:
                self._net.blame(peer, Fault.TIMEOUT, f"{PROTOCOL}: more than two minutes")
            except NetError as error:
                log.debug("comparing catalogs with %s: %s", peer_id_text(peer), error)
        return None

    async def _serve(self, stream: Stream) -> None:
        now = trio.current_time()
        if not (self._served.take(stream.peer, now) and self._make_place(now)):
            return  # it will ask again, or somebody else
        with trio.move_on_after(CONVERSATION_SECONDS) as scope:
            self._serving[scope] = now
            try:
                await self._restored.wait()
                await self._converse(stream, Conversation(self.catalog))
            finally:
                del self._serving[scope]

    def _make_place(self, now: float) -> bool:
        """Whether one more conversation may begin; the oldest one may have to end for it."""
        if len(self._serving) < MAX_SERVED:
            return True
        oldest = min(self._serving, key=lambda scope: self._serving[scope], default=None)
        if oldest is None or now - self._serving[oldest] < FAIR_SECONDS:
            return False
        oldest.cancel()
        return True

    async def _converse(self, stream: Stream, conversation: Conversation) -> int | None:
        """Answer turns until both have nothing to say; how many announcements one of us lacked.

        None where the other side ended it before it said anything.
        """
        received: int | None = None
        while True:
            try:
                frame = await stream.read_frame(MAX_TURN, timeout=TURN_SECONDS)
            except StreamClosedError as error:
                if not error.clean:
                    raise
                if received is None:
                    return None
                break  # ended between two turns, as agreed
            kept = await self._hear(stream.peer, conversation.receive(frame))
            received = (received or 0) + (kept or 0)
            if kept is None:
                break
            reply = conversation.reply()
            if reply is None:
                break
            await stream.write_frame(reply)
        if received or conversation.pushed:
            self._emit(
                "catalog.reconciled",
                peer=peer_id_text(stream.peer),
                received=received,
                sent=conversation.pushed,
            )
        return received + conversation.pushed

    async def _hear(self, sender: bytes, envelopes: Sequence[bytes]) -> int | None:
        """How many were new; None where one was a lie, which ends the conversation."""
        kept = 0
        for count, envelope in enumerate(envelopes):
            judgement, effects = self.catalog.hear(Heard(sender, envelope, None), self._clock())
            self._driver.submit(effects)
            if judgement.verdict is Verdict.REJECT:
                return None
            kept += judgement.verdict is Verdict.ACCEPT
            if count % BREATH == BREATH - 1:
                await trio.lowlevel.checkpoint()
                await self._driver.keep_up()
        return kept


async def _nothing_more(_sender: bytes, _data: bytes) -> None:
    """The validator has done it all: what is accepted must be kept before it is passed on."""
