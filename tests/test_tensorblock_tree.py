"""The tree of a TensorBlock: layout, roots, proofs, vectors, and what one flipped byte does."""

import random
from collections.abc import Sequence
from itertools import pairwise
from math import ceil, log2

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MalformedError
from protocols.tensors.hashtree import ProofError, Tree, proof_length, root_of, root_of_run
from protocols.tensors.safetensors_header import (
    MAX_TENSORS,
    make_safetensors_header,
    parse_safetensors_header,
)
from protocols.tensors.tensorblock import (
    LEAVES_OF_TILE,
    MAX_FILE,
    SUBTILE,
    TILE,
    BlockTree,
    FileTooLargeError,
    Layout,
    LeafRangeError,
    UnknownLayoutError,
    bad_leaves,
    file_root,
    hash_run,
    run_proof_length,
    section_node,
    split_hashes,
    verify_run,
)
from synapsed.hashing import HASHER
from tests.steps import at_most

# --- The specification once more, written as docs/tensorblock.md says it, for small inputs


def spec_hash(use: str, data: bytes) -> bytes:
    return blake3(data, derive_key_context=f"synapse tensorblock v1 {use}").digest()


def spec_tree(hashes: Sequence[bytes]) -> bytes:
    """RFC 6962: split at the largest power of two below n."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return spec_hash("node", spec_tree(hashes[:k]) + spec_tree(hashes[k:]))


def spec_root(sections: Sequence[bytes]) -> bytes:
    nodes = []
    for data in sections:
        leaves = [data[at : at + 262144] for at in range(0, len(data), 262144)]
        tree = spec_tree([spec_hash("leaf", leaf) for leaf in leaves]) if leaves else b""
        nodes.append(spec_hash("section", len(data).to_bytes(8, "little") + tree))
    size = sum(map(len, sections))
    prefix = size.to_bytes(8, "little") + len(nodes).to_bytes(8, "little")
    return spec_hash("file", prefix + spec_tree(nodes))


# --- Helpers


class Block:
    """A file's whole tree; its leaf hashes are given, so that big files cost no data."""

    def __init__(self, layout: Layout, hashes: bytes) -> None:
        self.layout = layout
        self.hashes = hashes
        self.nodes = [section_node(HASHER, s, self.of(s.index)) for s in layout.sections]
        self.root = file_root(HASHER, layout.size, self.nodes)
        self.tree = BlockTree(HASHER, layout, self.nodes, self.of)

    @classmethod
    def of_data(cls, layout: Layout, data: bytes) -> "Block":
        return cls(layout, hash_run(HASHER, layout, 0, layout.leaf_count, data))

    @classmethod
    def invented(cls, layout: Layout, rng: random.Random) -> "Block":
        return cls(layout, rng.randbytes(32 * layout.leaf_count))

    def of(self, section: int) -> bytes:
        s = self.layout.sections[section]
        return self.run(s.first_leaf, s.end_leaf)

    def run(self, lo: int, hi: int) -> bytes:
        return self.hashes[32 * lo : 32 * hi]

    def verify(self, lo: int, hi: int, hashes: bytes, proof: Sequence[bytes]) -> None:
        verify_run(HASHER, self.layout, self.root, lo, hi, leaf_hashes=hashes, proof=proof)


def layout_of(lengths: Sequence[int]) -> Layout:
    parts = [(str(index), length) for index, length in enumerate(lengths)]
    return Layout("safetensors", sum(lengths), parts)


def flipped(value: bytes, bit: int) -> bytes:
    at = bit // 8 % len(value)
    return value[:at] + bytes((value[at] ^ 1 << bit % 8,)) + value[at + 1 :]


LENGTHS = st.lists(
    st.one_of(
        st.sampled_from([0, 1, SUBTILE - 1, SUBTILE, SUBTILE + 1, TILE - 1, TILE, TILE + 1]),
        st.integers(0, 40 * SUBTILE),
    ),
    min_size=1,
    max_size=12,
).filter(any)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Block, int, int]:
    """A file of some sections, and a run of its leaves."""
    layout = layout_of(draw(LENGTHS))
    lo = draw(st.integers(0, layout.leaf_count - 1))
    hi = draw(st.integers(lo + 1, layout.leaf_count))
    return Block.invented(layout, random.Random(draw(st.integers(0, 2**32)))), lo, hi


# --- Layout


@given(LENGTHS)
def test_leaves_and_tiles_split_the_file_and_join_to_it(lengths: list[int]) -> None:
    layout = layout_of(lengths)
    at, leaf, tile = 0, 0, 0
    for index, length in enumerate(lengths):
        section = layout.sections[index]
        assert (section.start, section.length) == (at, length)
        assert (section.first_leaf, section.first_tile) == (leaf, tile)
        end = at + length
        while at < end:
            lo = leaf
            for _ in range(LEAVES_OF_TILE):
                if at == end:
                    break
                stop = min(at + SUBTILE, end)
                assert layout.leaf_span(leaf) == (at, stop)
                assert layout.leaf_at(at) == layout.leaf_at(stop - 1) == leaf
                assert layout.section_of_leaf(leaf) is section
                assert layout.tile_of_leaf(leaf) == tile
                at, leaf = stop, leaf + 1
            assert layout.leaves_of_tile(tile) == (lo, leaf)
            tile += 1
    assert (layout.size, layout.leaf_count, layout.tile_count) == (at, leaf, tile)
    assert list(layout.spans(0, leaf)) == [layout.leaf_span(i) for i in range(leaf)]


@given(runs())
def test_a_run_of_leaves_is_one_range_of_bytes(case: tuple[Block, int, int]) -> None:
    block, lo, hi = case
    layout = block.layout
    start, stop = layout.run_span(lo, hi)
    spans = list(layout.spans(lo, hi))
    assert (spans[0][0], spans[-1][1]) == (start, stop)
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert (layout.leaf_at(start), layout.leaf_at(stop - 1) + 1) == (lo, hi)
    first, end = layout.tiles_of_leaves(lo, hi)
    assert layout.leaves_of_tile(first)[0] <= lo < layout.leaves_of_tile(first)[1]
    assert layout.leaves_of_tile(end - 1)[0] < hi <= layout.leaves_of_tile(end - 1)[1]


def test_what_the_file_lacks_is_refused() -> None:
    layout = layout_of([5, 0, TILE + 1, 0])
    assert (layout.leaf_count, layout.tile_count) == (18, 3)
    for lo, hi in ((-1, 1), (0, 0), (3, 2), (0, 19), (18, 19)):
        for refuse in (layout.run_span, layout.check_run, layout.sections_of_run):
            with pytest.raises(LeafRangeError):
                refuse(lo, hi)
    for leaf in (-1, 18):
        with pytest.raises(LeafRangeError):
            layout.leaf_span(leaf)
    for tile in (-1, 3):
        with pytest.raises(LeafRangeError):
            layout.leaves_of_tile(tile)
    for offset in (-1, layout.size):
        with pytest.raises(LeafRangeError):
            layout.leaf_at(offset)
    with pytest.raises(KeyError):
        layout.section("none")
    with pytest.raises(FileTooLargeError):
        Layout.flat(MAX_FILE + 1)
    for kind in ("", "flat ", "eeb", "tile_stream", "x" * 1000):
        with pytest.raises(UnknownLayoutError):
            Layout.of_kind(kind, 10, bytes(10))


def test_layout_of_a_safetensors_file() -> None:
    header = make_safetensors_header([("b", "F32", [SUBTILE]), ("e", "U8", [0]), ("a", "U8", [3])])
    size = len(header) + 4 * SUBTILE + 3
    layout = Layout.of_kind("safetensors", size, header)
    assert [s.name for s in layout.sections] == ["__metadata__", "b", "e", "a"]
    assert [s.leaves for s in layout.sections] == [1, 4, 0, 1]
    assert layout.run_span(0, 1) == (0, len(header))
    assert layout.section("a").start == size - 3
    flat = Layout.of_kind("flat", size, header)
    assert (len(flat.sections), flat.leaf_count) == (1, 5)
    assert Layout.flat(0).leaf_count == 0


def test_as_many_tensors_as_there_may_be_cost_so_many_steps_each() -> None:
    header = make_safetensors_header(
        (f"model.layers.{i // 256}.experts.{i % 256}.weight", "U8", [7]) for i in range(MAX_TENSORS)
    )
    size = len(header) + 7 * MAX_TENSORS
    # 24 for each here: to parse it, lay it out and look for a seventh of the leaves.
    with at_most(lines=100 * MAX_TENSORS):
        layout = Layout.of_safetensors(parse_safetensors_header(header, size), size)
        for leaf in range(0, layout.leaf_count, 7):
            start, _ = layout.leaf_span(leaf)
            assert layout.leaf_at(start) == leaf


# --- The tree


@given(st.integers(1, 300), st.data())
def test_any_run_of_a_tree_leads_to_its_root(count: int, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, count - 1))
    hi = data.draw(st.integers(lo + 1, count))
    hashes = [bytes((i % 256, i // 256)) * 16 for i in range(count)]
    tree = Tree(HASHER.node, hashes)
    proof = tree.prove(lo, hi)
    assert tree.root == root_of(HASHER.node, hashes) == spec_tree(hashes)
    assert len(proof) == proof_length(count, lo, hi) <= 2 * ceil(log2(count))
    assert root_of_run(HASHER.node, count, (lo, hi), hashes[lo:hi], iter(proof)) == tree.root
    if proof:
        with pytest.raises(ProofError):
            root_of_run(HASHER.node, count, (lo, hi), hashes[lo:hi], iter(proof[:-1]))


def test_a_tile_is_a_subtree() -> None:
    """So a tile's value is an inner node, and tiles prove what their leaves prove."""
    hashes = [bytes((i,)) * 32 for i in range(3 * LEAVES_OF_TILE + 5)]
    starts = range(0, len(hashes), LEAVES_OF_TILE)
    tiles = [root_of(HASHER.node, hashes[at : at + LEAVES_OF_TILE]) for at in starts]
    assert root_of(HASHER.node, tiles) == root_of(HASHER.node, hashes)


@given(runs())
def test_any_run_verifies_with_a_short_proof(case: tuple[Block, int, int]) -> None:
    block, lo, hi = case
    proof = block.tree.prove(lo, hi)
    assert block.tree.root == block.root
    assert len(proof) == run_proof_length(block.layout, lo, hi)
    leaves = max(s.leaves for s in block.layout.sections)
    sections = len(block.layout.sections)
    assert len(proof) <= 2 * ceil(log2(leaves)) + 2 * ceil(log2(sections))
    block.verify(lo, hi, block.run(lo, hi), proof)


def test_the_proof_of_a_leaf_of_the_largest_file_is_short() -> None:
    layout = Layout.flat(MAX_FILE)
    assert layout.leaf_count == 1 << 24
    assert run_proof_length(layout, 12_345_678, 12_345_679) == 24
    assert max(run_proof_length(layout, lo, lo + 16) for lo in range(0, 1 << 24, 65_521)) <= 40


@given(runs(), st.integers(0, 2**16), st.sampled_from(["leaves", "proof", "root", "order"]))
def test_any_flipped_bit_is_refused(case: tuple[Block, int, int], bit: int, where: str) -> None:
    block, lo, hi = case
    hashes, proof, root = block.run(lo, hi), block.tree.prove(lo, hi), block.root
    if where == "leaves":
        hashes = flipped(hashes, bit)
    elif where == "proof" and proof:
        proof[bit % len(proof)] = flipped(proof[bit % len(proof)], bit)
    elif where == "order" and len(set(proof)) > 1:
        proof.reverse()
        if proof == block.tree.prove(lo, hi):
            return
    else:
        root = flipped(root, bit)
    with pytest.raises(ProofError):
        verify_run(HASHER, block.layout, root, lo, hi, leaf_hashes=hashes, proof=proof)


@given(runs(), st.integers(0, 2**16))
def test_a_proof_has_one_length_and_one_place(case: tuple[Block, int, int], at: int) -> None:
    block, lo, hi = case
    hashes, proof = block.run(lo, hi), block.tree.prove(lo, hi)
    bad_proofs = [[*proof, bytes(32)], [bytes(32), *proof], [*proof, b""]]
    if proof:
        bad_proofs += [proof[:-1], proof[1:], [*proof[:-1], proof[-1][:-1]]]
    for bad in bad_proofs:
        with pytest.raises(ProofError):
            block.verify(lo, hi, hashes, bad)
    for bad_hashes in (hashes[:-32], hashes + bytes(32)):
        with pytest.raises(ProofError):
            block.verify(lo, hi, bad_hashes, proof)
    with pytest.raises(MalformedError):
        block.verify(lo, hi, hashes[:-1], proof)
    shift = at % block.layout.leaf_count
    other_lo, other_hi = shift, shift + hi - lo
    if other_lo != lo and other_hi <= block.layout.leaf_count:
        with pytest.raises(ProofError):
            block.verify(other_lo, other_hi, hashes, proof)


def test_another_layout_does_not_verify() -> None:
    """A root holds lengths and number of sections: another cut of the same bytes is refused."""
    rng = random.Random(7)
    block = Block.invented(layout_of([10, SUBTILE, SUBTILE]), rng)
    hashes, proof = block.run(0, 3), block.tree.prove(0, 3)
    for lengths in (
        [10, SUBTILE - 1, SUBTILE + 1],
        [11, SUBTILE, SUBTILE],
        [10, SUBTILE, SUBTILE, 0],
    ):
        other = layout_of(lengths)
        with pytest.raises(ProofError):
            verify_run(HASHER, other, block.root, 0, 3, leaf_hashes=hashes, proof=proof)


def test_the_kinds_of_hash_never_meet() -> None:
    data = bytes(64)
    values = {
        HASHER.leaf(data),
        HASHER.node(data[:32], data[32:]),
        HASHER.section(data),
        HASHER.file(data),
        blake3(data).digest(),
    }
    assert len(values) == 5
    assert HASHER.leaf(memoryview(data)) == HASHER.leaf(data)


# --- The data


def sample_file() -> tuple[Layout, bytes]:
    """Two tiles and a bit, in four tensors, one of them empty."""
    tensors = [
        ("a", "U8", [100]),
        ("b", "F32", [TILE // 4 + 70_000]),
        ("c", "I8", [0]),
        ("d", "U8", [SUBTILE]),
    ]
    header = make_safetensors_header(tensors, {"format": "pt"}, align=8)
    layout = Layout.of_safetensors(
        parse_safetensors_header(header, size := len(header) + 100 + TILE + 280_000 + SUBTILE), size
    )
    return layout, header + random.Random(1).randbytes(size - len(header))


def test_the_root_is_the_specification_s() -> None:
    layout, data = sample_file()
    sections = [data[s.start : s.start + s.length] for s in layout.sections]
    assert Block.of_data(layout, data).root == spec_root(sections)
    flat = Layout.flat(len(data))
    assert Block.of_data(flat, data).root == spec_root([data])
    empty = Layout.flat(0)
    node = section_node(HASHER, empty.sections[0], b"")
    assert file_root(HASHER, 0, [node]) == spec_root([b""])


def test_one_flipped_byte_refuses_one_leaf_and_one_tile() -> None:
    layout, data = sample_file()
    block = Block.of_data(layout, data)
    rng = random.Random(2)
    offsets = {0, layout.size - 1, *(rng.randrange(layout.size) for _ in range(40))}
    for section in layout.sections:
        offsets |= {section.start, section.start + max(section.length - 1, 0)}
    for offset in offsets:
        wrong = bytearray(data)
        wrong[offset] ^= 1 << rng.randrange(8)
        bad = bad_leaves(HASHER, layout, 0, bytes(wrong), block.hashes)
        assert bad == [layout.leaf_at(offset)]
        assert not bad_leaves(HASHER, layout, 0, data, block.hashes)
        refused = []
        for tile in range(layout.tile_count):
            lo, hi = layout.leaves_of_tile(tile)
            start, stop = layout.run_span(lo, hi)
            hashes = hash_run(HASHER, layout, lo, hi, memoryview(wrong)[start:stop])
            try:
                block.verify(lo, hi, hashes, block.tree.prove(lo, hi))
            except ProofError:
                refused.append(tile)
        assert refused == [layout.tile_of_leaf(bad[0])]


def test_wrong_amounts_are_our_callers_mistake() -> None:
    layout, data = sample_file()
    block = Block.of_data(layout, data)
    start, stop = layout.run_span(2, 4)
    with pytest.raises(MalformedError):
        hash_run(HASHER, layout, 2, 4, data[start : stop - 1])
    with pytest.raises(MalformedError):
        section_node(HASHER, layout.sections[2], block.of(2)[:-32])
    with pytest.raises(MalformedError):
        BlockTree(HASHER, layout, block.nodes[:-1], block.of)
    with pytest.raises(MalformedError):
        split_hashes(bytes(33))


def test_only_the_edges_of_a_run_are_asked_for() -> None:
    """A holder that lacks a section's leaf hashes can still prove runs that cover it wholly."""
    rng = random.Random(3)
    block = Block.invented(layout_of([3 * SUBTILE] * 5), rng)
    asked: list[int] = []

    def some(section: int) -> bytes:
        asked.append(section)
        return block.of(section)

    tree = BlockTree(HASHER, block.layout, block.nodes, some)
    block.verify(1, 14, block.run(1, 14), tree.prove(1, 14))
    assert asked == [0, 4]
    asked.clear()
    block.verify(3, 12, block.run(3, 12), tree.prove(3, 12))
    assert asked == []
