"""One peer of one pull: what it has, and a pipeline of requests that never runs dry.

A session opens two streams: one for questions (`ask`, and `have` every now and then), so that
they do not stand behind megabytes, and one for fetches. It ends when the pull does, or with the
PeerError that says why the peer is asked no more.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import trio

from protocols.errors import LimitError, MalformedError, SynapseError
from protocols.gossip.peerscore import Fault
from protocols.tensors.blocks import (
    MAX_HAVE_ROOTS,
    PROTOCOL,
    Answer,
    Bytes,
    FetchRequest,
    HaveRequest,
    Holding,
    Holdings,
    Request,
)
from protocols.tensors.tensorblock import Layout
from protocols.transfer.pullpeer import Assignment, Peer
from protocols.transfer.schedule import Schedule
from synapsed.net.errors import NetError
from synapsed.transfer.errors import PeerError, PeerRefusedError, peer_error
from synapsed.transfer.sources import Source
from synapsed.transfer.talk import Streams, Talk

ASK_SECONDS = 10.0
"""For an answer to a question, and again for what follows it: 8 MiB of hashes at 1 MB/s."""
POLL_SECONDS = 0.4
"""Between two looks at what a peer that is still collecting has: at 10 MB/s it gets 4 MB in
that time, and a look costs 300 bytes and 0.2 ms."""
IDLE_POLL_SECONDS = 2.0
"""Of a peer that has nothing and collects nothing: it may begin to."""
COMPLETE_POLL_SECONDS = 10.0
"""Of a peer that has everything."""
FAR_GRACE_SECONDS = 0.2
"""That a peer elsewhere waits before it is first asked, so that those near by, who are preferred,
can say what they have."""

A = TypeVar("A", bound=Answer)


class Work(Protocol):
    """What a session needs of its pull."""

    @property
    def schedule(self) -> Schedule:
        """Who is asked for what; there once `ready` is set."""

    @property
    def files(self) -> list[tuple[bytes, Layout]]:
        """(root, layout) of the schedule's files."""

    @property
    def ready(self) -> trio.Event:
        """Set when the schedule is there."""

    async def wait_for_change(self, seconds: float) -> None:
        """Return when anybody's holdings change or runs fail, at the latest after `seconds`."""

    def tell_change(self) -> None:
        """Wake who waits for a change."""

    @property
    def paused(self) -> bool:
        """Whether nothing may be asked for just now."""

    async def order(self) -> None:
        """Have the schedule's order of chunks brought up to date, where it is time for that."""

    def asking(self, size: int) -> None:
        """So many bytes are asked for."""

    async def keep(self, run: Assignment, data: bytearray) -> None:
        """Verify and keep the next leaf of `run`. PeerError where it is not what it should be."""

    def left(self, peer: Peer) -> None:
        """A peer is asked no more; what it gave stands in its record."""

    def fail(self, error: SynapseError) -> None:
        """End the pull: what is wrong is not a peer's doing."""


class Session:
    """A peer while it is asked. `run` is a task; `ask` may be called from others."""

    def __init__(self, source: Source, streams: Streams, work: Work) -> None:
        self.source = source
        self.peer = source.peer
        self.began = trio.current_time()
        self.answered = 0
        """Questions whose answers were true."""
        self._streams = streams
        self._work = work
        self._lock = trio.Lock()
        self._questions: Talk | None = None
        self._open = trio.Event()
        self._scope = trio.CancelScope()
        self._failure: PeerError | None = None
        self._hears = 0
        self._doubted_at: int | None = None
        self._stirred = trio.Event()

    @property
    def connected(self) -> bool:
        """Whether a question would be sent at once."""
        return self._questions is not None

    async def run(self) -> PeerError | None:
        """Until the pull is finished (None), or the peer is given up."""
        schedule: Schedule | None = None
        try:
            with self._scope:
                async with (
                    self._streams.open_stream(self.peer, PROTOCOL) as questions,
                    self._streams.open_stream(self.peer, PROTOCOL) as fetches,
                ):
                    self._questions = Talk(questions)
                    self._open.set()
                    await self._work.ready.wait()
                    schedule = self._work.schedule
                    schedule.add_peer(self.peer, local=fetches.local, rate=self.source.rate)
                    await self._hear()
                    if not fetches.local:
                        await trio.sleep(FAR_GRACE_SECONDS)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._guarded, self._poll)
                        await self._guarded(lambda: self._fetch(Talk(fetches)))
                        nursery.cancel_scope.cancel()
        except (NetError, PeerError, MalformedError, LimitError) as error:
            self._failure = self._failure or peer_error(error)
        finally:
            self._open.set()
            self._questions = None
            if schedule is not None and self.peer in schedule.peers:
                self._work.left(schedule.peers[self.peer])
                schedule.drop_peer(self.peer)
                self._work.tell_change()
        return self._failure

    def give_up(self, error: PeerError) -> None:
        """End the session: what the peer said is wrong, or it cannot be used any more."""
        self._failure = self._failure or error
        self._scope.cancel()

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run one of the two tasks; what the peer does wrong in it ends both."""
        try:
            await task()
        except (NetError, PeerError, MalformedError, LimitError) as error:
            self.give_up(peer_error(error))

    # -- questions --------------------------------------------------------------------------

    async def ask(self, request: Request, kind: type[A], most: int) -> tuple[A, bytes]:
        """An answer of `kind` and what follows it (at most `most` bytes).

        Raises PeerRefusedError, which leaves the session as it is, or the PeerError that ended it.
        """
        await self._open.wait()
        async with self._lock:
            talk = self._questions
            if talk is None or self._failure is not None:
                raise self._failure or PeerError("it is not connected", None)
            done = False
            try:
                await talk.send(request)
                answer = await talk.answer(kind, ASK_SECONDS)
                raw = b""
                if answer.length:
                    raw = await talk.raw(answer.length, most, ASK_SECONDS)
                done = True
            except PeerRefusedError:
                done = True
                raise
            except (NetError, PeerError, MalformedError, LimitError) as error:
                failure = peer_error(error)
                self.give_up(failure)
                raise failure from error
            finally:
                if not done:
                    # Cancelled half way: nobody knows which answer comes next.
                    self.give_up(PeerError("a question was abandoned", None))
        return answer, raw

    async def _hear(self) -> None:
        """Ask what the peer has of each file, and tell the schedule."""
        schedule, roots = self._work.schedule, [root for root, _ in self._work.files]
        news = False
        for first in range(0, len(roots), MAX_HAVE_ROOTS):
            asked = tuple(roots[first : first + MAX_HAVE_ROOTS])
            answer, _ = await self.ask(HaveRequest(roots=asked), Holdings, 0)
            if len(answer.files) != len(asked):
                raise MalformedError(f"holdings of {len(answer.files)} of {len(asked)} files")
            for number, holding in enumerate(answer.files, first):
                self._check(number, holding)
                news = schedule.heard(self.peer, number, holding) or news
        self._hears += 1
        if news:
            self._work.tell_change()

    def _check(self, number: int, holding: Holding) -> None:
        count = self._work.files[number][1].leaf_count
        if any(spans and spans[-1][1] > count for spans in (holding.held, holding.wants)):
            raise MalformedError(f"it holds leaves beyond the {count} of the file")

    async def _poll(self) -> None:
        while True:
            await trio.sleep(POLL_SECONDS)
            with trio.move_on_after(self._poll_after() - POLL_SECONDS):
                await self._stirred.wait()
            self._stirred = trio.Event()
            await self._hear()

    def stir(self) -> None:
        """The peer asked us about one of the files: it may have begun to pull, so look.

        Not where we know that it pulls, or two pullers would stir each other without end.
        """
        record = self._work.schedule.peers.get(self.peer) if self._work.ready.is_set() else None
        if record is not None and not record.wants:
            self._stirred.set()

    def _poll_after(self) -> float:
        record = self._work.schedule.peers[self.peer]
        if record.wants:
            return POLL_SECONDS
        whole = record.complete and all(record.complete.values())
        return COMPLETE_POLL_SECONDS if whole else IDLE_POLL_SECONDS

    # -- fetches ----------------------------------------------------------------------------

    async def _fetch(self, talk: Talk) -> None:
        """Keep the pipeline full until the pull is finished."""
        schedule = self._work.schedule
        flying: deque[tuple[Assignment, int]] = deque()
        while not schedule.finished:
            while run := await self._next_run():
                root = self._work.files[run.file][0]
                await talk.send(FetchRequest(root=root, lo=run.lo, hi=run.hi))
                flying.append((run, self._hears))
            if flying:
                await self._receive(talk, *flying.popleft())
            else:
                await self._work.wait_for_change(schedule.recheck_after())

    async def _next_run(self) -> Assignment | None:
        if self._work.paused:
            return None
        await self._work.order()
        run = self._work.schedule.next_run(self.peer, trio.current_time())
        if run is not None:
            self._work.asking(run.size)
        return run

    async def _receive(self, talk: Talk, run: Assignment, heard: int) -> None:
        schedule = self._work.schedule
        try:
            answer = await talk.answer(Bytes, schedule.timeout(self.peer))
        except PeerRefusedError as error:
            await self._refused(run, heard, error)
            return
        if answer.length != run.size:
            raise MalformedError(f"{answer.length} bytes where {run.size} were asked for")
        for size in leaf_sizes(self._work.files[run.file][1], run):
            data = await talk.stream.read_exactly(size, timeout=schedule.timeout(self.peer))
            await self._work.keep(run, data)

    async def _refused(self, run: Assignment, heard: int, error: PeerRefusedError) -> None:
        """What it said it had when we last heard (`heard` times) it does not have.

        Once that may be a race with its garbage collection; not when it has just said so again.
        """
        if error.refusal.code != "not-held":
            raise error
        if self._doubted_at is not None and heard >= self._doubted_at:
            raise PeerError("it claims sub-tiles that it does not have", Fault.LIED) from error
        self._work.schedule.failed(run)
        await self._hear()
        self._doubted_at = self._doubted_at or self._hears


def leaf_sizes(layout: Layout, run: Assignment) -> list[int]:
    """Bytes of each leaf of a run."""
    return [stop - start for start, stop in layout.spans(run.lo, run.hi)]
