"""Learning one model here: the learner's machine (protocols/learn/learner.py), driven.

Its messages go to whoever it names; its work goes to the compute worker, one task for each request,
and comes back as an event. What the worker had is lost when it dies or is paused: then the machine
is told so, and what it needs is loaded again from the chains' files.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path

import msgspec
import trio

from protocols.effects import Blame, Emit
from protocols.errors import MalformedError, SynapseError
from protocols.learn import learner_ports as machine
from protocols.learn import messages
from protocols.learn.claims import BadClaimError, Record, check_record
from protocols.learn.learner import Learner
from protocols.learn.round_ports import Heard, Say, Tick
from protocols.peerid import peer_id_text
from protocols.plan import Phase, Plan
from synapsed.compute import wire
from synapsed.compute.errors import BadHeadError, ComputeError, PausedError, UnloadedError
from synapsed.training.chain import Chain
from synapsed.training.errors import BlobUnknownError, WrongHeadError
from synapsed.training.materials import Cutting
from synapsed.training.post import Files, Post
from synapsed.training.workbench import replayed

log = logging.getLogger(__name__)

SAVE_STEPS = 200
"""Between two savings of AdamW's moments: what a crash costs at most, and some seconds of work."""
KEPT_ROUNDS = 4
"""Rounds for which a delta of ours stays on disk, for whoever is to have it."""
AGAIN_S, AGAIN_LATEST_S = 1.0, 60.0
"""Until loading is tried again after it failed, doubling."""


class Course(msgspec.Struct, frozen=True):
    """What a learner learns from: as it was joined, and as it is remembered."""

    data: str
    step: int = 0
    """Inner steps so far."""
    checkpoint_every: int = 0
    """Rounds between checkpoints that this daemon proposes by itself; 0: none."""
    checkpoint_last: int = 0
    """The round of the last that it proposed."""
    seed: int = 0


class Study:
    """A learner. `run` it; `hear` what comes."""

    def __init__(
        self,
        post: Post,
        plan: Plan,
        cutting: Cutting,
        files: Files,
        chains: Sequence[Chain],
        *,
        course: Course,
        seats: Callable[[int, int], tuple[bytes, ...]],
        epoch: int,
        remember: Callable[[Course], None],
    ) -> None:
        """`chains` of all groups, each ready; `remember` keeps the course as it is now."""
        self.course = course
        self.state = "loading"
        self.why = ""
        self.failed: SynapseError | None = None
        """Why it could not be loaded, the last time."""
        self.loss: float | None = None
        self.acked = 0
        self.refused = 0
        self.tokens = 0
        self.busy_s = 0.0
        """In torch, since the start."""
        self._post = post
        self._plan = plan
        self._cutting = cutting
        self._files = files
        self._chains = chains
        self._seats = seats
        self._remember = remember
        self._saved_at = course.step
        settings = machine.LearnerSettings(
            realm=post.realm,
            model=post.lineage,
            plan=plan,
            me=post.me,
            groups=tuple(group.number for group in cutting.groups),
        )
        self.learner = Learner(settings, seats, post.identity.sign, post.verify, epoch)
        self._poked = trio.Event()
        self._lost = trio.Event()
        self._again = trio.Event()
        self._loaded = False
        self.ready = trio.Event()
        """The first base is loaded."""
        self._known_acked: set[bytes] = set()
        self.on_silent: Callable[[bytes], None] = lambda _aggregator: None
        self.on_record: Callable[[Record], None] = lambda _record: None
        self._aggregator: bytes | None = None
        self._works: trio.Nursery | None = None
        self._fresh: dict[bytes, int] = {}
        """Deltas of ours, and their rounds."""

    @property
    def phase(self) -> Phase:
        """Of the round that comes next."""
        return self._plan.phase_of(self.number)

    @property
    def number(self) -> int:
        """The lowest round of any group that is next."""
        return min((it.number for it in self.learner.groups.values()), default=0)

    # -- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Learn until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarms)
            wait = AGAIN_S
            while True:
                if await self._learn():
                    wait = AGAIN_S
                self._again = trio.Event()
                with trio.move_on_after(wait):
                    await self._again.wait()
                wait = min(2 * wait, AGAIN_LATEST_S)

    async def _learn(self) -> bool:
        """Until the worker has lost what it had; False where it could not be loaded. What was
        asked of it ends with it: it must not touch what is loaded next."""
        loaded = False
        async with trio.open_nursery() as works:
            try:
                numbers = await self._load()
                loaded, self.failed = True, None
                self._works = works
                self.ready.set()
                self._tell(machine.Resumed(numbers))
                await self._lost.wait()
            except SynapseError as error:
                is_paused = isinstance(error, PausedError)
                self.state = "paused" if is_paused else "failed"
                self.failed = None if is_paused else error
                self.why = str(error)
                log.info("learning waits: %s", error)
            finally:
                self._works = None  # also where we are cancelled: messages still come
            self._pause()
            works.cancel_scope.cancel()
        return loaded

    async def _load(self) -> dict[int, tuple[int, bytes]]:
        """Have the worker begin where the chains end; (number, head) there, by group. Raises
        SynapseError."""
        self._lost = trio.Event()
        versions: dict[int, Path] = {}
        numbers: dict[int, tuple[int, bytes]] = {}
        for chain in self._chains:
            number, head = chain.number, chain.head
            how = chain.replay(number)
            versions[chain.group.number] = await replayed(self._post, chain, how, self._out.name)
            numbers[chain.group.number] = number, head
        state = self._state_file if self._state_file.exists() else None
        self.state, self.why = "loading", ""
        loaded = await self._post.compute.load_training(
            self._post.lineage,
            self._files,
            versions,
            Path(self.course.data),
            self._plan,
            seed=self.course.seed,
            step=self.course.step,
            state=state,
        )
        heads = dict(zip(sorted(numbers), loaded.heads, strict=True))
        for group, (number, head) in numbers.items():
            if heads[group] != head:
                raise WrongHeadError(
                    f"group {group} at round {number} was loaded as {heads[group].hex()[:16]},"
                    f" not {head.hex()[:16]}"
                )
        self._loaded = True
        return numbers

    @property
    def _out(self) -> Path:
        return self._post.blobs.folder / "tmp" / "study"

    @property
    def _state_file(self) -> Path:
        return self._post.blobs.folder / "moments"

    def _pause(self) -> None:
        if self._loaded:
            self._loaded = False
            self._tell(machine.Paused())

    async def _alarms(self) -> None:
        while True:
            self._poked = trio.Event()
            at = self.learner.next_wake
            wait = inf if at is None else max(0.0, (at - self._post.now()) / 1000)
            with trio.move_on_after(wait):
                await self._poked.wait()
            at = self.learner.next_wake
            if at is not None and at <= self._post.now():
                self._tell(Tick())
            await trio.lowlevel.checkpoint()

    def _tell(self, event: machine.Event) -> None:
        for effect in self.learner.handle(event, self._post.now()):
            self._perform(effect)
        if self._loaded:
            self.state = {"trained": "waiting", "idle": "waiting", "encoding": "sending"}.get(
                self.learner.state, self.learner.state
            )
        self._poked.set()

    def _perform(self, effect: object) -> None:
        match effect:
            case Say(peer, message):
                self._post.say(peer, message)
            case machine.Train():
                self._spawn(self._train, effect)
            case machine.Encode():
                self._spawn(self._encode, effect)
            case machine.Apply():
                self._spawn(self._apply, effect)
            case machine.CatchUp():
                self._spawn(self._catch_up, effect)
            case machine.GiveBack():
                self._spawn(self._give_back, effect)
            case machine.Silent(aggregator):
                log.info("the aggregator %s keeps silent", peer_id_text(aggregator))
                self.on_silent(aggregator)
            case Emit(kind, fields):
                self._post.tell(kind.replace("learn.", "training.", 1), **fields)
            case Blame(peer, fault, why):
                self._post.blame(peer, fault, why)
            case _:
                raise TypeError(f"an effect that nobody performs: {effect!r}")

    def _spawn(self, work: Callable[..., object], effect: object) -> None:
        if self._works is not None:
            self._works.start_soon(self._guarded, work, effect)

    async def _guarded(self, work: Callable[..., object], effect: object) -> None:
        """Whatever the worker cannot do now is tried again once it is loaded anew."""
        try:
            await work(effect)  # type: ignore[misc]
        except SynapseError as error:
            if not isinstance(error, (PausedError, UnloadedError)) and not self._lost.is_set():
                log.warning("learning: %s", error)
            self._post.tell("training.unloaded", why=str(error))
            self.why = str(error)
            self._lost.set()

    # -- the worker --------------------------------------------------------------------------------

    async def _train(self, wanted: machine.Train) -> None:
        done = await self._post.compute.train(self._post.lineage, wanted.steps, wanted.phase)
        self.loss = sum(done.losses) / len(done.losses)
        self.tokens += done.tokens
        self.busy_s += done.seconds
        self._post.tell(
            "training.trained",
            number=self.number,
            steps=wanted.steps,
            step=done.step,
            loss=round(self.loss, 5),
            seconds=round(done.seconds, 4),
        )
        self.course = msgspec.structs.replace(self.course, step=done.step)
        self._tell(machine.Trained(wanted.seq))

    async def _encode(self, wanted: machine.Encode) -> None:
        blobs = await self._post.compute.encode(
            self._post.lineage, wanted.groups, wanted.phase, self._out
        )
        made = {}
        for group, blob in blobs.items():
            take = partial(self._post.blobs.take, Path(blob.path), durable=False)
            digest = await trio.to_thread.run_sync(take)
            made[group] = messages.Blob(digest, blob.size)
            self._fresh[digest] = self.learner.groups[group].number
        oldest = self.number - KEPT_ROUNDS
        self._fresh = {digest: at for digest, at in self._fresh.items() if at >= oldest}
        if self.course.step - self._saved_at >= SAVE_STEPS:
            await self._save()
        self._tell(machine.Encoded(wanted.seq, made))

    async def _save(self) -> None:
        """What a crash must not cost: where we are in the data, and AdamW's moments."""
        self._saved_at = self.course.step
        await self._post.compute.save_training(self._post.lineage, self._state_file)
        self._remember(self.course)

    async def _apply(self, wanted: machine.Apply) -> None:
        decided = wanted.round
        if not self._post.blobs.has(decided.result):
            try:
                sources = self._sources(decided.group)
                fetch = self._post.exchange.fetch_of
                await fetch(sources, self._post.lineage, decided.result, decided.size)
            except BlobUnknownError as error:
                log.info("learning waits: %s", error)
                await trio.sleep(AGAIN_S)
                self._tell(machine.NotApplied(decided.group))
                return
        path = self._post.blobs.path(decided.result)
        chain = self._chains[decided.group]
        try:
            await self._post.compute.apply(self._post.lineage, decided.group, path, decided.head)
        except BadHeadError as error:
            following = self.learner.groups[decided.group]
            ours = f"learner at {following.number} {following.head.hex()[:8]}"
            ours += f", chain at {chain.number} {chain.head.hex()[:8]}"
            theirs = f"round {decided.number} from {decided.parent.hex()[:8]}"
            why = f"{theirs}; {ours}: {error.message}"
            self._post.tell("training.diverged", group=decided.group, why=why)
            self._tell(machine.Applied(decided.group, decided.number, bytes(32)))
            return
        chain.follow(decided)
        self._tell(machine.Applied(decided.group, decided.number, decided.head))

    async def _catch_up(self, wanted: machine.CatchUp) -> None:
        """Take a whole version: from a file of ours, or of a replica."""
        chain = self._chains[wanted.group]
        try:
            if chain.number >= wanted.number and chain.head_at(wanted.number) == wanted.head:
                how = chain.replay(wanted.number)
                path = await replayed(self._post, chain, how, self._out.name)
            else:
                await self._post.exchange.fetch_version(
                    self._sources(wanted.group),
                    self._post.lineage,
                    wanted.head,
                    chain.version_size,
                )
                path = self._post.blobs.version(wanted.head)
                if wanted.number > chain.number:
                    chain.begin(wanted.number, wanted.head)
            version = wire.Version(wanted.group, str(path), wanted.head)
            await self._post.compute.replace(self._post.lineage, version)
        except ComputeError:
            raise
        except SynapseError as error:
            log.info("group %d: no version to go on with: %s", wanted.group, error)
            await trio.sleep(AGAIN_S)
            self._tell(machine.NotCaughtUp(wanted.group))
        else:
            self._tell(machine.CaughtUp(wanted.group, wanted.number, wanted.head))

    async def _give_back(self, wanted: machine.GiveBack) -> None:
        self.refused += 1
        self._post.tell("training.given-back", group=wanted.group)
        await self._post.compute.take_back(self._post.lineage, (wanted.group,))

    def _sources(self, group: int) -> list[bytes]:
        found = self.learner.primaries.replicas(group)
        return [peer for peer in found if peer != self._post.me]

    # -- messages ----------------------------------------------------------------------------------

    def hear(self, peer: bytes, message: messages.Said) -> None:
        """What came for the learner; rounds' results are brought here first."""
        if isinstance(message, messages.Records):
            self._post.attend(peer, self._records, peer, message)
            return
        if isinstance(message, messages.Acked) and message.digest in self._fresh:
            self._is_acked(message)
        self._tell(Heard(peer, message))

    def _is_acked(self, said: messages.Acked) -> None:
        if said.digest not in self._known_acked:
            self._known_acked.add(said.digest)
            self._known_acked &= self._fresh.keys()
            self.acked += 1
            digest = said.digest.hex()
            self._post.tell("training.acked", group=said.group, number=said.number, digest=digest)

    async def _records(self, peer: bytes, said: messages.Records) -> None:
        """Look at the signatures, then bring the results that come next."""
        if said.group >= len(self._chains):
            return
        chain = self._chains[said.group]
        following = self.learner.groups[said.group]
        usable: list[Record] = []
        try:
            for record in said.records:
                if record.round.number < following.number:
                    continue
                decided = record.round
                if decided.group != said.group or decided.model != self._post.lineage:
                    raise BadClaimError("a record of another group than its message is about")
                replicas = self._seats(said.group, decided.epoch)
                check_record(self._post.realm, record, replicas, self._post.verify)
                if said.oldest <= following.number:
                    blobs = {decided.result: decided.size}
                    await self._post.exchange.fetch(peer, self._post.lineage, blobs)
                if chain.record(decided.number) is None:
                    chain.prove(record)
                    self.on_record(record)
                usable.append(record)
        except MalformedError as error:
            self._post.blame(peer, "malformed", f"learning: {error}")
        except SynapseError as error:
            log.debug("group %d: results: %s", said.group, error)
        self._tell(Heard(peer, msgspec.structs.replace(said, records=tuple(usable))))

    @property
    def needed(self) -> set[bytes]:
        """Blobs that somebody may still ask us for: deltas that nobody acknowledged yet."""
        return set(self._fresh)

    def made(self, digest: bytes) -> bool:
        """Whether a blob is a delta of ours."""
        return digest in self._fresh

    def routed(self, aggregator: bytes | None) -> None:
        """Who aggregates for us from now on."""
        if aggregator != self._aggregator:
            self._aggregator = aggregator
            self._tell(machine.Routed(aggregator))

    @property
    def primaries(self) -> dict[int, bytes]:
        """Who leads each group, as far as we know."""
        of = self.learner.primaries.of
        found = {chain.group.number: of(chain.group.number) for chain in self._chains}
        return {group: peer for group, peer in found.items() if peer is not None}

    def turn(self, epoch: int) -> None:
        """The ledger has a new epoch."""
        self.learner.primaries.epoch = epoch
        self._tell(Tick())

    def able(self, computes: bool) -> None:
        """The worker is there again, or was taken away."""
        if computes:
            self._again.set()
        else:
            self.state = "paused"
            self._lost.set()

    async def close(self) -> None:
        """Learn no more: the worker forgets it, and what it knew is kept."""
        with suppress(SynapseError):
            await self._save()
            await self._post.compute.close_training(self._post.lineage)


def seed_of(peer: bytes, lineage: bytes) -> int:
    """A learner's own: it decides the order of its data."""
    return int.from_bytes(hashlib.sha256(peer + lineage).digest()[:7], "big")
