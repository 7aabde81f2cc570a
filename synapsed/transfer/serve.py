"""The answering side of the blocks protocol: whatever is held, to whoever asks, in fair turns.

Nothing is read that is not held, nothing is sent beyond the limits of protocols/blocks.py, and a
request that cannot be met is refused in words. One stream is served in order; how many a peer
may open is the net's limit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from protocols.blocks import (
    MAX_FETCH_BYTES,
    MAX_HASHES,
    MAX_REQUEST,
    MAX_RUNS,
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
from protocols.codec import encode
from protocols.errors import LimitError, MalformedError, NotHeldError
from protocols.hashtree import HASH_BYTES
from protocols.peerscore import Fault
from protocols.tensorblock import LeafRangeError
from synapsed.net.errors import NetError
from synapsed.store import HeldFile, Runs, Store
from synapsed.transfer.limits import Uploads, UploadsPausedError
from synapsed.transfer.talk import Stream

MAX_STREAMS_PER_PEER = 16
"""Two for each of our pulls and repairs, a handful at a time, and one for a probe."""
IDLE_SECONDS = 600.0
"""A stream on which nothing is asked is ended. A source that only stands by for a pull keeps its
stream so long; their number is bounded."""
STALL_SECONDS = 60.0
"""A chunk that the peer does not take for so long ends the stream: its window is shut."""
BUSY_RETRY_MS = 2000
PAUSED_RETRY_MS = 30_000
_PAGE = 4096

Blame = Callable[[bytes, Fault, str], None]
"""net.blame."""


class Pulls(Protocol):
    """What the server tells and is told of our own pulls."""

    def wants(self, root: bytes) -> tuple[Span, ...] | None:
        """Of a file: None where it is not being pulled, the runs wanted, or () for all."""

    def asked(self, peer: bytes, roots: Sequence[bytes]) -> None:
        """A peer wants to know what we have of these files: it may be pulling them, too."""


class BlockServer:
    """Serves one store. `handle` is the stream handler of protocols.blocks.PROTOCOL."""

    def __init__(self, store: Store, uploads: Uploads, pulls: Pulls, blame: Blame) -> None:
        self._store = store
        self._uploads = uploads
        self._pulls = pulls
        self._blame = blame

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
            await _send(stream, self._holdings(request))
            return
        with self._uploads.serving(stream.peer) as free:
            if self._uploads.paused and isinstance(request, FetchRequest | ProveRequest):
                refusal = Refusal(code="paused", retry_ms=PAUSED_RETRY_MS)
            elif not free:
                refusal = Refusal(code="busy", retry_ms=BUSY_RETRY_MS)
            else:
                try:
                    answer, parts = await self._find(request)
                except (NotHeldError, LeafRangeError):
                    refusal = Refusal(code="not-held")
                except LimitError:
                    refusal = Refusal(code="too-large")
                else:
                    await self._give(stream, answer, parts)
                    return
        await _send(stream, refusal)

    async def _give(self, stream: Stream, answer: Answer, parts: list[memoryview]) -> None:
        """Send an answer and what follows it, a chunk at a time when it is our turn."""
        try:
            await _send(stream, answer)
            for chunk in _chunks(parts, self._uploads.chunk()):
                await self._uploads.grant(stream.peer, len(chunk))
                await stream.write(chunk, timeout=STALL_SECONDS)
        except UploadsPausedError:
            # The announced bytes will not come; only an end of the stream can say so now.
            stream.reset()
            raise

    # -- what is asked ----------------------------------------------------------------------

    async def _find(self, request: Request) -> tuple[Answer, list[memoryview]]:
        """The answer to a request and what follows it. NotHeldError, LimitError, LeafRangeError."""
        if isinstance(request, BlockRequest):
            block = await trio.to_thread.run_sync(self._store.get_block, request.cid)
            return _bytes([memoryview(block)])
        assert not isinstance(request, HaveRequest)
        held = self._store.file(request.root)
        if held is None:
            raise NotHeldError(f"nothing of {request.root.hex()} is held")
        if isinstance(request, LayoutRequest):
            nodes = b"".join(held.nodes)
            shape = Shape(length=len(held.header) + len(nodes), header=len(held.header))
            return shape, [memoryview(held.header), memoryview(nodes)]
        if isinstance(request, LeavesRequest):
            return _hashes(held, request.sections)
        if isinstance(request, FetchRequest):
            start, stop = held.layout.run_span(request.lo, request.hi)
            if stop - start > MAX_FETCH_BYTES:
                raise LimitError(f"{stop - start} bytes in one request")
            return _bytes([await _warm(held, request.lo, request.hi)])
        proof = held.prove(request.leaf, request.leaf + 1)
        leaf = await _warm(held, request.leaf, request.leaf + 1)
        answer = Proven(length=len(proof) * HASH_BYTES + len(leaf), hashes=len(proof))
        return answer, [memoryview(b"".join(proof)), leaf]

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


def _bytes(parts: list[memoryview]) -> tuple[Answer, list[memoryview]]:
    return Bytes(length=sum(map(len, parts))), parts


def _hashes(held: HeldFile, asked: Iterable[Span]) -> tuple[Answer, list[memoryview]]:
    """The leaf hashes of the sections asked for that are known, as many as fit."""
    sections, found, room = held.layout.sections, Runs(), MAX_HASHES
    parts = []
    for lo, hi in asked:
        for section in sections[lo:hi]:
            if section.leaves <= room and held.knows(section.index):
                room -= section.leaves
                found.add(section.index, section.index + 1)
                parts.append(held.section_hashes(section.index))
    raw = b"".join(parts)
    return Hashes(length=len(raw), sections=tuple(found)[:MAX_RUNS]), [memoryview(raw)]


async def _warm(held: HeldFile, lo: int, hi: int) -> memoryview:
    """The bytes of a run, read from the disk in a thread so that only this peer waits for it."""
    view = held.read(lo, hi)
    await trio.to_thread.run_sync(_touch, view)
    return view


def _touch(view: memoryview) -> None:
    bytes(view[::_PAGE])


def _chunks(parts: list[memoryview], size: int) -> Iterator[memoryview]:
    for part in parts:
        for at in range(0, len(part), size):
            yield part[at : at + size]


async def _send(stream: Stream, answer: Answer) -> None:
    await stream.write_frame(encode(answer), timeout=STALL_SECONDS)
