"""In which order a pull asks for its chunks, and whom: a pull's use of the slot `tile_assignment`.

`Ordering` makes the batch out of what the pull knows, keeps the answer until the slot is asked
again, and says of each chunk how many steps of patience a peer is to wait for it.

Who of several co-pullers carries a chunk from its source is drawn by all of them alike, without
a word: each has one long draw for each file, by its peer id, with a number for each chunk, and
the least number carries (rendezvous hashing; protocols/rendezvous.py has weights, which are not
needed here, and costs a hash for each chunk).
"""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import shake_256
from itertools import accumulate
from operator import xor

from protocols.slots.abi import MAX_ROWS, Batch
from protocols.slots.tile_assignment import (
    CHUNKS,
    MAX_PEERS,
    MOST_WAIT,
    NOISE_BITS,
    PEERS,
    SLOT,
)
from protocols.tensors.chunks import ChunkMap, Spans
from protocols.transfer.pullpeer import Peer, bytes_left

SCAN_SECONDS = 40e-6
"""Of looking again for each pending chunk and each run that a peer says it has, so that looking
takes a few hundredths of the time, whatever peers say."""
NEWCOMER_SHARE = 8
"""Who says for the first time what it has is waited for by that part of it only."""
ANSWER_SECONDS = 3.0
"""That the slot's answer is waited for, with what is known until then; the reference answers from
then on. A module is cut off far sooner, by those who run it."""
DRAW_BYTES = 8
_GOLDEN = 0x9E3779B97F4A7C15

Make = Callable[[Mapping[str, int], Sequence[int]], Batch]
"""(context, rows of each table) -> an empty batch."""


def own_batch(context: Mapping[str, int], rows: Sequence[int]) -> Batch:
    """In memory of its own."""
    return Batch.new(SLOT, context, rows)


class Ordering:
    """What the slot answered last, and when to ask again."""

    def __init__(self, me: bytes, roots: Sequence[bytes], chunks: ChunkMap, seed: int) -> None:
        self.numbers: list[int] = []
        """The chunks that were pending, those to ask for first in front."""
        self._me = me
        self._roots = roots
        self._map = chunks
        self._noise = [_noise(number, seed) for number in range(len(chunks.chunks))]
        self._sizes = [chunk.size for chunk in chunks.chunks]
        self._files = [chunk.file for chunk in chunks.chunks]
        self._lower: dict[tuple[int, bytes], list[bool]] = {}
        self._rows: dict[int, int] = {}
        self._bits: dict[bytes, int] = {}
        self._first: list[int] = []
        self._second: list[int] = []
        self._waits: list[int] = []
        self._dirty, self._newcomer = True, False
        self._at, self._cost = float("-inf"), 0
        self._asked: Batch | None = None
        self._asked_numbers: list[int] = []
        self._asked_bits: dict[bytes, int] = {}

    # -- when ---------------------------------------------------------------------------------

    def changed(self, *, newcomer: bool = False) -> None:
        """What the answer rests on is different now."""
        self._dirty = True
        self._newcomer |= newcomer

    @property
    def asked(self) -> bool:
        """Whether an answer is awaited."""
        return self._asked is not None

    def due(self, now: float) -> bool:
        """Whether it is time to ask."""
        wait = SCAN_SECONDS * self._cost
        return self._dirty and now - self._at >= (wait / NEWCOMER_SHARE if self._newcomer else wait)

    def overdue(self, now: float) -> bool:
        """Whether an answer has been awaited for too long."""
        return self._asked is not None and now - self._at >= ANSWER_SECONDS

    # -- the question -------------------------------------------------------------------------

    def ask(
        self,
        make: Make,
        now: float,
        peers: Iterable[Peer],
        *,
        lacking: Mapping[int, int],
        todo: Mapping[int, int],
        context: Mapping[str, int],
    ) -> Batch:
        """The batch to be answered. `lacking` and `todo` are masks of leaves by chunk."""
        known = list(peers)[:MAX_PEERS]
        numbers = [number for number, mask in todo.items() if mask]
        self._cost = len(numbers) + sum(_runs_said(peer) for peer in known)
        numbers, rest = numbers[:MAX_ROWS], numbers[MAX_ROWS:]
        batch = make(context, (len(known), len(numbers)))
        self._fill_peers(batch, known)
        self._fill_chunks(batch, known, numbers, lacking)
        self._dirty = self._newcomer = False
        self._at = now
        self._asked = batch
        # What is beyond a batch comes last; some of it is in the next one.
        self._asked_numbers = numbers + rest
        self._asked_bits = {peer.peer: at for at, peer in enumerate(known)}
        return batch

    def _fill_peers(self, batch: Batch, peers: Sequence[Peer]) -> None:
        batch.fill(PEERS, "near", [int(peer.local) for peer in peers])
        batch.fill(PEERS, "rate", [int(peer.rate) for peer in peers])
        batch.fill(PEERS, "given", [peer.bytes for peer in peers])
        batch.fill(PEERS, "flying", [sum(map(bytes_left, peer.runs)) for peer in peers])

    def _fill_chunks(
        self,
        batch: Batch,
        peers: Sequence[Peer],
        numbers: Sequence[int],
        lacking: Mapping[int, int],
    ) -> None:
        partial, pulling = self._roles(peers)
        whole, some = self._holders(peers, lacking)
        wanters = self._wanters(peers, whole)
        before = self._before(peers)
        files = [self._files[number] for number in numbers]
        wanted = [wanters[number] for number in numbers]
        columns: dict[str, Iterable[int]] = {
            "file": files,
            "size": [self._sizes[number] for number in numbers],
            "rarity": [
                (whole[number] & partial[file]).bit_count()
                for number, file in zip(numbers, files, strict=True)
            ],
            "noise": [self._noise[number] for number in numbers],
            "holders": [some[number] for number in numbers],
            "pullers": [pulling[file] for file in files],
            "wanters": wanted,
            "place": [
                (wants & before[number]).bit_count() if wants else 0
                for number, wants in zip(numbers, wanted, strict=True)
            ],
        }
        for name, values in columns.items():
            batch.fill(CHUNKS, name, values)

    def _roles(self, peers: Sequence[Peer]) -> tuple[list[int], list[int]]:
        """By file, the masks of who is still collecting it, and of who pulls it as we do."""
        partial, pulling = [0] * len(self._roots), [0] * len(self._roots)
        for at, peer in enumerate(peers):
            for file, complete in peer.complete.items():
                if not complete:
                    partial[file] |= 1 << at
            for file in peer.wants:
                pulling[file] |= 1 << at
        return partial, pulling

    def _holders(
        self, peers: Sequence[Peer], lacking: Mapping[int, int]
    ) -> tuple[list[int], list[int]]:
        """By chunk, the masks of who has all of it, and of who has something that is lacking."""
        marks = _Marks(self._map)
        for at, peer in enumerate(peers):
            for file, spans in peer.held.items():
                marks.add(1 << at, file, spans)
        whole = marks.whole()
        some = whole.copy()
        for number, bit, mask in marks.edges:
            if mask & lacking.get(number, 0):
                some[number] |= bit
        return whole, some

    def _wanters(self, peers: Sequence[Peer], whole: list[int]) -> list[int]:
        """By chunk, the mask of who pulls something of it that it has not got."""
        if not any(peer.wants for peer in peers):
            return [0] * len(whole)
        marks = _Marks(self._map)
        for at, peer in enumerate(peers):
            for file, spans in peer.wants.items():
                if spans is None:
                    marks.add_all(1 << at, file)
                else:
                    marks.add(1 << at, file, spans)
        wanters = [wants & ~held for wants, held in zip(marks.whole(), whole, strict=True)]
        for number, bit, mask in marks.edges:
            chunk = self._map.chunks[number]
            held = peers[bit.bit_length() - 1].held.get(chunk.file)
            if mask & ~(held.mask(chunk) if held is not None else 0):
                wanters[number] |= bit
        return wanters

    # -- who carries what ---------------------------------------------------------------------

    def _before(self, peers: Sequence[Peer]) -> list[int]:
        """By chunk, the mask of the co-pullers whose draw is lower than ours."""
        before = [0] * len(self._files)
        for at, peer in enumerate(peers):
            bit = 1 << at
            for file in peer.wants:
                chunks = self._map.of_file(file)
                lower = self._lower.get((file, peer.peer))
                if lower is None:
                    lower = self._lower[file, peer.peer] = self._lower_than_ours(file, peer.peer)
                before[chunks.start : chunks.stop] = [
                    mask | bit if less else mask
                    for mask, less in zip(before[chunks.start : chunks.stop], lower, strict=True)
                ]
        return before

    def _lower_than_ours(self, file: int, peer: bytes) -> list[bool]:
        root, count = self._roots[file], len(self._map.of_file(file))
        pairs = zip(draws(root, peer, count), draws(root, self._me, count), strict=True)
        return [theirs < ours for theirs, ours in pairs]

    def forget(self, peer: bytes) -> None:
        """A peer has left."""
        for file in range(len(self._roots)):
            self._lower.pop((file, peer), None)

    # -- the answer ---------------------------------------------------------------------------

    def take(self, batch: Batch) -> None:
        """`batch` is answered. One that is not awaited (any more) is passed over."""
        if batch is not self._asked:
            return
        order = batch.answer("order")
        numbers, count = self._asked_numbers, len(order)
        rows = sorted(range(count), key=order.__getitem__)
        self.numbers = [numbers[row] for row in rows] + numbers[count:]
        self._rows = dict(zip(numbers[:count], range(count), strict=True))
        self._bits = self._asked_bits
        self._first, self._second = batch.answer("first"), batch.answer("second")
        self._waits = batch.answer("wait")
        self._asked = None

    def give_up(self, batch: Batch) -> None:
        """`batch` will not be answered."""
        if batch is self._asked:
            self._asked = None
            self._dirty = True

    def steps(self, peer: bytes, number: int) -> int:
        """Steps of patience before `peer` may be asked for a chunk; 0 is at once."""
        row, at = self._rows.get(number), self._bits.get(peer)
        if row is None or at is None:
            # Of a peer or chunk that was not there, nothing is known that would forbid it, but
            # it will be in the next batch.
            return MOST_WAIT + 1
        if self._first[row] >> at & 1:
            return 0
        wait = self._waits[row]
        return wait if self._second[row] >> at & 1 else wait + 1


class _Marks:
    """Sets of peers by chunk, out of each one's runs of leaves."""

    def __init__(self, chunks: ChunkMap) -> None:
        self._map = chunks
        self._steps = [0] * (len(chunks.chunks) + 1)
        self.edges: list[tuple[int, int, int]] = []
        """(chunk, the peer's bit, leaves) of chunks of which a run has a part."""

    def add_all(self, bit: int, file: int) -> None:
        """All of a file."""
        chunks = self._map.of_file(file)
        self._steps[chunks.start] ^= bit
        self._steps[chunks.stop] ^= bit

    def add(self, bit: int, file: int, spans: Spans) -> None:
        """Runs that do not touch: each turns the peer's bit on at its first whole chunk, and off
        behind its last."""
        steps = self._steps
        for lo, hi in spans:
            whole = self._map.whole(file, lo, hi)
            if whole:
                steps[whole.start] ^= bit
                steps[whole.stop] ^= bit
            touched = self._map.of_run(file, lo, hi)
            if len(whole) == len(touched):
                continue
            for number in {touched.start, touched.stop - 1}:
                if number not in whole:
                    chunk = self._map.chunks[number]
                    start, stop = max(lo, chunk.lo) - chunk.lo, min(hi, chunk.hi) - chunk.lo
                    self.edges.append((number, bit, (1 << stop) - (1 << start)))

    def whole(self) -> list[int]:
        """By chunk, who has all of it in one run."""
        return list(accumulate(self._steps[:-1], xor))


def draws(root: bytes, peer: bytes, count: int) -> Sequence[int]:
    """A peer's draw for each of the `count` chunks of a file."""
    numbers = array("Q")
    numbers.frombytes(shake_256(root + peer).digest(count * DRAW_BYTES))
    return numbers


def _noise(number: int, seed: int) -> int:
    """A pull's own order of equally rare chunks: runs of four stay together (a tile)."""
    mixed = (number // 4 + 1) * _GOLDEN * seed & ((1 << 64) - 1)
    return mixed >> (64 - NOISE_BITS)


def _runs_said(peer: Peer) -> int:
    return sum(len(spans) for file, spans in peer.held.items() if not peer.complete[file])
