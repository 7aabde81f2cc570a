"""One model that learns, as far as this daemon has to do with it: its groups here, its learner."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import trio

from protocols.cid import cid_text
from protocols.codec import decode, encode
from protocols.errors import SynapseError
from protocols.learn import delta, messages
from protocols.learn.claims import Record, Round, Sum, check_record
from protocols.learn.partition import Group, group_key
from protocols.learn.replica_ports import TABLE, ReplicaSettings, Seats
from protocols.peerid import peer_id_text
from protocols.plan import Plan, plan_digest
from synapsed.compute.errors import NotInstalledError
from synapsed.store.db import Change
from synapsed.training.accuser import Accuser
from synapsed.training.chain import Chain, sweep
from synapsed.training.errors import BlobUnknownError, CannotLearnError
from synapsed.training.exchange import Role
from synapsed.training.firsts import write_first
from synapsed.training.ground import Places, Terms
from synapsed.training.host import Host
from synapsed.training.materials import Cutting, Materials
from synapsed.training.post import Post
from synapsed.training.region import Region
from synapsed.training.review import Reviewer
from synapsed.training.said import GroupSaid
from synapsed.training.study import Course, Study
from synapsed.training.way import RoundTrip, no_round_trip
from synapsed.training.workbench import compact, replayed

log = logging.getLogger(__name__)

GENESIS = "learn-genesis"
"""Of the records' database: key = group_key, value = the root of version 0."""
COURSES = "learn-courses"
"""key = lineage, value = Course: what is learned here."""
FIRST = "learn-first"
"""key = lineage, value = the epoch in which its training was opened."""
ESTABLISHED, RETIRED = "learn-established", "learn-retired"
"""key = group_key, value = epoch: in which something was committed; in which we were let go."""
PLANS = "learn-plans"
"""key = lineage || plan_digest, value = Plan: those that were in force, as far as seen here."""
MAX_PLANS = 64
"""That a round may be made by: a training's plan is replaced seldom, and by a vote."""
RECENT = 3
"""Epochs whose groups we may have to seal although nothing of them lies here: drawn, not begun."""
AGAIN_S, AGAIN_LATEST_S = 0.5, 30.0
"""Until what failed is tried again, doubling: models are pulled from peers that come and go."""
SWEEP_S = 30.0
"""Between two looks for blobs that nothing needs any more."""
FP32 = 4


class Lineage:
    """`run` it; `turn`, `tick`, `join` and `leave` tell it what happens."""

    def __init__(
        self,
        post: Post,
        terms: Terms,
        places: Places,
        materials: Materials,
        settings: ReplicaSettings,
        *,
        serve: bool,
        born: Callable[[], int | None],
        can_lead: Callable[[], bool],
        round_trip: RoundTrip = no_round_trip,
        audit_one_in: int | None = None,
    ) -> None:
        """`serve`: whether groups that are drawn for us are hosted."""
        self.post = post
        self.terms = terms
        self.hosts: dict[int, Host] = {}
        self.study: Study | None = None
        self.cutting: Cutting | None = None
        self.chains: list[Chain] = []
        self.why = ""
        self.wanted_records: set[int] = set()
        """Groups of which somebody here wants records of any round (publish.py)."""
        self.region: Region | None = None
        self._places = places
        self.materials = materials
        self._settings = settings
        self._serve = serve
        self._born = born
        self._can_lead = can_lead
        self._round_trip = round_trip
        self._audit_one_in = audit_one_in
        self.accuser = Accuser(post, self.version_file)
        """What was caught here, for accusing.py."""
        self.reviewer = Reviewer(self)
        self._excluded: frozenset[bytes] = frozenset()
        self._changed = trio.Event()
        self._study_scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._tick = (0, 0)
        self._hosting: set[int] = set()
        self.first = self._find_first()
        self._making: set[int] = set()
        self.plans = self._known_plans()
        """The training's plan, and those before it that were seen here, by plan_digest."""
        kept = post.records.table(COURSES).get(post.lineage)
        self.course = None if kept is None else msgspec.msgpack.decode(kept, type=Course)

    # -- who serves --------------------------------------------------------------------------------

    def seats(self, group: int, epoch: int) -> tuple[bytes, ...]:
        """The replicas of a group in an epoch; () where that is not known."""
        if self.cutting is None or epoch < self.first:
            return ()
        found = self._places.groups(self.post.lineage, len(self.cutting.groups), epoch)
        return found[group] if group < len(found) else ()

    def seats_of(self, group: int) -> tuple[Seats, ...]:
        """Of the epochs since one was established, or the training began; the newest first."""
        found: list[Seats] = []
        oldest = max(self._established(group), self.first)
        for epoch in self._places.epochs:
            drawn = self._places.drawn(epoch)
            three = self._drawn_for(group, epoch)
            if epoch < oldest or drawn is None or three is None:
                break
            if found and found[-1].epoch != epoch + 1:
                break
            began, started = drawn.began, drawn.started_ms
            if epoch == self.first:
                began = max(began, self.terms.opened)
                started = max(started, self.terms.opened_ms)
            found.append(Seats(epoch, three, began, started))
        return tuple(found)

    def _drawn_for(self, group: int, epoch: int) -> tuple[bytes, ...] | None:
        """A group's three in an epoch; () where it was not served; None where that is not known."""
        if self.cutting is None:
            return None
        found = self._places.groups(self.post.lineage, len(self.cutting.groups), epoch)
        return found[group] if group < len(found) else None

    def _find_first(self) -> int:
        """The epoch in which the training was opened, as it was first known: the ledger forgets."""
        kept = self.post.records.table(FIRST).get(self.post.lineage)
        if kept is not None:
            return int.from_bytes(kept, "big")
        first = self.terms.first.to_bytes(4, "big")
        self.post.records.save([Change(FIRST, self.post.lineage, first)])
        return self.terms.first

    def _known_plans(self) -> dict[bytes, Plan]:
        table, now = self.post.records.table(PLANS), self.terms.plan
        key = self.post.lineage + plan_digest(now)
        if table.get(key) is None:
            self.post.records.save([Change(PLANS, key, encode(now))])
        rows = table.items(self.post.lineage)[:MAX_PLANS]
        found = [decode(row, Plan) for _, row in rows]
        return {plan_digest(plan): plan for plan in (*found, now)}

    def _mine(self) -> list[int]:
        """Groups that are to have a host here: drawn for us now, or begun and not yet handed on."""
        if not self._serve or self.cutting is None:
            return []
        return [group.number for group in self.cutting.groups if self._is_mine(group.number)]

    def _is_mine(self, number: int) -> bool:
        seats = self.seats_of(number)
        if seats and self.post.me in seats[0].replicas:
            return True
        if self._word(RETIRED, number) == self._places.epoch:
            return False
        begun = bool(self.post.records.table(TABLE).items(group_key(self.post.lineage, number)))
        lately = seats[1:] if begun else seats[1:RECENT]
        return any(self.post.me in each.replicas for each in lately)

    def _established(self, number: int) -> int:
        """The newest epoch in which something was committed, as far as we were told."""
        return self._word(ESTABLISHED, number)

    def _word(self, table: str, number: int) -> int:
        """An epoch that a table has of a group; 0 for none."""
        found = self.post.records.table(table).get(group_key(self.post.lineage, number))
        return 0 if found is None else int.from_bytes(found, "big")

    def _remember_epoch(self, table: str, number: int, epoch: int) -> None:
        key = group_key(self.post.lineage, number)
        self.post.records.save([Change(table, key, epoch.to_bytes(4, "big"))])

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part until cancelled."""
        wait = AGAIN_S
        while self.cutting is None:
            try:
                cutting = await self.materials.cut(self.post.lineage, self.terms.plan.group_bytes)
                self._cut(cutting)
            except SynapseError as error:
                self.why = str(error)
                log.info("%s: %s", cid_text(self.post.lineage), error)
                await trio.sleep(wait)
                wait = min(2 * wait, AGAIN_LATEST_S)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._sweep)
            assert self.region is not None
            nursery.start_soon(self.region.run)
            while True:
                self._changed = trio.Event()
                self._arrange()
                await self._changed.wait()

    def _cut(self, cutting: Cutting) -> None:
        self.chains = [
            Chain(self.post.records, self.post.blobs, self.post.lineage, group)
            for group in cutting.groups
        ]
        self.region = Region(
            self.post.of("aggregator"),
            self.terms.plan,
            cutting.groups,
            self._places,
            self.seats,
            round_trip=self._round_trip,
            able=self._can_lead,
            one_in=self._audit_one_in,
        )
        self.region.way.primaries = lambda: {} if self.study is None else self.study.primaries
        self.region.way.on_route = self._routed
        self.region.on_wrong_sum = self.accuser.sum_is_wrong
        self.region.exclude(self._excluded)
        self.cutting, self.why = cutting, ""

    def _routed(self, aggregator: bytes | None) -> None:
        if self.study is not None:
            self.study.routed(aggregator)

    def _arrange(self) -> None:
        """Have a host for each group of ours, and a learner where we joined."""
        assert self._nursery is not None
        for number in self._mine():
            if number not in self.hosts:
                self._nursery.start_soon(self._host, number)
        for host in self.hosts.values():
            if seats := self.seats_of(host.group.number):
                host.turn(seats)
        if self.study is not None:
            self.study.turn(self._places.epoch)
        if self.region is not None:
            self.region.turn(self._places.epoch)
        if self.course is not None and self._study_scope is None:
            self._study_scope = trio.CancelScope()
            self._nursery.start_soon(self._learn, self._study_scope)

    async def _host(self, number: int) -> None:
        """Serve a group, from when its first version is here until it is another's."""
        if number in self._hosting:
            return
        self._hosting.add(number)
        try:
            await self._begun([number])
            assert self.region is not None
            while (born := self._born()) is None or not (seats := self.seats_of(number)):
                await self._changed.wait()
                await trio.lowlevel.checkpoint()
            host = Host(
                self.post,
                self.chains[number],
                self.terms.plan,
                self._settings,
                genesis=self._genesis(number),
                seats=seats,
                first=self.first,
                born=born,
                can_lead=self._can_lead(),
                max_delta=self._max_delta(self.chains[number].group),
                established=partial(self._remember_epoch, ESTABLISHED, number),
                check=self._check,
                may_aggregate=self.region.may_aggregate,
                former=[plan for plan in self.plans.values() if plan != self.terms.plan],
            )
            host.on_record = self.region.recorded
            host.on_sum = self.region.note_sum
            host.on_wrong = self.accuser.round_is_wrong
            self.hosts[number] = host
            if self._tick != (0, 0):
                host.tick(*self._tick)
            host.turn(seats)
            await host.run()
        finally:
            self._hosting.discard(number)
            self.hosts.pop(number, None)
        self._remember_epoch(RETIRED, number, self._places.epoch)
        self.post.tell("training.retired", group=number)
        self._changed.set()

    async def _begun(self, groups: list[int] | None) -> None:
        """Have a version of these groups here, all of them for None: the first, where none is."""
        assert self.cutting is not None
        wanted = [group.number for group in self.cutting.groups] if groups is None else groups
        # A learner needs the whole model, with what holds no tensors, whatever was cut already.
        brought = groups is not None
        wait = AGAIN_S
        while (lacking := self._lacking(wanted)) or not brought:
            try:
                part = None if groups is None else lacking
                await self.materials.bring(self.post.lineage, self.cutting, part)
                brought = True
                if lacking:
                    await self._make_first(lacking)
            except SynapseError as error:
                self.why = str(error)
                log.info("%s: %s", cid_text(self.post.lineage), error)
                await trio.sleep(wait)
                wait = min(2 * wait, AGAIN_LATEST_S)
        self.why = ""

    def _lacking(self, wanted: list[int]) -> list[int]:
        """Groups of which no version is here, or whose first one never was."""
        return [
            number
            for number in wanted
            if not self.chains[number].ready or self._genesis(number) is None
        ]

    async def _make_first(self, groups: list[int]) -> None:
        assert self.cutting is not None
        out = self.post.blobs.folder / "tmp" / f"first-{groups[0]}"
        files, group_bytes = self.materials.files(self.cutting), self.terms.plan.group_bytes
        try:
            made = await self.post.compute.make_versions(files, group_bytes, groups, out)
            paths = {version.group: Path(version.path) for version in made}
        except NotInstalledError:
            paths = {number: out / f"{number}" for number in groups}
            for number, path in paths.items():
                group = self.cutting.groups[number]
                await trio.to_thread.run_sync(write_first, files, group, path)
        for number, path in paths.items():
            root = await trio.to_thread.run_sync(self.post.blobs.take_version, path)
            key = group_key(self.post.lineage, number)
            self.post.records.save([Change(GENESIS, key, root)])
            if not self.chains[number].ready:
                self.chains[number].begin(0, root)

    def _genesis(self, number: int) -> bytes | None:
        return self.post.records.table(GENESIS).get(group_key(self.post.lineage, number))

    def genesis(self, number: int) -> bytes:
        """The root of a group's version 0. BlobUnknownError where it was never made here."""
        found = self._genesis(number)
        if found is None:
            raise BlobUnknownError(f"version 0 of group {number} was never here")
        return found

    @property
    def checkpoint_at(self) -> int:
        """The round at which this daemon proposes the next checkpoint by itself; 0: never."""
        if self.course is None or not self.course.checkpoint_every:
            return 0
        return self.course.checkpoint_last + self.course.checkpoint_every

    def max_delta(self, number: int) -> int:
        """Bytes of a group's delta, at most."""
        return self._max_delta(self.chains[number].group)

    @staticmethod
    def _max_delta(group: Group) -> int:
        """fp32 is the largest codec; the others add less than that saves."""
        return delta.HEADER.size + FP32 * group.elements

    @property
    def round(self) -> int:
        """The lowest next round of any group, as far as it is known here."""
        return min((chain.number for chain in self.chains if chain.ready), default=0)

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether this daemon's owner wants one to be proposed now."""
        return 0 < self.checkpoint_at <= self.round and self.study is not None

    def checkpointed(self, number: int) -> None:
        """One was proposed, at this round. StoreError."""
        if self.course is not None:
            self._remember(msgspec.structs.replace(self.course, checkpoint_last=number))
        if self.study is not None and self.course is not None:
            self.study.course = self.course

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            if set(self._mine()) <= self.hosts.keys():  # else nobody names what their logs need
                sweep(self.post.blobs, self.chains, self._needed)

    def _needed(self) -> set[bytes]:
        needed = set(self.post.exchange.coming)
        for host in self.hosts.values():
            needed |= host.needed
        if self.region is not None:
            needed |= self.region.needed
        return needed | (self.study.needed if self.study is not None else set())

    # -- learning ----------------------------------------------------------------------------------

    async def _learn(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._begun(None)
            assert self.cutting is not None
            assert self.course is not None
            self.study = Study(
                self.post.of("learner"),
                self.terms.plan,
                self.cutting,
                self.materials.files(self.cutting),
                self.chains,
                course=self.course,
                seats=self.seats,
                epoch=self._places.epoch,
                remember=self._remember,
            )
            if self.region is not None:
                self.study.on_silent = self.region.way.silent
                self.study.on_record = self._learned
                self.region.way.look()
            await self.study.run()
        self.study = None

    def _learned(self, record: Record) -> None:
        """A learner has a round: some of its sums, or all of it, may be ours to recompute."""
        assert self.region is not None
        self.region.recorded(record)
        self.reviewer.recorded(record)

    def _remember(self, course: Course) -> None:
        self.course = course
        data = msgspec.msgpack.encode(course)
        self.post.records.save([Change(COURSES, self.post.lineage, data)])

    def join(self, course: Course) -> None:
        """Learn from now on, also after a restart. StoreError."""
        if self.course is not None:
            raise CannotLearnError(
                f"{cid_text(self.post.lineage)} is learned here already, from {self.course.data}",
                remedy="`synapsectl train leave` first",
            )
        self._remember(course)
        self._changed.set()

    async def leave(self) -> None:
        """Learn no more. StoreError."""
        study, scope = self.study, self._study_scope
        if scope is not None:
            scope.cancel()
        if study is not None:
            await study.close()  # which remembers where it was, once more
        self.course = self._study_scope = None
        self.post.records.save([Change(COURSES, self.post.lineage, None)])

    # -- what happens ------------------------------------------------------------------------------

    def turn(self, terms: Terms) -> None:
        """The ledger says something else than before: of this training, or a new epoch."""
        self.terms = terms
        self._changed.set()

    def exclude(self, excluded: frozenset[bytes]) -> None:
        """Who has no office, by the ledger."""
        self._excluded = excluded
        if self.region is not None:
            self.region.exclude(excluded)

    async def version_file(self, group: int, root: bytes, folder: str) -> Path:
        """A version as a file: one that is kept, or made in a folder below tmp/, which is the
        caller's to remove. SynapseError."""
        chain = self.chains[group]
        number = chain.number_of(root)
        if number is None:
            raise BlobUnknownError(f"version {root.hex()[:16]} of group {group} is not known here")
        return await replayed(self.post, chain, chain.replay(number), folder)

    def stir(self) -> None:
        """Look again at what is to be done here."""
        self._changed.set()

    def tick(self, index: int, tick_ms: int) -> None:
        """The ledger has a newer tick."""
        self._tick = (index, tick_ms)
        for host in self.hosts.values():
            host.tick(index, tick_ms)

    def able(self, can_lead: bool) -> None:
        """Whether the worker computes."""
        for host in self.hosts.values():
            host.able(can_lead)
        if self.study is not None:
            self.study.able(can_lead)

    def wanted_version(self, root: bytes) -> None:
        """Somebody asks for a version that is no file here: make it one, if we can."""
        for chain in self.chains:
            number = chain.number_of(root)
            if number is not None and chain.group.number not in self._making:
                self._making.add(chain.group.number)
                self.post.spawn(self._make_version, chain, number)

    async def _make_version(self, chain: Chain, number: int) -> None:
        try:
            await compact(self.post, chain, "wanted", number)
        except SynapseError as error:
            log.info("%s: %s", cid_text(self.post.lineage), error)
        finally:
            self._making.discard(chain.group.number)

    def lost(self, peer: bytes) -> None:
        """The connection with a peer has ended."""
        for host in list(self.hosts.values()):
            host.lost(peer)

    def frame(self, peer: bytes, group: int, data: bytes) -> None:
        """Of another replica."""
        host = self.hosts.get(group)
        if host is not None and host.knows(peer):
            host.frame(peer, data)

    def hear(self, peer: bytes, message: messages.Said) -> None:
        """A message about this lineage. Raises MalformedError."""
        match message:
            case messages.Push():
                self._hear_push(peer, message)
            case messages.Watch():
                for host in list(self.hosts.values()):
                    host.hear(peer, message)
                if any(mark.group not in self.hosts for mark in message.marks):
                    self._to_region(peer, message)
            case messages.Ask() | messages.Where() if message.group not in self.hosts:
                self._to_region(peer, message)
            case messages.Ask() | messages.Where() | messages.Endorse():
                self._to_host(peer, message, message.group)
            case messages.Stage():
                if message.group in self.hosts and self.region is not None:
                    self.post.attend(peer, self.region.staged, peer, message)
            case messages.Prove() | messages.Proof() | messages.Accuse():
                self._to_region(peer, message)
            case messages.Records():
                self._keep_wanted(message)
                self._to_host(peer, message, message.group)
                self._to_study(peer, message)
                self._to_region(peer, message)
            case _:
                self._to_study(peer, message)
                self._to_region(peer, message)

    def _hear_push(self, peer: bytes, push: messages.Push) -> None:
        if push.relay:
            self._to_region(peer, push)
        else:
            for number in push.groups:
                self._to_host(peer, push, number)

    def _to_region(self, peer: bytes, message: messages.Said) -> None:
        if self.region is not None:
            self.region.hear(peer, message)

    def _keep_wanted(self, said: messages.Records) -> None:
        """Records that somebody here waits for, each checked."""
        if said.group not in self.wanted_records or said.group >= len(self.chains):
            return
        chain = self.chains[said.group]
        for record in said.records:
            decided = record.round
            if decided.group == said.group and chain.record(decided.number) is None:
                self._check(record)
                chain.prove(record)

    def _check(self, record: Record) -> None:
        """Raise UnknownGroupError, or BadClaimError unless two of its group's replicas signed."""
        replicas = self.seats(record.round.group, record.round.epoch)
        check_record(self.post.realm, record, replicas, self.post.verify)

    def role_of(self, name: bytes) -> Role:
        """What we are that we hold a blob."""
        if self.study is not None and self.study.made(name):
            return "learner"
        return "aggregator" if self.region is not None and self.region.holds(name) else "replica"

    def sum_of(self, digest: bytes) -> Sum | None:
        """A region's sum that went into a round, where it is known here."""
        return None if self.region is None else self.region.sums.get(digest)

    @property
    def epoch(self) -> int:
        """The ledger's."""
        return self._places.epoch

    def _to_host(self, peer: bytes, message: messages.Said, number: int) -> None:
        host = self.hosts.get(number)
        if host is not None:
            host.hear(peer, message)

    def _to_study(self, peer: bytes, message: messages.Said) -> None:
        if self.study is not None:
            self.study.hear(peer, message)

    def fellow(self, peer: bytes) -> bool:
        """Whether a peer serves a group with us."""
        return any(host.knows(peer) for host in self.hosts.values())

    # -- what is told ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model's; "" until its manifest is here."""
        return "" if self.cutting is None else self.cutting.manifest.name

    @property
    def learners(self) -> int | None:
        """Whose deltas were in a newest round, of whichever group had most; None before any."""
        newest = [chain.round(chain.number - 1) for chain in self.chains if chain.ready]
        return max((_learners(one) for one in newest if one is not None), default=None)

    @property
    def aggregator(self) -> str:
        """Whom our deltas go through; "" where that is nobody."""
        peer = None if self.region is None else self.region.way.aggregator
        return "" if peer is None or self.study is None else peer_id_text(peer)

    def groups_said(self) -> list[GroupSaid]:
        """All groups, as this daemon sees them."""
        return [self._said(chain) for chain in self.chains]

    def _said(self, chain: Chain) -> GroupSaid:
        number = chain.group.number
        host = self.hosts.get(number)
        seats = self.seats(number, self._places.epoch)
        primary: bytes | None = None
        if host is not None:
            primary = self.post.me if host.rounds.leading else host.replica.primary
        elif self.study is not None:
            primary = self.study.learner.primaries.of(number)
        following = self.study.learner.groups[number] if self.study is not None else None
        at = chain.number if chain.ready else 0
        head = chain.head if chain.ready else b""
        if following is not None and following.number > at:
            at, head = following.number, following.head
        term = host.replica.leading if host is not None else None
        return GroupSaid(
            number=number,
            elements=chain.group.elements,
            bytes=chain.group.bytes,
            round=at,
            head=head.hex(),
            role="none" if host is None else "primary" if host.rounds.leading else "replica",
            primary="" if primary is None else peer_id_text(primary),
            replicas=[peer_id_text(peer) for peer in seats],
            epoch=self._places.epoch,
            term=0 if term is None else term.number,
            chain=len(chain.behind) if chain.ready else 0,
            chain_bytes=chain.behind_bytes if chain.ready else 0,
        )


def _learners(decided: Round) -> int:
    """In a round: one may stand there twice, with a late delta and the next; of a region's sum
    only the number is known."""
    ours = {each.learner for each in decided.inputs if not each.of}
    return len(ours) + sum(each.of for each in decided.inputs)
