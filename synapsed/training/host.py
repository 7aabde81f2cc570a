"""One tile group as one of its three replicas: its log and its rounds, driven.

    Replica   the log on three disks (protocols/learn/replica.py)
    Rounds    what it means, and when a round closes (protocols/learn/rounds.py)
    Chain     the versions that it made (chain.py)
    worker    makes every round, ours and those of other primaries, and replays where a version is
              wanted as a file

Both machines answer at once, with effects that one Driver performs in order; saves are synced
before anything that depends on them leaves. Whatever takes time (fetching blobs, aggregating) is a
task of its own, whose end is an event like any other.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import msgspec
import trio

from protocols.codec import decode
from protocols.effects import Save, Send
from protocols.errors import SynapseError
from protocols.learn import messages, replica_ports
from protocols.learn import round_ports as rounds
from protocols.learn.case import Wrong
from protocols.learn.claims import Record, Round, Sum
from protocols.learn.partition import Group
from protocols.learn.replica import Replica
from protocols.learn.replica_ports import GroupId, ReplicaSettings, Seats
from protocols.learn.round_ports import RoundsSettings
from protocols.learn.roundlog import Standing, encode_body, pending_of
from protocols.learn.rounds import Rounds
from protocols.peerid import peer_id_text
from protocols.plan import Plan
from synapsed.compute.errors import BadDeltaError
from synapsed.driver import Driver
from synapsed.net.errors import NetError
from synapsed.store.db import Change
from synapsed.training.catching import Catching
from synapsed.training.chain import MAX_RECORD, Chain
from synapsed.training.errors import BlobUnknownError, StateLackingError, WrongHeadError
from synapsed.training.post import Post
from synapsed.training.pulling import Pulling
from synapsed.training.workbench import Workbench, compact

log = logging.getLogger(__name__)

FETCH_AGAIN_S = 1.0
"""Until blobs that nobody could give are asked for again."""
DISTRUSTED = "learn-distrusted"
"""Of the records' database: key = group_key || epoch (4 bytes, big-endian) || peer, empty: who lied
to us in that epoch."""


def _ignored(_number: int) -> None:
    """For rounds that nobody waits for."""


class Host:
    """A group here. `run` it; `hear`, `frame`, `turn` and `tick` tell it what happens."""

    def __init__(
        self,
        post: Post,
        chain: Chain,
        plan: Plan,
        settings: ReplicaSettings,
        *,
        genesis: bytes | None,
        seats: tuple[Seats, ...],
        first: int,
        born: int,
        can_lead: bool,
        max_delta: int,
        check: Callable[[Record], None],
        established: Callable[[int], None] = _ignored,
        may_aggregate: Callable[[bytes], bool] = lambda _peer: True,
        former: Sequence[Plan] = (),
    ) -> None:
        """`chain` is ready; `check` raises SynapseError for a record that proves nothing;
        `established` is told of epochs in which something was committed;
        `may_aggregate` says whose sums are taken; `former` are the plans before this one. The
        others as Replica has them."""
        self.chain = chain
        self.group: Group = chain.group
        self._post = post
        self._plan = plan
        self._former = tuple(former)
        self._max_delta = max_delta
        assert genesis is not None
        self._check = check
        self._may_aggregate = may_aggregate
        self.on_record: Callable[[Record], None] = lambda _record: None
        self.on_sum: Callable[[Sum], None] = lambda _said: None
        self.on_wrong: Callable[[Wrong], None] = lambda _wrong: None
        """Called with what proves that somebody signed a round that its inputs do not make."""
        self._genesis = genesis
        self.id = GroupId(post.lineage, self.group.number)
        rows = dict(post.records.table(replica_ports.TABLE).items(self.id.key))
        self.seats = seats
        self.replica = Replica(
            settings=settings,
            me=post.me,
            group=self.id,
            seats=seats,
            first=first,
            born=born,
            saved=rows,
            can_lead=can_lead,
        )
        self.rounds = self._new_rounds(seats[0])
        self.retired = trio.Event()
        self._driver = Driver(
            f"group {self.group.number}",
            tables={},
            emit=self._emit,
            blame=post.blame,
            save_together=self._save,
        )
        performers: dict[type, Callable[[Any], None]] = {
            Send: lambda send: post.links.say(send.peer, send.protocol, send.data),
            replica_ports.Fetch: self._to_fetch,
            replica_ports.Committed: self._committed,
            replica_ports.Installed: self._installed,
            replica_ports.Leading: self._leading,
            replica_ports.Following: self._following,
            replica_ports.Declined: self._declined,
            replica_ports.Established: lambda it: established(it.epoch),
            replica_ports.Release: lambda it: self._released(it.blobs),
            replica_ports.Retired: lambda _: self.retired.set(),
            replica_ports.Orphaned: self._orphaned,
            rounds.Fold: self._fold,
            rounds.Lied: lambda it: post.spawn(self._accuse, it),
            rounds.Distrust: lambda it: self._distrust(it.peer),
            rounds.Contradicted: lambda it: self._tell(replica_ports.Damaged(it.why)),
            rounds.Propose: self._propose,
            rounds.Aggregate: lambda it: post.spawn(self._aggregate, it),
            rounds.Advance: lambda it: self._advance(it.round),
            rounds.Release: lambda _: None,
        }
        for kind, perform in performers.items():
            self._driver.on(kind, perform)
        self._waiting: deque[rounds.Propose] = deque()
        self._followed: replica_ports.Term | None = None
        self._fetching: set[tuple[bytes, bytes]] = set()
        """Peers, and blobs that they were asked for."""
        self._entries: set[bytes] = set()
        """Blobs of the log's entries, until the log says Release."""
        self._pulling = Pulling(post, self.group, lambda: self.rounds, self._taken)
        self._catching = Catching(post, chain, lambda: self.rounds, lambda: self._others, check)
        self._bench = Workbench(post, chain, self._catching.number_of)
        self._poked = trio.Event()
        self.on_advanced: Callable[[int], None] = _ignored

    def _settings(self, seats: Seats) -> RoundsSettings:
        return RoundsSettings(
            realm=self._post.realm,
            model=self._post.lineage,
            group=self.group.number,
            plan=self._plan,
            former=self._former,
            genesis=self._genesis,
            me=self._post.me,
            epoch=seats.epoch,
            replicas=seats.replicas,
            max_delta=self._max_delta,
            may_aggregate=self._may_aggregate,
            check=self._check,
        )

    def _new_rounds(self, seats: Seats) -> Rounds:
        post = self._post
        settings = self._settings(seats)
        return Rounds(settings, post.identity.sign, post.verify, self.chain.record, post.now())

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled, or until a later epoch's group serves without us."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._driver.run)
            nursery.start_soon(self._compact)
            for peer in self._distrusted():
                self._tell(replica_ports.Distrusted(peer))
            self._driver.submit(self.replica.start(self._post.now()))
            lost = [it for it in self.replica.blobs() if not self._post.blobs.has(it)]
            if lost:  # rule 4 of replica.py: it said that it has them
                self._tell(replica_ports.Damaged(f"{len(lost)} blobs of the log are not here"))
            nursery.start_soon(self._alarms)
            await self.retired.wait()
            nursery.cancel_scope.cancel()

    async def _alarms(self) -> None:
        while True:
            self._poked = trio.Event()
            wakes = [at for at in (self.replica.next_wake, self.rounds.next_wake) if at is not None]
            now = self._post.now()
            with trio.move_on_after(max(0.0, (min(wakes) - now) / 1000) if wakes else inf):
                await self._poked.wait()
            now = self._post.now()
            if (at := self.replica.next_wake) is not None and at <= now:
                self._tell(replica_ports.Tick())
            if (at := self.rounds.next_wake) is not None and at <= now:
                self._tell_rounds(rounds.Tick())
            await trio.lowlevel.checkpoint()

    def _tell(self, event: replica_ports.Event) -> None:
        self._driver.submit(self.replica.handle(event, self._post.now()))
        self._poked.set()

    def _tell_rounds(self, event: rounds.Event) -> None:
        effects = self.rounds.handle(event, self._post.now())
        self._submit_rounds(effects)

    def _submit_rounds(self, effects: rounds.Effects) -> None:
        plain: list[object] = []
        for effect in effects:
            if isinstance(effect, rounds.Say):
                self._to_send(effect, plain)
            else:
                plain.append(effect)
                if isinstance(effect, Save) and effect.value is not None:
                    self.on_record(decode(effect.value, Record, MAX_RECORD))
        self._driver.submit(plain)
        self._poked.set()

    def _to_send(self, say: rounds.Say, plain: list[object]) -> None:
        """A message is sent like any frame: what was saved before it is synced first."""
        if say.peer == self._post.me:
            self._post.deliver(say.peer, say.message)
        else:
            plain.append(Send(say.peer, messages.PROTOCOL, messages.pack(say.message)))

    def _save(self, saves: Sequence[Save], durable: bool) -> None:
        self._post.records.save(
            [Change(save.table, save.key, save.value) for save in saves], durable=durable
        )

    def _emit(self, kind: str, /, **fields: object) -> None:
        self._post.tell(kind.replace("learn.", "training.", 1), **fields)

    # -- what others say ---------------------------------------------------------------------------

    def frame(self, peer: bytes, data: bytes) -> None:
        """A frame among replicas."""
        self._tell(replica_ports.Heard(peer, data))

    def hear(self, peer: bytes, message: messages.Said) -> None:
        """A message for the group. Raises MalformedError."""
        if isinstance(message, messages.Push):
            self._pulling.pushed(peer, message)
        elif isinstance(message, messages.Records):
            self._post.attend(peer, self._records, peer, message)
        else:
            self._tell_rounds(rounds.Heard(peer, message))

    def _taken(self, peer: bytes, push: messages.Push) -> None:
        if isinstance(push.said, Sum):
            self.on_sum(push.said)
        self._tell_rounds(rounds.Heard(peer, push))

    # -- the log -----------------------------------------------------------------------------------

    def _to_fetch(self, wanted: replica_ports.Fetch) -> None:
        """It is asked for again and again while they are missing: of one peer once is enough. A
        new primary is asked for what the one before was asked for, who may answer never more."""
        peer, fetching = wanted.peer, self._fetching
        blobs = {it.digest: it.size for it in wanted.blobs if (peer, it.digest) not in fetching}
        if blobs:
            fetching.update((peer, digest) for digest in blobs)
            self._post.spawn(self._fetch, peer, blobs)

    async def _fetch(self, peer: bytes, blobs: dict[bytes, int]) -> None:
        try:
            await self._bring(peer, blobs)
        finally:
            self._fetching.difference_update((peer, digest) for digest in blobs)

    async def _bring(self, named: bytes, blobs: dict[bytes, int]) -> None:
        """Blobs of entries: of whoever named them, else of the others."""
        for peer in dict.fromkeys((named, *self._others)):
            try:
                await self._post.exchange.fetch(peer, self._post.lineage, blobs)
            except (NetError, BlobUnknownError) as error:
                log.debug("group %d: %s", self.group.number, error)
            except SynapseError as error:
                log.warning("group %d: %s", self.group.number, error)
                return
            else:
                break
        here = tuple(digest for digest in blobs if self._post.blobs.has(digest))
        self._entries.update(here)
        if here:
            self._tell(replica_ports.Stored(here))

    def _committed(self, entry: replica_ports.Committed) -> None:
        before = len(self.rounds.log.pending)
        said = rounds.Committed(entry.body, entry.tag, entry.index, entry.writer)
        self._tell_rounds(said)
        if len(self.rounds.log.pending) > before:
            self._post.tell(
                "training.taken",
                group=self.group.number,
                number=self.rounds.log.number,
                deltas=len(self.rounds.log.pending),
            )
        self._propose_waiting()

    def _blobs_of(self, state: Standing) -> tuple[replica_ports.Blob, ...]:
        """What a successor needs to go on with the open round."""
        found = (pending_of(said, self.group.number) for said in state.pending)
        return tuple(sorted(replica_ports.Blob(it.made.digest, it.made.size) for it in found if it))

    def _fold(self, news: rounds.Fold) -> None:
        """The log need not hold what stands in a record."""
        blobs = self._blobs_of(news.standing)
        self._tell(replica_ports.Folded(news.index, encode_body(news.standing), blobs))

    def _installed(self, news: replica_ports.Installed) -> None:
        self.rounds = self._new_rounds(self.seats[0])
        if news.snapshot.state:
            self._tell_rounds(rounds.Installed(news.snapshot.state, news.snapshot.index))
        self._tell_leader()

    def _tell_leader(self) -> None:
        """New rounds do not know who leads; the log says it only when that changes."""
        if (term := self.replica.leading) is not None:
            self._tell_rounds(rounds.Led(term))
        elif self._followed is not None:
            self._tell_rounds(rounds.Followed(self._followed, self.replica.primary))

    def _leading(self, news: replica_ports.Leading) -> None:
        self._post.tell(
            "training.primary",
            group=self.group.number,
            epoch=news.term.epoch,
            term=news.term.number,
            primary=peer_id_text(self._post.me),
            own=True,
        )
        self._tell_rounds(rounds.Led(news.term))

    def _following(self, news: replica_ports.Following) -> None:
        if news.primary is not None:
            self._post.tell(
                "training.primary",
                group=self.group.number,
                epoch=news.term.epoch,
                term=news.term.number,
                primary=peer_id_text(news.primary),
                own=False,
            )
        self._waiting.clear()
        self._followed = news.term
        self._tell_rounds(rounds.Followed(news.term, news.primary))

    def _propose(self, offer: rounds.Propose) -> None:
        self._waiting.append(offer)
        self._propose_waiting()

    def _propose_waiting(self) -> None:
        while self._waiting and self.replica.room > 0:
            offer = self._waiting.popleft()
            blobs = tuple(replica_ports.Blob(blob.digest, blob.size) for blob in offer.blobs)
            self._entries.update(blob.digest for blob in blobs)
            self._tell(replica_ports.Propose(offer.body, blobs, offer.tag))

    def _declined(self, news: replica_ports.Declined) -> None:
        log.debug("group %d: an offer was declined: %s", self.group.number, news.why)
        self._tell_rounds(rounds.Declined(news.tag))

    def _orphaned(self, _news: replica_ports.Orphaned) -> None:
        """Nobody of the old group is left: go on from the newest version that is here and in a
        record."""
        chain = self.chain
        number = chain.number
        while number > 0 and chain.record(number - 1) is None:
            number -= 1
        last = chain.record(number - 1) if number else None
        standing = Standing(
            number=number,
            head=self._genesis if last is None else last.round.head,
            pending=(),
            carried=0,
            seen=(),
            seen_before=(),
            spread=self.rounds.log.spread,
            last=last,
        )
        self._post.tell("training.refounded", group=self.group.number, number=number)
        snapshot = replica_ports.Snapshot(1, encode_body(standing))
        self._tell(replica_ports.Refound(snapshot))

    def _released(self, blobs: Sequence[replica_ports.Blob]) -> None:
        """`sweep` takes what `needed` does not name."""
        self._entries.difference_update(blob.digest for blob in blobs)

    # -- the ledger --------------------------------------------------------------------------------

    def turn(self, seats: tuple[Seats, ...]) -> None:
        """A new epoch; the newest first."""
        if seats[0].epoch <= self.seats[0].epoch:
            return
        self.seats = seats
        if self._post.me in seats[0].replicas:
            self.rounds.turn(self._settings(seats[0]), self._post.now())
        self._tell(replica_ports.Turned(seats))

    def lost(self, peer: bytes) -> None:
        """The connection with a peer has ended."""
        if self.knows(peer):
            self._tell(replica_ports.Lost(peer))

    def knows(self, peer: bytes) -> bool:
        """Whether a peer is, or was, a replica of the group in an epoch that may still matter."""
        return any(peer in seats.replicas for seats in self.seats)

    def tick(self, index: int, tick_ms: int) -> None:
        """The ledger has a newer tick."""
        self._tell(replica_ports.Ticked(index, tick_ms, int(time.time() * 1000)))

    def able(self, can_lead: bool) -> None:
        """Whether the worker computes."""
        self._tell(replica_ports.Able(can_lead))

    @property
    def needed(self) -> set[bytes]:
        """Blobs that the log, and the open round, need; with those of the rounds that are kept, and
        the newest outer states."""
        needed = {it.made.digest for it in self.rounds.log.pending.values()}
        if (last := self.rounds.log.last) is not None:
            needed |= {last.before, last.after}
        for number in range(self.rounds.log.number - rounds.KEEP_ROUNDS, self.rounds.log.number):
            decided = self.chain.round(number)
            if decided is not None:
                needed |= {entry.digest for entry in decided.inputs}
        return needed | self.replica.blobs() | self._entries | self._offered

    @property
    def _offered(self) -> set[bytes]:
        return {blob.digest for offer in self._waiting for blob in offer.blobs}

    # -- versions ----------------------------------------------------------------------------------

    def _advance(self, decided: Round) -> None:
        """A round is committed: the chain has one link more, if it reaches so far."""
        self._bench.committed(decided)
        try:
            if self.chain.number == decided.number and self._post.blobs.has(decided.result):
                self.chain.follow(decided)
                self.rounds.oldest = self.chain.oldest
            elif self.chain.number <= decided.number:
                self._catching.catch_up()
        except WrongHeadError as error:
            log.error("group %d: %s", self.group.number, error)
            self._post.tell("training.diverged", group=self.group.number, why=str(error))
            self.chain.rewind()
            self._catching.catch_up()
        self._post.tell(
            "training.round",
            group=self.group.number,
            number=decided.number,
            inputs=len(decided.inputs),
            learners=sum(max(1, entry.of) for entry in decided.inputs),
            sums=[peer_id_text(entry.learner) for entry in decided.inputs if entry.of],
            bytes=decided.size,
            own=self.rounds.leading,
            head=decided.head.hex(),
        )
        self.on_advanced(decided.number)

    @property
    def _others(self) -> list[bytes]:
        """The group's other replicas; all three of the newest epoch's, where we are none."""
        return [peer for peer in self.seats[0].replicas if peer != self._post.me]

    @property
    def _elders(self) -> list[bytes]:
        """Who served in the epochs before, as far as they may matter."""
        found = (peer for seats in self.seats[1:] for peer in seats.replicas)
        return [peer for peer in dict.fromkeys(found) if peer not in self.seats[0].replicas]

    async def _records(self, peer: bytes, said: messages.Records) -> None:
        known = [one for one in said.records if self.chain.record(one.round.number) is None]
        self._tell_rounds(rounds.Heard(peer, msgspec.structs.replace(said, records=tuple(known))))
        await self._catching.records(peer, said)

    async def _aggregate(self, wanted: rounds.Aggregate) -> None:
        """Make a round, ours or another's. However it ends, the machine hears of it: it goes on."""
        answer: rounds.Event = rounds.NotAggregated(wanted.ticket, "it broke off")
        machine = self.rounds
        try:
            answer = await self._bench.make_round(wanted, [*self._others, *self._elders])
        except BadDeltaError as error:
            bad = await self._bench.unusable(wanted)
            answer = rounds.NotAggregated(wanted.ticket, str(error), bad)
        except StateLackingError as error:
            answer = rounds.NotAggregated(wanted.ticket, str(error), lacking=True)
        except SynapseError as error:
            answer = rounds.NotAggregated(wanted.ticket, str(error))
        finally:
            if isinstance(answer, rounds.NotAggregated):
                # Who only judges may be paused, or have no torch: that is said elsewhere.
                level = logging.DEBUG if wanted.judging else logging.WARNING
                said = "group %d: round %d: %s"
                log.log(level, said, self.group.number, wanted.number, answer.why)
                self._bench.begin_anew()
            if machine is self.rounds:
                self._tell_rounds(answer)

    # -- who lied ----------------------------------------------------------------------------------

    async def _accuse(self, lied: rounds.Lied) -> None:
        """Hand on what proves it, unless it is our own disk that is wrong."""
        try:
            sound = await self._bench.is_sound(lied.round)
        except SynapseError as error:
            log.warning("group %d: looking at what we computed: %s", self.group.number, error)
            sound = False
        if sound:
            self.on_wrong(Wrong(lied.round, lied.by))
        else:
            self._tell(replica_ports.Damaged("what a round was computed from"))

    def _distrust(self, peer: bytes) -> None:
        """For this epoch, also after a restart."""
        key = self.id.key + self.seats[0].epoch.to_bytes(4, "big") + peer
        self._post.records.save([Change(DISTRUSTED, key, b"")])
        self._tell(replica_ports.Distrusted(peer))

    def _distrusted(self) -> list[bytes]:
        """Of this epoch; older ones are forgotten."""
        now = self.id.key + self.seats[0].epoch.to_bytes(4, "big")
        rows = [key for key, _ in self._post.records.table(DISTRUSTED).items(self.id.key)]
        old = [key for key in rows if not key.startswith(now)]
        self._post.records.save([Change(DISTRUSTED, key, None) for key in old])
        return [key[len(now) :] for key in rows if key.startswith(now)]

    # -- compaction --------------------------------------------------------------------------------

    async def _compact(self) -> None:
        while True:
            await trio.sleep(1.0)
            if self.chain.ready and (why := self.chain.due()):
                try:
                    await self.compact(why)
                except SynapseError as error:
                    log.warning("group %d: compaction: %s", self.group.number, error)

    async def compact(self, why: str) -> None:
        """Replay what stands behind the base into a new one. WrongHeadError, ComputeError."""
        await compact(self._post, self.chain, why)
        self.rounds.oldest = self.chain.oldest
