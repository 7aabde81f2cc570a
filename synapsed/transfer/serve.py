"""The answering side of the blocks protocol: whatever is held, to whoever asks, in fair turns.

Nothing is read that is not held, nothing is sent beyond the limits of protocols/tensors/blocks.py,
and a request that cannot be met is refused in words. One stream is served in order; how many a peer
may open is the net's limit.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar, cast

import trio

from protocols.codec import encode
from protocols.errors import LimitError, MalformedError, NotHeldError
from protocols.gossip.peerscore import Fault
from protocols.manifest import Layout
from protocols.ratelimit import TokenBucket
from protocols.tensors.blocks import (
    MAX_FETCH_BYTES,
    MAX_HASHES,
    MAX_REQUEST,
    MAX_RETRY_MS,
    MAX_RUNS,
    MAX_SECTIONS,
    Answer,
    BlockRequest,
    Bytes,
    FetchRequest,
    Hashes,
    HaveRequest,
    Holding,
    Holdings,
    LayoutRequest,
    LeavesRequest,
    Proven,
    ProveRequest,
    Refusal,
    Request,
    Shape,
    Span,
    decode_request,
)
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.tensorblock import LeafRangeError, Section
from synapsed.net.errors import NetError, StreamClosedError
from synapsed.store import HeldFile, Runs, Store, StoreError
from synapsed.transfer.limits import Uploads, UploadsPausedError
from synapsed.transfer.talk import Stream

MAX_STREAMS_PER_PEER = 32
"""Two for each of its pulls, repairs and lessons, a handful at a time, and one for each probe. A
client keeps to it (reach.py), so whoever opens more is not one of ours."""
THREADS = 4
"""That read, verify and prove, for all peers together: others of the daemon's work need some."""
FETCHES_PER_PEER = 2
"""Served at a time, however many streams a peer opens; each holds PIECE_LEAVES in memory."""
PIECE_LEAVES = 4
"""Read and verified at a time: a megabyte takes 0.4 ms, and a thread's turn 0.1."""
WORK_SHARE, WORK_BURST = 0.1, 1.0
"""Seconds of work a second, and at once, that one peer's questions may cost us. A proof in a
tensor of 64 GiB costs 0.3 s the first time; who asks for more waits for the answer."""
IDLE_SECONDS = 600.0
"""A stream on which nothing is asked is ended. A source that only stands by for a pull keeps its
stream so long; their number is bounded."""
STALL_SECONDS = 30.0
"""A chunk that the peer does not take for so long ends the stream: its window is shut. Pullers
give up on a leaf, which is a chunk, after as long."""
BUSY_RETRY_MS = 2000
PAUSED_RETRY_MS = 30_000
MAX_WORKERS_REMEMBERED = 4096

log = logging.getLogger(__name__)

T = TypeVar("T")

Blame = Callable[[bytes, Fault, str], None]
"""net.blame."""

Gave = Callable[[bytes, int], None]
"""Told (file root, bytes) of what was given of a file."""


def _uncounted(_root: bytes, _count: int) -> None:
    """For servers that nobody's evictions depend on."""


class Pulls(Protocol):
    """What the server tells and is told of our own pulls."""

    def wants(self, root: bytes) -> tuple[Span, ...] | None:
        """Of a file: None where it is not being pulled, the runs wanted, or () for all."""

    def asked(self, peer: bytes, roots: Sequence[bytes]) -> None:
        """A peer wants to know what we have of these files: it may be pulling them, too."""


class BlockServer:
    """Serves one store. `handle` is the stream handler of protocols.tensors.blocks.PROTOCOL."""

    def __init__(
        self,
        store: Store,
        uploads: Uploads,
        pulls: Pulls,
        blame: Blame,
        *,
        gave: Gave = _uncounted,
    ) -> None:
        self._gave = gave
        self._store = store
        self._uploads = uploads
        self._pulls = pulls
        self._blame = blame
        self._threads = trio.CapacityLimiter(THREADS)
        self._fetches: dict[bytes, trio.CapacityLimiter] = {}
        self._work: dict[bytes, TokenBucket] = {}

    async def handle(self, stream: Stream) -> None:
        """Answer until the peer ends the stream, stalls, or sends what is not the protocol."""
        try:
            while True:
                frame = await stream.read_frame(MAX_REQUEST, timeout=IDLE_SECONDS)
                await self._respond(stream, decode_request(frame))
        except (NetError, UploadsPausedError):
            return
        except (MalformedError, LimitError) as error:
            self._blame(stream.peer, Fault.MALFORMED, f"a request for blocks: {error.message}")
            with suppress(NetError):
                await _send(stream, Refusal(code="malformed"))

    async def _respond(self, stream: Stream, request: Request) -> None:
        if isinstance(request, HaveRequest):
            self._pulls.asked(stream.peer, request.roots)
            began = time.thread_time()
            answer = encode(self._holdings(request))
            await self._charge(stream.peer, time.thread_time() - began)
            await stream.write_frame(answer, timeout=STALL_SECONDS)
            return
        with self._uploads.serving(stream.peer) as free:
            refusal = self._refusal(request, free)
            if refusal is None:
                try:
                    await self._answer(stream, request)
                    return
                except (NotHeldError, LeafRangeError):
                    refusal = Refusal(code="not-held")
                except LimitError:
                    refusal = Refusal(code="too-large")
                except StoreError as error:
                    log.warning("serving %s: %s", type(request).__name__, error)
                    refusal = Refusal(code="busy", retry_ms=MAX_RETRY_MS)
        await _send(stream, refusal)

    def _refusal(self, request: Request, free: bool) -> Refusal | None:
        if self._uploads.paused and isinstance(request, FetchRequest | ProveRequest):
            return Refusal(code="paused", retry_ms=PAUSED_RETRY_MS)
        return None if free else Refusal(code="busy", retry_ms=BUSY_RETRY_MS)

    async def _answer(self, stream: Stream, request: Request) -> None:
        """Send what is asked for; what `_respond` turns into a refusal comes before any byte."""
        if isinstance(request, FetchRequest):
            peer = stream.peer
            limiter = self._fetches.setdefault(peer, trio.CapacityLimiter(FETCHES_PER_PEER))
            try:
                async with limiter:
                    await self._give_leaves(stream, request)
            finally:
                if not limiter.borrowed_tokens and not limiter.statistics().tasks_waiting:
                    self._fetches.pop(peer, None)
            return
        answer, parts = await self._found(stream.peer, request)
        await _send(stream, answer)
        for part in parts:
            await self._give(stream, part)

    async def _give_leaves(self, stream: Stream, request: FetchRequest) -> None:
        """Send a run of leaves, a piece read and verified while the one before is under way."""
        held = self._held(request.root)
        start, stop = held.layout.run_span(request.lo, request.hi)
        if stop - start > MAX_FETCH_BYTES:
            raise LimitError(f"{stop - start} bytes in one request")
        if not held.has(request.lo, request.hi):
            raise NotHeldError(f"not all of [{request.lo}, {request.hi}) is held")
        said = False
        for lo in range(request.lo, request.hi, PIECE_LEAVES):
            hi = min(lo + PIECE_LEAVES, request.hi)
            try:
                data = await self._in_thread(self._read, held, lo, hi)
            except (NotHeldError, StoreError) as error:
                if not said:
                    raise
                # The announced bytes will not come; only an end of the stream can say so now.
                stream.reset()
                raise StreamClosedError(f"what was to be sent is gone: {error.message}") from error
            if not said:
                await _send(stream, Bytes(length=stop - start))
                said = True
            await self._give(stream, data)
            self._gave(request.root, len(data))

    async def _give(self, stream: Stream, data: bytes) -> None:
        """Send what follows an answer, a chunk at a time when it is our turn."""
        view, size = memoryview(data), self._uploads.chunk()
        try:
            for at in range(0, len(view), size):
                chunk = view[at : at + size]
                await self._uploads.grant(stream.peer, len(chunk))
                await stream.write(chunk, timeout=STALL_SECONDS)
        except UploadsPausedError:
            stream.reset()  # as above
            raise

    # -- what is asked ----------------------------------------------------------------------

    async def _found(self, peer: bytes, request: Request) -> tuple[Answer, list[bytes]]:
        """The answer to a question and what follows it, and the work put on the peer's account.

        Raises NotHeldError, LimitError, LeafRangeError, StoreError.
        """
        spent = 0.0

        def find() -> tuple[Answer, list[bytes]]:
            nonlocal spent
            began = time.thread_time()
            try:
                return self._find(request)
            finally:
                spent = time.thread_time() - began

        try:
            return await self._in_thread(find)
        finally:
            await self._charge(peer, spent)

    async def _charge(self, peer: bytes, seconds: float) -> None:
        """Wait until `peer` may have cost us so many seconds more."""
        bucket = self._work.get(peer)
        if bucket is None:
            while len(self._work) >= MAX_WORKERS_REMEMBERED:
                del self._work[next(iter(self._work))]
            bucket = self._work[peer] = TokenBucket(WORK_SHARE, WORK_BURST)
        while wait := bucket.take(seconds, trio.current_time()):
            await trio.sleep(wait)

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(partial(work, *args), limiter=self._threads)

    def _held(self, root: bytes) -> HeldFile:
        held = self._store.file(root)
        if held is None:
            raise NotHeldError(f"nothing of {root.hex()} is held")
        return held

    def _read(self, held: HeldFile, lo: int, hi: int) -> bytes:
        """Verified bytes of leaves: what our disk has spoiled is not sent, but forgotten."""
        return held.read(lo, hi)

    def _find(self, request: Request) -> tuple[Answer, list[bytes]]:
        """In a thread: hashes of a large file may have to be read and its trees to be built."""
        match request:
            case BlockRequest(cid):
                block = self._store.get_block(cid)
                return Bytes(length=len(block)), [block]
            case LayoutRequest(root):
                return _shape(self._held(root))
            case LeavesRequest(root, sections):
                return _hashes(self._held(root), sections)
            case ProveRequest(root, leaf):
                held = self._held(root)
                proof = held.prove(leaf, leaf + 1)
                data = self._read(held, leaf, leaf + 1)
                length = len(proof) * HASH_BYTES + len(data)
                return Proven(length=length, hashes=len(proof)), [b"".join(proof), data]
        raise AssertionError(f"{request} is no question")

    def _holdings(self, request: HaveRequest) -> Holdings:
        room = MAX_RUNS
        files = []
        for root in request.roots:
            held, wants = self._store.file(root), self._pulls.wants(root)
            runs = () if held is None or held.complete else tuple(held.have)[:room]
            room -= len(runs)
            wanted = (wants or ())[:room]
            room -= len(wanted)
            files.append(
                Holding(
                    held=runs,
                    complete=held is not None and held.complete,
                    pulling=wants is not None,
                    wants=wanted,
                )
            )
        return Holdings(files=tuple(files))


def _shape(held: HeldFile) -> tuple[Answer, list[bytes]]:
    nodes = b"".join(held.nodes)
    shape = Shape(
        length=len(held.header) + len(nodes),
        header=len(held.header),
        size=held.size,
        layout=cast(Layout, held.layout.kind),
    )
    return shape, [held.header, nodes]


def _hashes(held: HeldFile, asked: Iterable[Span]) -> tuple[Answer, list[bytes]]:
    """The leaf hashes of the sections asked for that are known, as many as fit."""
    found, parts = Runs(), []
    for section in _known(held, asked):
        found.add(section.index, section.index + 1)
        parts.append(held.section_hashes(section.index))
        if len(found) == MAX_RUNS or len(parts) == MAX_SECTIONS:
            break
    raw = b"".join(parts)
    return Hashes(length=len(raw), sections=tuple(found)), [raw]


def _known(held: HeldFile, asked: Iterable[Span]) -> Iterator[Section]:
    """Sections asked for whose leaf hashes are known, while those fit one answer."""
    room = MAX_HASHES
    for lo, hi in asked:
        for section in held.layout.sections[lo:hi]:
            if section.leaves <= room and held.knows(section.index):
                room -= section.leaves
                yield section


async def _send(stream: Stream, answer: Answer) -> None:
    await stream.write_frame(encode(answer), timeout=STALL_SECONDS)
