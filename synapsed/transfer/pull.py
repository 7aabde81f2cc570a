"""Pulling a model, an expert, tensors or tiles: from the manifest to verified bytes on disk.

    1. the manifest, and the model's where it is an expert's      blocks hash to their CID
    2. headers and section nodes of its files                     nodes make the root
    3. leaf hashes of the sections wanted                         they make the section's node
    4. the sub-tiles that are missing, from all sources at once   each hashes to its leaf

Every step takes what the store has already, so a pull that was stopped anywhere goes on where
its record ends. What has arrived is served at once: the server reads the same files.
`Puller` is the daemon's; each call of `pull` is one `Pull`, whose steps 1 to 3 are in plan.py.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import trio

from protocols.errors import MismatchError, SynapseError
from protocols.gossip.peerscore import Fault
from protocols.tensors.blocks import Span
from protocols.tensors.tensorblock import Layout
from protocols.transfer.pullpeer import Assignment, Peer
from protocols.transfer.schedule import Schedule
from synapsed.models import model_manifest
from synapsed.slots import NATIVE_SLOTS, Slots
from synapsed.store import HeldFile, Keep, QuotaExceededError, Store, StoreError
from synapsed.transfer.crew import Blame, Crew
from synapsed.transfer.errors import PeerError, StoppedError
from synapsed.transfer.limits import Downloads, Room
from synapsed.transfer.ordering import Orders
from synapsed.transfer.plan import Part, Plan, looked_at_again, make_plan, model_tiles
from synapsed.transfer.progress import Meter, PullProgress, PullReport
from synapsed.transfer.sources import Sources
from synapsed.transfer.talk import Streams

log = logging.getLogger(__name__)

SAVE_BYTES = 16 << 20
"""Written before it is put on record: what a crash costs at most, and 0.1 s of a plain disk."""
SAVE_SECONDS = 0.5
"""The same for slow pulls."""
MAX_UNSAVED = 4 * SAVE_BYTES
"""Written and not on record yet: with more, peers wait for the disk."""
REPORT_SECONDS = 0.25
"""Between two reports of progress."""
LAYOUTS_PARSED = 1
"""Headers parsed at a time, of all pulls: the largest takes 200 MB for a moment."""

Credit = Callable[[bytes, int, float], None]
"""(peer, verified bytes, seconds in which it was asked): the peer book's `transferred`."""


MakeRoom = Callable[[int], Awaitable[None]]
"""Sees to it that so many bytes more fit the quota, or raises QuotaExceededError."""


def _no_credit(_peer: bytes, _count: int, _seconds: float) -> None:
    """For pulls without a peer book."""


def unwatched(_progress: PullProgress) -> None:
    """For pulls that nobody watches."""


class Puller:
    """Pulls for one store. Its `wants` and `asked` are what the BlockServer needs."""

    def __init__(
        self,
        me: bytes,
        store: Store,
        streams: Streams,
        sources: Sources,
        *,
        blame: Blame,
        credit: Credit = _no_credit,
        slots: Slots = NATIVE_SLOTS,
    ) -> None:
        """`me` is our peer id."""
        self.me = me
        self.slots = slots
        self.store = store
        self.streams = streams
        self.sources = sources
        self.blame = blame
        self.credit = credit
        self.downloads = Downloads()
        """How fast, of all pulls together."""
        self.parsing = trio.CapacityLimiter(LAYOUTS_PARSED)
        self._running: list[Pull] = []
        self._started = 0
        self._ended = trio.Event()
        self.paused = False

    def pause(self) -> None:
        """Ask for nothing more until `resume`; what is under way arrives."""
        self.paused = True

    def resume(self) -> None:
        """Go on."""
        self.paused = False

    @property
    def active(self) -> int:
        """How many pulls are running."""
        return len(self._running)

    async def pull(
        self,
        cid: bytes,
        part: Part | None = None,
        *,
        progress: Callable[[PullProgress], None] = unwatched,
        sources: Sources | None = None,
        room: Room | None = None,
        make_room: MakeRoom | None = None,
    ) -> PullReport:
        """Fetch what the manifest `cid` describes, or a part of a model, into `room` if given.

        `make_room` is asked for what does not fit the quota.

        Cancel it to stop: what arrived is on record then. Raises PullFailedError naming why and
        who, QuotaExceededError, NoRoomError, DiskFullError, MalformedError for a block that is no
        manifest, ManifestLieError, UnknownPartError, NotAModelManifestError, StoppedError.
        """
        self._started += 1
        pull = Pull(
            self,
            cid,
            part or Part(),
            progress,
            sources=sources or self.sources,
            room=room,
            make_room=make_room,
            order=self._started,
        )
        self._running.append(pull)
        try:
            with self.store.keeping() as keep:
                pull.spare = keep
                return await pull.run()
        finally:
            self._running.remove(pull)
            for other in self._running:
                other.tell_change()  # what this one had in flight is free
            self._ended.set()
            self._ended = trio.Event()

    async def learn(
        self, cid: bytes, sources: Sources | None = None, room: Room | None = None
    ) -> tuple[int, int]:
        """Fetch the manifest and the headers of a model: its tiles, and its size in bytes.

        Raises as `pull` does.
        """
        await self.pull(cid, Part(headers=True), sources=sources, room=room)

        def look() -> tuple[int, int]:
            model = model_manifest(self.store, cid)
            return model_tiles(self.store, model).count, sum(ref.size for ref in model.files)

        return await trio.to_thread.run_sync(look)

    async def stop(self, model: bytes) -> None:
        """End the pulls of a model, its repairs too, and wait until they have ended."""
        while running := [pull for pull in self._running if model in pull.subjects]:
            for pull in running:
                pull.fail(StoppedError("the model was removed while it was fetched"))
            await self._ended.wait()

    def is_pulling(self, cid: bytes) -> bool:
        """Whether some of the model, adapter or kernel `cid` is being fetched."""
        return any(cid in pull.subjects and not pull.part.headers for pull in self._running)

    def brought(self, by: "Pull", root: bytes, leaf: int) -> None:
        """A leaf arrived in one pull: the others need not ask for it any more."""
        for pull in self._running:
            if pull is not by:
                pull.found(root, leaf)

    def siblings(self, of: "Pull") -> list[Schedule]:
        """The schedules of the other pulls: what they have in flight is not asked for again."""
        return [pull.schedule for pull in self._running if pull is not of and pull.ready.is_set()]

    # -- for the server ---------------------------------------------------------------------

    def wants(self, root: bytes) -> tuple[Span, ...] | None:
        """What is being pulled of a file: None is nothing, () is all of it."""
        found = [pull.wants[root] for pull in self._running if root in pull.wants]
        return min(found, key=bool, default=None)

    def asked(self, peer: bytes, roots: Sequence[bytes]) -> None:
        """A peer asked what we have of these files; it may be a co-puller."""
        for pull in self._running:
            if any(root in pull.wants for root in roots):
                pull.crew.stir(peer)


class Pull:
    """One pull. What its sessions need of it is `session.Work`."""

    def __init__(
        self,
        puller: Puller,
        cid: bytes,
        part: Part,
        progress: Callable[[PullProgress], None],
        *,
        sources: Sources,
        room: Room | None,
        make_room: MakeRoom | None,
        order: int,
    ) -> None:
        self.cid = cid
        self.part = part
        self.store = puller.store
        self.parsing = puller.parsing
        self.files: list[tuple[bytes, Layout]] = []
        self.ready = trio.Event()
        self.wants: dict[bytes, tuple[Span, ...]] = {}
        self.crew = Crew(puller.streams, sources, self, puller.blame)
        self.spare: Keep | None = None
        self._puller = puller
        self._progress = progress
        self._room = room
        self._make_room = make_room
        self._order = order
        self._orders = Orders(puller.slots)
        self._schedule: Schedule | None = None
        self._meter: Meter | None = None
        self._held: list[HeldFile] = []
        self._numbers: dict[bytes, int] = {}
        self._early: list[tuple[bytes, int]] = []
        self._scope = trio.CancelScope()
        self._failure: SynapseError | None = None
        self._change = trio.Event()
        self._dirty: set[int] = set()
        self._unsaved = 0
        self._save_soon = trio.Event()
        self._saved = trio.Event()

    @property
    def subjects(self) -> list[bytes]:
        """The manifests that this pull is about: an expert's, and then its model's."""
        return self.crew.subjects or [self.cid]

    @property
    def schedule(self) -> Schedule:
        """Who is asked for what; there once `ready` is set."""
        assert self._schedule is not None
        return self._schedule

    async def run(self) -> PullReport:
        """All four steps."""
        started = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.crew.start(nursery)
                    nursery.start_soon(self._save_now_and_then)
                    await self._steps(nursery)
                    nursery.cancel_scope.cancel()
        finally:
            self._orders.ended(self._meter.fetched if self._meter is not None else 0)
            # What arrived shall be on record, whatever ended the pull.
            with trio.CancelScope(shield=True):
                await self._save()
        if self._failure is not None:
            raise self._failure
        return self._finish(trio.current_time() - started)

    def fail(self, error: SynapseError) -> None:
        """End the pull with an error that is no peer's."""
        self._failure = self._failure or error
        self._scope.cancel()

    async def _steps(self, nursery: trio.Nursery) -> None:
        try:
            plan = await make_plan(self)
        except SynapseError as error:
            self.fail(error)
            return
        await self._begin(plan)
        nursery.start_soon(self._report_now_and_then)
        while not self.schedule.finished:
            await self.wait_for_change(REPORT_SECONDS)

    async def _begin(self, plan: Plan) -> None:
        self.files = [(want.held.root, want.held.layout) for want in plan.wants]
        self._held = [want.held for want in plan.wants]

        def prepare() -> tuple[Meter, Schedule]:
            now = looked_at_again(plan)  # another pull may have brought some of it meanwhile
            missing = [want.missing for want in now.wants]
            schedule = Schedule(
                self._puller.me,
                self.files,
                missing,
                order=self._order,
                siblings=lambda: self._puller.siblings(self),
            )
            return Meter(now), schedule

        # In a thread: 65,536 tensors take half a second.
        self._meter, self._schedule = await trio.to_thread.run_sync(prepare)
        self._numbers = {root: number for number, (root, _) in enumerate(self.files)}
        self._orders.begin()
        self.ready.set()
        early, self._early = self._early, []
        for root, leaf in early:
            self.found(root, leaf)

    def _finish(self, seconds: float) -> PullReport:
        assert self._meter is not None
        self._progress(self._meter.progress(self.crew.sessions, self.schedule))
        return self._meter.report(self.cid, seconds, self.crew.faults)

    # -- what the plan needs ----------------------------------------------------------------

    async def keep_name(self, name: bytes) -> None:
        """Spare a block or file from collections until the pull has ended."""
        if self.spare is not None:
            await trio.to_thread.run_sync(self.spare.add, name)

    async def check_room(self, size: int) -> None:
        """Raise QuotaExceededError or NoRoomError where `size` bytes more do not fit."""
        await self.make_room(size)
        if self._room is not None:
            self._room.check(size)

    async def make_room(self, size: int) -> None:
        """See to it that `size` bytes more fit the quota. QuotaExceededError."""
        if self._make_room is not None:
            await self._make_room(size)
        self.store.quota.check_room(size)

    def take_room(self, size: int) -> None:
        """Count `size` bytes of manifests and headers. NoRoomError."""
        if self._room is not None:
            self._room.take(size)

    # -- what sessions need -----------------------------------------------------------------

    async def wait_for_change(self, seconds: float) -> None:
        """Return when holdings changed or runs failed, at the latest after `seconds`."""
        with trio.move_on_after(seconds):
            await self._change.wait()

    def tell_change(self) -> None:
        """Wake who waits for a change."""
        self._change.set()
        self._change = trio.Event()

    @property
    def paused(self) -> bool:
        """Whether nothing may be asked for just now."""
        return self._puller.paused or self._puller.downloads.spent

    def asking(self, size: int) -> None:
        """So many bytes are asked for."""
        self._puller.downloads.ask(size)

    def left(self, peer: Peer) -> None:
        """A peer is asked no more; what it gave is to its credit."""
        if peer.busy:
            self._puller.credit(peer.peer, peer.bytes, peer.busy)

    async def order(self) -> None:
        """Have the schedule's order of chunks brought up to date, where it is time for that."""
        if await self._orders.bring(self.schedule):
            self.tell_change()

    async def keep(self, run: Assignment, data: bytearray) -> None:
        """Verify and keep the next leaf of `run`. PeerError where it is not what it should be."""
        leaf = run.next
        new = not self.schedule.have(run.file, leaf)
        if new:
            if not await self._write(run.file, leaf, data):
                return
            new = not self.schedule.have(run.file, leaf)  # while room was made, another brought it
        self._counted(run, leaf, len(data), new=new)
        if new:
            self._puller.brought(self, self.files[run.file][0], leaf)
        while self._unsaved > MAX_UNSAVED:
            await self._saved.wait()

    async def _write(self, file: int, leaf: int, data: bytearray) -> bool:
        """Whether the leaf is kept; where it cannot be, the pull ends."""
        try:
            try:
                self._held[file].write(leaf, data)
            except QuotaExceededError:
                # Others wrote, too, since room was made; for our owner there may be more.
                await self.make_room(len(data))
                self._held[file].write(leaf, data)
        except MismatchError as error:
            raise PeerError(error.message, Fault.MISMATCH) from error
        except (StoreError, QuotaExceededError) as error:
            self.fail(error)
            return False
        self._dirty.add(file)
        self._unsaved += len(data)
        if self._unsaved >= SAVE_BYTES:
            self._save_soon.set()
        return True

    def found(self, root: bytes, leaf: int) -> None:
        """Another pull brought a leaf of a file: it is counted here, and not fetched again."""
        if not self.ready.is_set():
            # The schedule is being made in a thread, from a look that may be older than this.
            self._early.append((root, leaf))
            return
        number = self._numbers.get(root)
        if number is None or not self.schedule.found(number, leaf):
            return
        assert self._meter is not None
        start, stop = self.files[number][1].leaf_span(leaf)
        self._meter.found(number, leaf, stop - start)
        self.crew.alive()
        if self.schedule.finished:
            self.tell_change()

    def _counted(self, run: Assignment, leaf: int, size: int, *, new: bool) -> None:
        assert self._meter is not None
        self.schedule.arrived(run, trio.current_time())
        self._meter.count(run.peer, run.file, leaf, size, new=new)
        self.crew.alive()
        if self.schedule.finished:
            self.tell_change()

    # -- the disk ---------------------------------------------------------------------------

    async def _save_now_and_then(self) -> None:
        while True:
            with trio.move_on_after(SAVE_SECONDS):
                await self._save_soon.wait()
            await self._save()

    async def _save(self) -> None:
        """Put what was written on record, in a thread: the disk takes its time."""
        dirty, self._dirty = sorted(self._dirty), set()
        saving, self._save_soon = self._unsaved, trio.Event()
        async with trio.open_nursery() as nursery:
            for file in dirty:
                nursery.start_soon(self._commit, self._held[file])
        self._unsaved -= saving
        self._saved.set()
        self._saved = trio.Event()

    async def _commit(self, held: HeldFile) -> None:
        try:
            await trio.to_thread.run_sync(held.commit)
        except StoreError as error:
            self.fail(error)

    async def _report_now_and_then(self) -> None:
        assert self._meter is not None
        while True:
            self._progress(self._meter.progress(self.crew.sessions, self.schedule))
            await trio.sleep(REPORT_SECONDS)
