"""The ledger among its peers: one Participant, driven.

    streams   frames of the council and of followers, both ways (ledger/net.py)
    gossip    new heads, submissions, proofs of guilt; judged by the machine as they arrive
    disk      ledger.db, one durable transaction before whatever depends on it (ledger/store.py)
    time      an alarm whenever the machine asks for one

One task gives the machine its events, one at a time, and others their turn in between. What the
machine does in one piece is bounded by itself; where more is left, it asks for an alarm that is
due already.

A machine whose daemon failed is not trusted to remember what was saved: `run` makes a new one
from the disk each time.
"""

import hashlib
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import NamedTuple, TypeVar

import trio

from protocols.council import participant
from protocols.council.errands import Examine, SeatKey
from protocols.council.participant import (
    Event,
    Examined,
    Measured,
    Participant,
    Received,
    Settled,
    Submit,
)
from protocols.effects import Publish, Send
from protocols.errors import SynapseError
from protocols.follow import follower as follow
from protocols.follow import log as followlog
from protocols.follow.chain import Advanced, Replaced
from protocols.follow.follower import Alarm, PeerDown, PeerUp, Start
from protocols.follow.history import History
from protocols.gossip.validation import Verdict
from protocols.ledger.council import Instant
from protocols.ledger.entries import NO_INTERVAL, Interval
from protocols.ledger.errors import WrongGenesisError
from protocols.ledger.fold import LedgerState
from protocols.raft import ports as raftports
from synapsed.control.ledgermodels import Role
from synapsed.driver import Driver
from synapsed.keys import verify
from synapsed.ledger import genesis
from synapsed.ledger.net import CouncilNet
from synapsed.ledger.news import News
from synapsed.ledger.store import LedgerStore, open_ledger_store
from synapsed.paths import Paths
from synapsed.ports import Identity, Net
from synapsed.process import supervise

log = logging.getLogger(__name__)

T = TypeVar("T")

TURN_SECONDS = 0.01
"""Of the machine's work before other tasks get their turn: with the longest single step, a batch
of 400 signatures, a heartbeat waits 25 ms."""
STRANGER_SHARE = 0.05
"""Of a core: what a peer outside the council may cost us in the long run. A follower that fetches
a million entries takes its time, and twenty who only want to hurt take one core ..."""
STRANGER_BURST = 0.5
"""... after so many seconds of a core at once, which is thousands of entries."""
MEMBER_SHARE, MEMBER_BURST = 0.5, 5.0
"""The same of a member of our council: a leader's batches take a quarter of a core at 3,000 entries
a second, and one that lies must not take the core."""
MAX_STRANGERS = 4096
"""Whose costs are remembered: many times the connections that a daemon has, so that nobody
begins anew by connecting again."""


MAX_PUBLISHING, PUBLISH_SECONDS = 64, 5.0
"""Gossip messages of ours under way at once, and seconds for one: it is said again later."""
MAX_SEEN = 256
"""Runs of entries whose way to ratification is timed at once: more than are pipelined."""


class Founded(NamedTuple):
    """What makes a daemon follow a ledger: its first entry, and where the rest is kept."""

    genesis: bytes
    store: LedgerStore


def open_founded(network: str, paths: Paths, emit: supervise.Emit) -> Founded | None:
    """The genesis in a daemon's home and its ledger.db; None where it was given no genesis.

    Raises GenesisError, WrongGenesisError where it is another network's, StoreError.
    """
    if not paths.genesis.exists():
        return None
    payload = genesis.load(paths.genesis)
    if (named := genesis.network_of(payload)) != network:
        raise WrongGenesisError(
            f"{paths.genesis} is the genesis of {named!r}, and this daemon is of {network!r}",
            remedy="set network in the config, or use another home folder",
        )
    return Founded(payload, open_ledger_store(paths.ledger, emit))


class Costs:
    """What peers have cost us, in seconds of a core, and how long each must pause for that."""

    def __init__(self, share: float, burst: float) -> None:
        """`share` of a core for each, in the long run, after `burst` seconds of it at once."""
        self._share, self._burst = share, burst
        self._paid_until: dict[bytes, float] = {}

    def charge(self, peer: bytes, seconds: float, now: float) -> None:
        """Handling what it sent took `seconds`."""
        begun = max(now, self._paid_until.pop(peer, now))
        if len(self._paid_until) >= MAX_STRANGERS:
            del self._paid_until[next(iter(self._paid_until))]  # who was heard longest ago
        self._paid_until[peer] = begun + seconds / self._share

    def pause(self, peer: bytes, now: float) -> float:
        """Seconds until more of it is read."""
        ahead = self._paid_until.get(peer, now) - now
        return max(0.0, ahead - self._burst / self._share)


class LedgerService:
    """One daemon's ledger. Everything here runs in the trio thread."""

    def __init__(
        self,
        net: Net,
        connect: Callable[[bytes], Awaitable[None]],
        identity: Identity,
        founded: Founded,
        emit: supervise.Emit,
        *,
        willing: bool = False,
        keep_all: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`connect` dials a peer or raises NetError. Raises GenesisError, WrongGenesisError where
        the disk holds another ledger, DamagedRecordError.

        `willing` to serve in the council; `keep_all` entries, or only those since a checkpoint.
        """
        self.network = genesis.network_of(founded.genesis)
        self.store = founded.store
        self.on_advanced: list[Callable[[Advanced], None]] = []
        """Called with each run of entries that is ratified and folded. Must not wait."""
        self.on_changed: list[Callable[[], None]] = []
        """Called when the ledger says something else than before. Must not wait."""
        self.on_settled: list[Callable[[Settled], None]] = []
        """Called with what became of each submission of ours. Must not wait."""
        self.on_examine: list[Callable[[Examine], None]] = []
        """Called with what the council's members are to find out. Must not wait."""
        self._net = net
        self._identity = identity
        self.genesis = founded.genesis
        self._emit = emit
        self._settings = participant.Settings(
            willing=willing, following=follow.Settings(prune=not keep_all)
        )
        self._clock = clock
        self._events: deque[Event] = deque()
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._publishing = 0
        self._strangers = Costs(STRANGER_SHARE, STRANGER_BURST)
        self._members = Costs(MEMBER_SHARE, MEMBER_BURST)
        self._frames = CouncilNet(
            net, connect, participant.PROTOCOLS, self._is_member, self._pause_of
        )
        self._ran = False
        self._loaded = trio.Event()
        self._ratified_at: float | None = None
        self._votes: dict[bytes, int] = {}
        self._seen: deque[tuple[int, float]] = deque()
        self._begin()
        self.news = News(identity.peer_id, self.ledger, emit)
        net.on_peer(self._connected, self._disconnected)

    def _begin(self) -> None:
        """A machine from what the disk holds, and a driver for it."""
        key = self.store.key
        self.machine = Participant(
            self.network,
            self.genesis,
            self._identity.peer_id,
            self._identity.sign,
            verify,
            seat_key=SeatKey(key.public_key, key.sign, _secret(key.seed)),
            settings=self._settings,
            read={name: self.store.table(name) for name in (followlog.TABLE, raftports.TABLE)},
        )
        self._driver = Driver(
            "ledger",
            tables={},
            emit=lambda kind, /, **fields: self.news.emit(kind, **fields),
            blame=self._net.blame,
            save_together=self.store.save,
        )
        self._driver.on(Send, self._send)
        self._driver.on(Publish, self._publish)
        self._driver.on(Advanced, self._advanced)
        self._driver.on(Replaced, lambda _replaced: self._changed())
        self._driver.on(Settled, lambda news: _tell(self.on_settled, news))
        self._driver.on(Examine, lambda news: _tell(self.on_examine, news))

    # -- queries -----------------------------------------------------------------------------------

    @property
    def ledger(self) -> LedgerState:
        """The state that the ratified entries leave."""
        return self.machine.ledger

    @property
    def history(self) -> History:
        """The ratified entries that are here, and what proves them."""
        return self.machine.follower.chain.history

    def now(self) -> Instant:
        """The time, as the machine is told it."""
        return Instant(trio.current_time(), int(self._clock() * 1000))

    @property
    def loaded(self) -> bool:
        """Whether the state is that of all that the disk holds, or can be had of it."""
        follower = self.machine.follower
        return follower.whole or follower.halted is not None

    async def wait_loaded(self) -> None:
        """Until then the state is one that was in force long ago. `run` must be under way."""
        await self._loaded.wait()

    @property
    def stalled(self) -> str:
        """Why nothing can be saved, and so nothing is signed; "" where all is well."""
        return self._driver.stalled

    @property
    def role(self) -> Role:
        """What this daemon is to the council."""
        replica = self.machine.replica
        if replica is not None:
            return "lost-state" if replica.lost else "member"
        if self.ledger.council.seat_of(self._identity.peer_id) is not None:
            return "lost-state" if self.machine.seat is None else "member"
        return "willing" if self._settings.willing else "follower"

    @property
    def term(self) -> int:
        """The newest term of this epoch that we know of; 0 for none."""
        replica, newest = self.machine.replica, self.machine.certificate
        if replica is not None:
            return replica.term
        ours = newest is not None and newest.said.epoch == self.ledger.epoch
        return newest.said.term if newest is not None and ours else 0

    @property
    def me(self) -> bytes:
        """This daemon's peer id."""
        return self._identity.peer_id

    @property
    def quiet_s(self) -> float | None:
        """Seconds since something was ratified here, or since the start; None before it."""
        at = self._ratified_at
        return None if at is None else trio.current_time() - at

    def warnings(self) -> list[str]:
        """What the owner should know now."""
        lost = "our seat lost what it had signed, and signs nothing in this epoch"
        return [*self.trouble(), *([lost] if self.role == "lost-state" else [])]

    def trouble(self) -> list[str]:
        """What keeps this daemon from following, or from signing anything."""
        lines = []
        if self.stalled:
            lines.append(f"nothing is signed, because nothing can be saved: {self.stalled}")
        if (halted := self.machine.follower.halted) is not None:
            lines.append(f"the ledger is followed no further: {halted}")
        follower = self.machine.follower
        if follower.strangers and not follower.companions:
            lines.append(_wrong_genesis(follower.strangers, self.history.genesis))
        return lines

    # -- what the daemon says ----------------------------------------------------------------------

    def submit(self, data: bytes) -> None:
        """Have a signed submission, vote or approval ratified: it goes to the council.

        Raises InvalidEntryError where the ledger would not take it, PoolFullError.
        """
        self._driver.submit(self.machine.handle(Submit(data), self.now()))
        self._wake.set()

    def examined(self, proposal: bytes, holds: bool, interval: Interval = NO_INTERVAL) -> None:
        """What a proposal is about can be had, and is what it should be; or not."""
        self._give(Examined(proposal, holds, interval))

    def measured(self, round_trips: Mapping[bytes, int]) -> None:
        """Milliseconds to peers."""
        self._give(Measured(round_trips))

    def next_vote(self, proposal: bytes) -> int:
        """The number of our next vote on an open proposal: above those that are on their way."""
        being = self.ledger.open[proposal]
        counted = being.number_of(self._identity.peer_id)
        self._votes = {
            cid: number for cid, number in self._votes.items() if cid in self.ledger.open
        }
        self._votes[proposal] = max(counted, self._votes.get(proposal, 0)) + 1
        return self._votes[proposal]

    @contextmanager
    def watching(self, data: bytes) -> Iterator[Callable[[], Awaitable[Settled]]]:
        """What becomes of `data`, which is submitted in the block: await it there."""
        settled: list[Settled] = []
        event = trio.Event()

        def hear(news: Settled) -> None:
            if news.data == data:
                settled.append(news)
                event.set()

        async def fate() -> Settled:
            await event.wait()
            return settled[0]

        self.on_settled.append(hear)
        try:
            yield fate
        finally:
            self.on_settled.remove(hear)

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part until cancelled. May be run again after it has failed."""
        if self._ran:
            self._begin()
        else:
            for kind in participant.TOPICS:
                self._net.subscribe(self._topic(kind), self._validator(kind), _nothing_more)
        self._ran = True
        if self._ratified_at is None:
            self._ratified_at = trio.current_time()
        while True:
            await self._run_until_lost()
            # Rule 7: what is lost was signed with the old key, and nothing with the new one. The
            # machine stands for the next council under that.
            self.store.renew()
            self._emit("council.new-key", key=self.store.key.text)
            self._begin()

    async def _run_until_lost(self) -> None:
        """Drive the machine; return where our seat has lost what it had signed."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._frames.run)
            self._events.clear()
            self._give(Start())
            for peer in self._net.peers():
                self._connected(peer.id)
            while self.machine.replica is None or not self.machine.replica.lost:
                await self._drive()
            nursery.cancel_scope.cancel()

    async def _drive(self) -> None:
        """One turn of the machine's and what follows from it, or waiting for the next one."""
        if self._turn():
            await self._driver.drain()
            await trio.lowlevel.checkpoint()
        else:
            if self.loaded:
                self._loaded.set()
            await self._rest()

    def _turn(self) -> bool:
        """Work until there are effects, for a turn's time at most; False with nothing to do."""
        until = time.perf_counter() + TURN_SECONDS
        if self._driver.waiting:
            return True
        while (event := self._next()) is not None:
            if self._handle(event) or time.perf_counter() > until:
                return True
        return False

    def _next(self) -> Event | None:
        """The event that the machine gets next."""
        if self._events:
            return self._events.popleft()
        alarm = self.machine.wake_at()
        if alarm is not None and alarm <= trio.current_time():
            return Alarm()
        if (found := self._frames.inbox.take()) is not None:
            lane, frame = found
            return Received(lane.peer, lane.protocol, frame)
        return None

    def _handle(self, event: Event) -> bool:
        """Whether anything follows from it."""
        began = time.thread_time()
        now = self.now()
        effects = self.machine.handle(event, now)
        if isinstance(event, Received):
            self._costs_of(event.peer).charge(event.peer, time.thread_time() - began, now.mono)
        self._driver.submit(effects)
        self._look(now.mono)
        return bool(effects)

    def _look(self, now: float) -> None:
        """Remember when our seat first had the entries that it has now."""
        replica = self.machine.replica
        if replica is None:
            self._seen.clear()
            return
        end = replica.end.index
        newest = self._seen[-1][0] if self._seen else self.ledger.head.index
        if end > newest and len(self._seen) < MAX_SEEN:
            self._seen.append((end, now))

    async def _rest(self) -> None:
        """Wait until something comes, or the machine's alarm."""
        self._wake = self._frames.inbox.arrived = trio.Event()
        alarm = self.machine.wake_at()
        with trio.move_on_at(inf if alarm is None else alarm):
            await self._wake.wait()

    def _give(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    # -- peers -------------------------------------------------------------------------------------

    def _connected(self, peer: bytes) -> None:
        self._give(PeerUp(peer))

    def _disconnected(self, peer: bytes) -> None:
        self._give(PeerDown(peer))

    def _is_member(self, peer: bytes) -> bool:
        """Whether we serve in one council. Who has no seat is in nobody's hurry."""
        machine = self.machine
        return machine.seat is not None and machine.ledger.council.seat_of(peer) is not None

    def _costs_of(self, peer: bytes) -> Costs:
        return self._members if self._is_member(peer) else self._strangers

    def _pause_of(self, peer: bytes) -> float:
        return self._costs_of(peer).pause(peer, trio.current_time())

    def _advanced(self, news: Advanced) -> None:
        self._ratified_at = now = trio.current_time()
        seen = None
        while self._seen and self._seen[0][0] <= news.certificate.said.index:
            at = self._seen.popleft()[1]
            seen = at if seen is None else seen
        self.news.advanced(news, self.ledger, None if seen is None else 1e3 * (now - seen))
        self.news.behind(self.machine.follower.behind, self.ledger.head.index)
        _tell(self.on_advanced, news)
        self._changed()

    def _changed(self) -> None:
        for tell in self.on_changed:
            tell()

    # -- effects -----------------------------------------------------------------------------------

    def _send(self, send: Send) -> None:
        self._frames.send(send.peer, send.protocol, send.data)

    def _topic(self, kind: str) -> str:
        return f"/synapse/{self.network}/{kind}/1"

    def _publish(self, publish: Publish) -> None:
        # Gossip waits for slow neighbours; the machine does not wait for gossip.
        if self._nursery is not None and self._publishing < MAX_PUBLISHING:
            self._publishing += 1
            self._nursery.start_soon(self._gossip, publish)

    async def _gossip(self, publish: Publish) -> None:
        try:
            with trio.move_on_after(PUBLISH_SECONDS):
                await self._net.publish(self._topic(publish.kind), publish.data)
        except SynapseError as error:
            log.debug("gossiping a %s: %s", publish.kind, error)
        finally:
            self._publishing -= 1

    def _validator(self, kind: str) -> Callable[[bytes, bytes], Verdict]:
        def validate(sender: bytes, data: bytes) -> Verdict:
            verdict, effects = self.machine.hear(sender, kind, data, self.now())
            self._driver.submit(effects)
            self._wake.set()
            return verdict

        return validate


def _tell(listeners: list[Callable[[T], None]], news: T) -> None:
    for tell in tuple(listeners):
        tell(news)


def _wrong_genesis(strangers: Mapping[bytes, bytes], ours: bytes) -> str:
    """What to say where nobody who was asked follows our genesis."""
    hashes = [theirs.hex()[:16] for theirs, _ in Counter(strangers.values()).most_common()]
    count = len(strangers)
    who = "the only peer that was asked follows"
    if count > 1:
        who = f"all {count} peers that were asked follow"
    others = f" and {len(hashes) - 1} more" if len(hashes) > 1 else ""
    return (
        f"{who} another genesis ({hashes[0]}...{others}; ours is {ours.hex()[:16]}...):"
        " compare `synapsectl genesis show` with theirs, and init with the right file"
    )


def _secret(seed: bytes) -> bytes:
    """What a seat's commitments are derived from: as secret as its key, and not the key."""
    return hashlib.sha256(b"synapse seat secret" + seed).digest()


async def _nothing_more(_sender: bytes, _data: bytes) -> None:
    """The validator has done it all."""
