"""TensorBlocks: an unaltered file, cut into leaves, under one root. Spec: docs/tensorblock.md.

1. *Sections.* Layout "safetensors": section 0 is the header (8-byte length and JSON), section i
   the i-th tensor in the order of bytes. Layout "flat": one section, the whole file.
2. *Leaves and tiles.* A section is cut from its own start into sub-tiles of 256 KiB, the leaves,
   and into tiles of 16 leaves; the last of a section may be short, an empty section has none.
   Leaves and tiles are numbered through the file, so a run of leaves is one range of bytes.
3. *Tree.* H is BLAKE3's derive_key mode with one context for each use (synapsed/hashing.py):

       leaf     = H_leaf(bytes)                             node = H_node(left ‖ right)
       section  = H_section(u64 length ‖ tree over its leaves), H_section(u64 0) if empty
       root     = H_file(u64 size ‖ u64 sections ‖ tree over the section nodes)

   Integers are little endian, trees have the shape of RFC 6962 (protocols/tensors/hashtree.py). A
   tile of 16 leaves is a subtree of its section, so its value is an inner node of that tree.
4. *Run proof* for the leaves [lo, hi): the proof within the section of lo, then within the
   section of hi - 1 if that is another, then for those sections in the tree of sections.

A root fixes a file's bytes and sections. Which tensor a section is follows from the header,
which is the leaves of section 0; so header first, then anything else in any order.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

import msgspec

from protocols.errors import LimitError, MalformedError
from protocols.tensors.hashtree import (
    HASH_BYTES,
    ProofError,
    Tree,
    proof_length,
    root_of,
    root_of_run,
)
from protocols.tensors.safetensors_header import (
    METADATA_KEY,
    SafetensorsHeader,
    parse_safetensors_header,
)

SUBTILE = 256 << 10
"""Bytes of a leaf: the unit of fetch and proof. A leaf takes 30 µs to verify and its hash is
0.01 % of it; smaller ones cost requests, larger ones cost what is fetched again."""

LEAVES_OF_TILE = 16
TILE = LEAVES_OF_TILE * SUBTILE
"""Bytes of a tile: what has a primary, versions and deltas."""

MAX_FILE = 4 << 40
"""Bytes of a file: 16 million leaves, 512 MiB of leaf hashes; published shards have 5 to 50 GB."""

SAFETENSORS = "safetensors"
FLAT = "flat"


class UnknownLayoutError(MalformedError):
    """A layout that we do not speak: refused, never guessed."""

    code = "unknown-layout"


class FileTooLargeError(LimitError):
    """More than MAX_FILE bytes."""

    code = "file-too-large"


class LeafRangeError(MalformedError):
    """Leaves that the file does not have."""

    code = "leaf-range"


class Hasher(Protocol):
    """The hash domains of the tree; synapsed/hashing.py has the only real one."""

    def leaf(self, data: bytes | memoryview, /) -> bytes:
        """The hash of a sub-tile's bytes."""

    def node(self, left: bytes, right: bytes, /) -> bytes:
        """The hash of an inner node."""

    def section(self, data: bytes, /) -> bytes:
        """The hash of a section's length and tree."""

    def file(self, data: bytes, /) -> bytes:
        """The hash of a file's size, number of sections and tree."""


class Section(msgspec.Struct, frozen=True, gc=False):
    """The header, one tensor, or a whole flat file: `length` bytes from `start` of the file."""

    index: int
    name: str
    start: int
    length: int
    first_leaf: int
    leaves: int
    first_tile: int
    tiles: int

    @property
    def end_leaf(self) -> int:
        """The leaf behind its last one."""
        return self.first_leaf + self.leaves


class Layout:
    """Where a file's sections, leaves and tiles are. Lookups take O(log sections)."""

    def __init__(self, kind: str, size: int, parts: Sequence[tuple[str, int]]) -> None:
        """A layout of `parts` (name, length), which together make `size` bytes."""
        if size > MAX_FILE:
            raise FileTooLargeError(f"a file of {size} bytes where {MAX_FILE} are allowed")
        self.kind = kind
        self.size = size
        self.sections = tuple(_sections(parts))
        last = self.sections[-1]
        if last.start + last.length != size:
            raise ValueError(f"sections of {last.start + last.length} bytes in a file of {size}")
        self.leaf_count = last.end_leaf
        self.tile_count = last.first_tile + last.tiles
        self._starts = [section.start for section in self.sections]
        self._first_leaves = [section.first_leaf for section in self.sections]
        self._first_tiles = [section.first_tile for section in self.sections]

    @classmethod
    def of_safetensors(cls, header: SafetensorsHeader, size: int) -> "Layout":
        """The layout of a safetensors file, whose header was parsed for the same `size`."""
        # The header's section has the one name that no tensor can have.
        parts = [(METADATA_KEY, header.header_len)]
        parts += [(tensor.name, tensor.stop - tensor.start) for tensor in header.tensors]
        return cls(SAFETENSORS, size, parts)

    @classmethod
    def flat(cls, size: int) -> "Layout":
        """The layout of any other file: one section."""
        return cls(FLAT, size, [("", size)])

    @classmethod
    def of_kind(cls, kind: str, size: int, prefix: bytes | memoryview) -> "Layout":
        """The layout named `kind` of a file that begins with `prefix`.

        Raises UnknownLayoutError, FileTooLargeError, or the errors of the safetensors header.
        """
        if kind == SAFETENSORS:
            return cls.of_safetensors(parse_safetensors_header(prefix, size), size)
        if kind == FLAT:
            return cls.flat(size)
        raise UnknownLayoutError(
            f"a file with the layout {kind[:40]!r}", remedy="a newer daemon may know it; upgrade"
        )

    @cached_property
    def _by_name(self) -> dict[str, Section]:
        return {section.name: section for section in self.sections}

    def section(self, name: str) -> Section:
        """The section of the tensor `name`; KeyError if there is none."""
        return self._by_name[name]

    def section_of_leaf(self, leaf: int) -> Section:
        """The section that has `leaf`."""
        if not 0 <= leaf < self.leaf_count:
            raise LeafRangeError(f"leaf {leaf} of a file with {self.leaf_count}")
        # Of sections that share a first leaf all but the last are empty.
        return self.sections[bisect_right(self._first_leaves, leaf) - 1]

    def sections_of_run(self, lo: int, hi: int) -> tuple[Section, ...]:
        """The sections from that of leaf `lo` to that of leaf `hi - 1`, empty ones included."""
        self.check_run(lo, hi)
        first, last = self.section_of_leaf(lo), self.section_of_leaf(hi - 1)
        return self.sections[first.index : last.index + 1]

    def check_run(self, lo: int, hi: int) -> None:
        """Raise LeafRangeError unless [lo, hi) is a run of one leaf or more of this file."""
        if not 0 <= lo < hi <= self.leaf_count:
            raise LeafRangeError(f"leaves [{lo}, {hi}) of a file with {self.leaf_count}")

    def leaf_span(self, leaf: int) -> tuple[int, int]:
        """The bytes [start, stop) of `leaf`."""
        section = self.section_of_leaf(leaf)
        start = section.start + (leaf - section.first_leaf) * SUBTILE
        return start, min(start + SUBTILE, section.start + section.length)

    def run_span(self, lo: int, hi: int) -> tuple[int, int]:
        """The bytes [start, stop) of the leaves [lo, hi)."""
        self.check_run(lo, hi)
        return self.leaf_span(lo)[0], self.leaf_span(hi - 1)[1]

    def spans(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """The bytes [start, stop) of each leaf of [lo, hi), in constant time each."""
        for section in self.sections_of_run(lo, hi):
            first = max(lo, section.first_leaf) - section.first_leaf
            last = min(hi, section.end_leaf) - section.first_leaf
            stop = section.start + section.length
            for at in range(
                section.start + first * SUBTILE, section.start + last * SUBTILE, SUBTILE
            ):
                yield at, min(at + SUBTILE, stop)

    def leaf_at(self, offset: int) -> int:
        """The leaf that has the byte at `offset`."""
        if not 0 <= offset < self.size:
            raise LeafRangeError(f"byte {offset} of a file of {self.size}")
        section = self.sections[bisect_right(self._starts, offset) - 1]
        return section.first_leaf + (offset - section.start) // SUBTILE

    def leaves_of_tile(self, tile: int) -> tuple[int, int]:
        """The leaves [lo, hi) of `tile`."""
        if not 0 <= tile < self.tile_count:
            raise LeafRangeError(f"tile {tile} of a file with {self.tile_count}")
        section = self.sections[bisect_right(self._first_tiles, tile) - 1]
        lo = section.first_leaf + (tile - section.first_tile) * LEAVES_OF_TILE
        return lo, min(lo + LEAVES_OF_TILE, section.end_leaf)

    def tile_of_leaf(self, leaf: int) -> int:
        """The tile that has `leaf`."""
        section = self.section_of_leaf(leaf)
        return section.first_tile + (leaf - section.first_leaf) // LEAVES_OF_TILE

    def tiles_of_leaves(self, lo: int, hi: int) -> tuple[int, int]:
        """The tiles [first, end) that have leaves of [lo, hi), wholly or in part."""
        self.check_run(lo, hi)
        return self.tile_of_leaf(lo), self.tile_of_leaf(hi - 1) + 1


def _sections(parts: Sequence[tuple[str, int]]) -> Iterator[Section]:
    start = leaf = tile = 0
    for index, (name, length) in enumerate(parts):
        leaves, tiles = -(-length // SUBTILE), -(-length // TILE)
        yield Section(index, name, start, length, leaf, leaves, tile, tiles)
        start, leaf, tile = start + length, leaf + leaves, tile + tiles


def split_hashes(data: bytes | memoryview) -> list[bytes]:
    """The hashes that `data` is the concatenation of. Raises MalformedError for a rest."""
    if len(data) % HASH_BYTES:
        raise MalformedError(f"{len(data)} bytes are not a number of {HASH_BYTES}-byte hashes")
    whole = bytes(data)
    return [whole[at : at + HASH_BYTES] for at in range(0, len(whole), HASH_BYTES)]


def hash_run(hasher: Hasher, layout: Layout, lo: int, hi: int, data: bytes | memoryview) -> bytes:
    """The hashes, one behind the other, of the leaves [lo, hi), whose bytes are `data`."""
    start, stop = layout.run_span(lo, hi)
    if len(data) != stop - start:
        raise MalformedError(f"{len(data)} bytes for leaves of {stop - start}")
    view = memoryview(data)
    return b"".join([hasher.leaf(view[a - start : b - start]) for a, b in layout.spans(lo, hi)])


def bad_leaves(
    hasher: Hasher, layout: Layout, lo: int, data: bytes | memoryview, leaf_hashes: bytes
) -> list[int]:
    """Which of the leaves from `lo` on, whose bytes are `data`, do not have the given hashes."""
    expected = split_hashes(leaf_hashes)
    found = split_hashes(hash_run(hasher, layout, lo, lo + len(expected), data))
    return [
        lo + i
        for i, hashes in enumerate(zip(found, expected, strict=True))
        if hashes[0] != hashes[1]
    ]


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _section_node(hasher: Hasher, section: Section, tree: bytes) -> bytes:
    return hasher.section(_u64(section.length) + tree)


def section_node(hasher: Hasher, section: Section, leaf_hashes: bytes | memoryview) -> bytes:
    """The node of `section` from the hashes of all its leaves, one behind the other."""
    hashes = split_hashes(leaf_hashes)
    if len(hashes) != section.leaves:
        raise MalformedError(f"{len(hashes)} leaf hashes for a section with {section.leaves}")
    tree = root_of(hasher.node, hashes) if hashes else b""
    return _section_node(hasher, section, tree)


def file_root(hasher: Hasher, size: int, nodes: Sequence[bytes]) -> bytes:
    """The root of a file of `size` bytes from all its section nodes (one or more)."""
    return _file_root(hasher, size, len(nodes), root_of(hasher.node, nodes))


def _file_root(hasher: Hasher, size: int, count: int, tree: bytes) -> bytes:
    return hasher.file(_u64(size) + _u64(count) + tree)


class BlockTree:
    """The prover's side: proofs for runs of a file whose section nodes are known.

    `leaf_hashes(section index)` gives the hashes of that section's leaves; it is asked only for
    the first and the last section of a run, and may raise (a section that is not held).
    """

    def __init__(
        self,
        hasher: Hasher,
        layout: Layout,
        nodes: Sequence[bytes],
        leaf_hashes: Callable[[int], bytes],
    ) -> None:
        if len(nodes) != len(layout.sections):
            raise MalformedError(f"{len(nodes)} nodes for {len(layout.sections)} sections")
        self._hasher = hasher
        self._layout = layout
        self._leaf_hashes = leaf_hashes
        self._sections = Tree(hasher.node, nodes)
        self._last: tuple[int, Tree] | None = None
        self.root = _file_root(hasher, layout.size, len(nodes), self._sections.root)

    def _section_tree(self, index: int) -> Tree:
        """The tree of one section; the last one is kept, since probes and reads come in runs."""
        last = self._last  # read once: provers in other threads may replace it
        if last is not None and last[0] == index:
            return last[1]
        tree = Tree(self._hasher.node, split_hashes(self._leaf_hashes(index)))
        self._last = index, tree
        return tree

    def prove(self, lo: int, hi: int) -> list[bytes]:
        """The proof for the leaves [lo, hi): `run_proof_length(layout, lo, hi)` hashes."""
        covered = self._layout.sections_of_run(lo, hi)
        proof: list[bytes] = []
        for section, a, b in _edges(covered, lo, hi):
            proof += self._section_tree(section.index).prove(a, b)
        return proof + self._sections.prove(covered[0].index, covered[-1].index + 1)


def _edges(covered: Sequence[Section], lo: int, hi: int) -> Iterator[tuple[Section, int, int]]:
    """The first and the last section of a run, and the part [a, b) of their leaves in it."""
    first, last = covered[0], covered[-1]
    for section in (first,) if first is last else (first, last):
        a, b = max(lo, section.first_leaf), min(hi, section.end_leaf)
        if b - a < section.leaves:
            yield section, a - section.first_leaf, b - section.first_leaf


def run_proof_length(layout: Layout, lo: int, hi: int) -> int:
    """Hashes in the proof for the leaves [lo, hi)."""
    covered = layout.sections_of_run(lo, hi)
    inner = sum(proof_length(s.leaves, a, b) for s, a, b in _edges(covered, lo, hi))
    return inner + proof_length(len(layout.sections), covered[0].index, covered[-1].index + 1)


def verify_run(
    hasher: Hasher,
    layout: Layout,
    root: bytes,
    lo: int,
    hi: int,
    *,
    leaf_hashes: bytes | memoryview,
    proof: Sequence[bytes],
) -> None:
    """Raise ProofError unless `leaf_hashes` are those of the leaves [lo, hi) under `root`."""
    covered = layout.sections_of_run(lo, hi)
    hashes = split_hashes(leaf_hashes)
    if len(hashes) != hi - lo:
        raise ProofError(f"{len(hashes)} leaf hashes for {hi - lo} leaves")
    if any(len(value) != HASH_BYTES for value in proof):
        raise ProofError("a proof has values that are not hashes")
    rest = iter(proof)
    nodes: list[bytes] = []
    for section in covered:
        mine = hashes[max(lo, section.first_leaf) - lo : section.end_leaf - lo]
        at = max(lo - section.first_leaf, 0)
        nodes.append(_node_of_run(hasher, section, at, mine, rest))
    first, end, count = covered[0].index, covered[-1].index + 1, len(layout.sections)
    tree = root_of_run(hasher.node, count, (first, end), nodes, rest)
    if next(rest, None) is not None:
        raise ProofError("a proof has hashes left over")
    if _file_root(hasher, layout.size, count, tree) != root:
        raise ProofError(f"leaves [{lo}, {hi}) do not lead to the root")


def _node_of_run(
    hasher: Hasher, section: Section, at: int, hashes: list[bytes], proof: Iterator[bytes]
) -> bytes:
    """The node of a section, from its leaf hashes from `at` on and the next of the proof."""
    if not hashes:
        return _section_node(hasher, section, b"")
    stop = at + len(hashes)
    tree = root_of_run(hasher.node, section.leaves, (at, stop), hashes, proof)
    return _section_node(hasher, section, tree)
