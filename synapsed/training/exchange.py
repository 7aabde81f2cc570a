"""Blobs between daemons: whoever needs one asks for it by name, on a stream of its own.

    we ask    a frame with a Want; then, for as long as we like, more of them
    answer    a frame with the size in 8 bytes (0: not here), and the bytes in frames of 256 KiB

Nobody can send us bytes: a message names what it is about, is judged, and only then are its blobs
asked for, of whoever sent it. So a stranger fills no disk, and what is here already never travels
again. Everybody may ask: deltas and results are public, so that anybody can recompute a round;
what that costs us is bounded by the owner's upload limit, which peers share fairly.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import copy
from functools import partial
from math import inf
from typing import Any, Literal, TypeVar

import trio

from protocols.codec import Message, decode, encode
from protocols.errors import MalformedError
from protocols.gossip.peerscore import Fault
from protocols.learn.claims import MAX_OUTER, Digest
from protocols.manifest import CidBytes
from protocols.peerid import peer_id_text
from protocols.tensors.tensorblock import SUBTILE
from synapsed.net.errors import NetError
from synapsed.ports import Net, Stream
from synapsed.store.disk import Source
from synapsed.training.blobs import Blobs, Incoming
from synapsed.training.errors import BlobUnknownError, WrongBlobError

log = logging.getLogger(__name__)

PROTOCOL = "/synapse/learn-blob/1.0.0"
T = TypeVar("T")

MAX_TALKED = 1024
"""Peers of whom it is counted what they say: ten times those that a thousand learners need."""
MAX_WANT = 512
"""Bytes of a Want's frame: two names and a word."""
SIZE_BYTES = 8
MAX_VERSION = 2 << 30
"""Bytes of a version's file: plan.MAX_GROUP_BYTES and its header, or one tile that is larger."""
STREAMS_PER_PEER = 4
"""Of one peer, to be answered at a time; we ask one peer on so many less one."""
CHUNK_SECONDS = 30.0
"""For one chunk: a line that moves less than 8 KiB a second is no line to learn over."""
IDLE_SECONDS = 60.0
"""Until a stream on which nothing is asked is ended."""
HURRY_SECONDS = 2.0
"""Without a byte of what is on its way from one peer, until whoever wants it of another one asks
that, too. The first may have been powered off with a group's log half sent: its successor must not
wait until that is certain (a take-over takes about as long)."""

Kind = Literal["blob", "version"]
Role = Literal["learner", "replica", "aggregator"]
"""What this daemon was when it sent or fetched something."""


class Want(Message, frozen=True):
    """One blob, or version, of a lineage."""

    model: CidBytes
    kind: Kind
    name: Digest


class Traffic:
    """Payload bytes of training on sockets, by direction and kind, and with whom."""

    def __init__(self) -> None:
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.roles: Counter[tuple[str, Role]] = Counter()
        """By direction and what we were."""
        self.talked: dict[bytes, dict[str, int]] = {}
        """By peer and direction; whoever was first heard of last is at the end."""

    def count(
        self, peer: bytes, direction: str, kind: str, size: int, role: Role | None = None
    ) -> None:
        """So many more; without a role where that is known only later (`roles`)."""
        self.bytes[direction, kind] += size
        if role is not None:
            self.roles[direction, role] += size
        each = self.talked.get(peer)
        if each is None:
            if len(self.talked) >= MAX_TALKED:
                del self.talked[next(iter(self.talked))]
            each = self.talked[peer] = {"in": 0, "out": 0}
        each[direction] += size

    def total(self, direction: str) -> int:
        """Of all kinds."""
        return sum(size for (way, _), size in self.bytes.items() if way == direction)


Grant = Callable[[bytes, int], Awaitable[None]]
"""(peer, bytes): waits for the peer's turn at the upload limit; raises RefusedError."""


async def at_once(_peer: bytes, _size: int) -> None:
    """Where nothing is limited."""


class Coming:
    """One blob, or version, on its way; of several peers where one was slow."""

    def __init__(self) -> None:
        self.asked: dict[bytes, trio.CancelScope] = {}
        self.moved_at = trio.current_time()
        """When anything of it last came, or was asked for."""
        self.ended = trio.Event()
        """It is here, or nobody is asked for it any more."""

    async def stands_still(self, peer: bytes) -> bool:
        """Wait until it ended (False); at most, if `peer` is not asked yet, until nothing comes."""
        while not self.ended.is_set():
            left = self.moved_at + HURRY_SECONDS - trio.current_time()
            if peer in self.asked:
                left = inf
            if left <= 0:
                return True
            with trio.move_on_after(left):
                await self.ended.wait()
        return False


class Exchange:
    """Both sides. `shelves` has the Blobs of each lineage that is here."""

    def __init__(
        self,
        net: Net,
        connect: Callable[[bytes], Awaitable[None]],
        traffic: Traffic,
        grant: Grant = at_once,
    ) -> None:
        """`connect` dials a peer or raises NetError."""
        self.shelves: dict[bytes, Blobs] = {}
        self.on_missing: Callable[[bytes, bytes], None] = lambda _model, _root: None
        """Called with a lineage, and the version of it that somebody asked for in vain."""
        self.role_of: Callable[[bytes, bytes], Role] = lambda _model, _name: "replica"
        """(lineage, name) -> what we are that we hold a blob which is asked for."""
        self._role: Role = "replica"
        self._net = net
        self._connect = connect
        self._traffic = traffic
        self._grant = grant
        self._asking: dict[bytes, trio.CapacityLimiter] = {}
        self._coming: dict[tuple[bytes, bytes], Coming] = {}
        net.serve(PROTOCOL, self._serve, STREAMS_PER_PEER)

    def of(self, role: Role) -> "Exchange":
        """The same one, where what is fetched counts for a role of ours."""
        one = copy(self)
        one._role = role
        return one

    @property
    def coming(self) -> set[bytes]:
        """Names of what is on its way."""
        return {name for _, name in self._coming}

    # -- asking ------------------------------------------------------------------------------------

    async def fetch(self, peer: bytes, model: bytes, blobs: Mapping[bytes, int]) -> None:
        """Have these blobs (digest: exact size) here, of `peer`.

        Raises NetError, BlobUnknownError, WrongBlobError, TooManyBlobsError, StoreError.
        """
        for digest, size in blobs.items():
            await self._once(peer, model, "blob", digest, size)

    async def fetch_of(
        self, peers: Iterable[bytes], model: bytes, digest: bytes, size: int
    ) -> bytes:
        """Have a blob here, of the first of `peers` that has it; which one. Where nobody signed how
        large it is `size` is `-most`. BlobUnknownError."""
        for peer in peers:
            try:
                await self._once(peer, model, "blob", digest, size)
            except (NetError, BlobUnknownError, WrongBlobError) as error:
                log.debug("blob %s of %s: %s", digest.hex()[:8], peer_id_text(peer), error)
            else:
                return peer
        raise BlobUnknownError(f"nobody who was asked gave blob {digest.hex()[:16]}")

    async def fetch_version(
        self, peers: Iterable[bytes], model: bytes, root: bytes, size: int
    ) -> None:
        """Have a version's file here, of the first of `peers` that has it. BlobUnknownError."""
        for peer in peers:
            try:
                await self._once(peer, model, "version", root, size)
            except (NetError, BlobUnknownError, MalformedError) as error:
                log.debug("version %s of %s: %s", root.hex()[:8], peer_id_text(peer), error)
            else:
                return
        raise BlobUnknownError(f"nobody who was asked gave version {root.hex()[:16]}")

    async def _once(self, peer: bytes, model: bytes, kind: Kind, name: bytes, size: int) -> None:
        """Have it on disk: unless it is here; where another task fetches it, wait for that one, as
        long as it moves."""
        shelf = self.shelves[model]
        while not self._here(shelf, kind, name):
            coming = self._coming.get((model, name))
            if coming is None:
                coming = self._coming[model, name] = Coming()
            elif not await coming.stands_still(peer):
                continue
            want = Want(model=model, kind=kind, name=name)
            await self._ask_for(coming, peer, shelf, want, size)
        if name in shelf.unsynced:
            await _thread(partial(shelf.sync, name))

    @staticmethod
    def _here(shelf: Blobs, kind: Kind, name: bytes) -> bool:
        return shelf.has(name) if kind == "blob" else shelf.has_version(name)

    async def _ask_for(
        self, coming: Coming, peer: bytes, shelf: Blobs, want: Want, size: int
    ) -> None:
        """Ask one more; whoever gives it first ends the others."""
        coming.moved_at = trio.current_time()
        scope = coming.asked[peer] = trio.CancelScope()
        try:
            with scope:
                await self._ask(coming, peer, shelf, want, size)
        finally:
            del coming.asked[peer]
            if not coming.asked or self._here(shelf, want.kind, want.name):
                for other in coming.asked.values():
                    other.cancel()
                if self._coming.get((want.model, want.name)) is coming:
                    del self._coming[want.model, want.name]
                coming.ended.set()

    async def _ask(self, coming: Coming, peer: bytes, shelf: Blobs, want: Want, size: int) -> None:
        limiter = self._asking.setdefault(peer, trio.CapacityLimiter(STREAMS_PER_PEER - 1))
        async with limiter:
            await self._connect(peer)
            async with self._net.open_stream(peer, PROTOCOL) as stream:
                data = encode(want)
                await stream.write_frame(data)
                self._traffic.count(peer, "out", "want", len(data), self._role)
                said = await stream.read_frame(SIZE_BYTES)
                found = int.from_bytes(said, "big")
                if not found:
                    raise BlobUnknownError(
                        f"{peer_id_text(peer)} has no {want.kind} {want.name.hex()[:16]}"
                    )
                self._check_size(want, found, size)
                try:
                    await self._take(coming, stream, shelf, want, found)
                except WrongBlobError as error:
                    self._net.blame(peer, Fault.MISMATCH, str(error))
                    raise

    @staticmethod
    def _check_size(want: Want, found: int, size: int) -> None:
        if found > -size if size < 0 else found != size:
            raise WrongBlobError(f"{want.name.hex()[:16]} has {found} bytes, and not {size}")
        if found > (MAX_OUTER if want.kind == "blob" else MAX_VERSION):
            raise WrongBlobError(f"{want.name.hex()[:16]} of {found} bytes is too large")

    async def _take(
        self, coming: Coming, stream: Stream, shelf: Blobs, want: Want, size: int
    ) -> None:
        incoming = shelf.begin(want.name, size)
        try:
            while incoming.have < size:
                part = await stream.read_frame(SUBTILE, timeout=CHUNK_SECONDS)
                if not part:
                    raise WrongBlobError("an empty piece of a blob")
                self._traffic.count(stream.peer, "in", want.kind, len(part), self._role)
                incoming.write(part)
                coming.moved_at = trio.current_time()
        except BaseException:
            shelf.end(incoming, keep=False)
            raise
        with trio.CancelScope(shield=True):  # what was begun is ended, or its room is lost
            if want.kind == "version":
                await _thread(partial(self._keep_version, shelf, incoming, want.name))
            else:
                await _thread(partial(shelf.end, incoming, keep=True))

    @staticmethod
    def _keep_version(shelf: Blobs, incoming: Incoming, root: bytes) -> None:
        try:
            shelf.take_version(incoming.path, root)
        finally:
            shelf.end(incoming, keep=False)

    # -- answering ---------------------------------------------------------------------------------

    async def _serve(self, stream: Any) -> None:
        while True:
            data = await stream.read_frame(MAX_WANT, timeout=IDLE_SECONDS)
            want = decode(data, Want, MAX_WANT)
            role = self.role_of(want.model, want.name)
            self._traffic.count(stream.peer, "in", "want", len(data), role)
            await self._answer(stream, want, role)

    async def _answer(self, stream: Stream, want: Want, role: Role) -> None:
        shelf = self.shelves.get(want.model)
        if shelf is None or not self._here(shelf, want.kind, want.name):
            if want.kind == "version":
                self.on_missing(want.model, want.name)
            await stream.write_frame(bytes(SIZE_BYTES))
            return
        path = shelf.path(want.name) if want.kind == "blob" else shelf.version(want.name)
        with Source(path) as source:
            await stream.write_frame(source.size.to_bytes(SIZE_BYTES, "big"))
            for start in range(0, source.size, SUBTILE):
                stop = min(start + SUBTILE, source.size)
                await self._grant(stream.peer, stop - start)
                await stream.write_frame(source.read(start, stop), timeout=CHUNK_SECONDS)
                self._traffic.count(stream.peer, "out", want.kind, stop - start, role)


async def _thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)
