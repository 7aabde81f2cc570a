"""Chunks cut files alike for everybody, and masks say which of their leaves are in a set."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.tensors.chunks import (
    LARGE_FILE,
    LARGE_LEAVES,
    SMALL_CHUNK_LEAVES,
    ChunkMap,
    Spans,
    cut,
)
from protocols.tensors.tensorblock import SUBTILE, TILE, Layout

SIZES = st.lists(
    st.one_of(st.integers(0, 3000), st.integers(0, 3 * SUBTILE), st.integers(0, 3 * TILE + 5)),
    min_size=1,
    max_size=60,
)


def layout_of(sizes: list[int]) -> Layout:
    return Layout("safetensors", sum(sizes), [(str(i), size) for i, size in enumerate(sizes)])


@given(SIZES)
def test_chunks_are_the_leaves_in_order_and_no_larger_than_a_mebibyte(sizes: list[int]) -> None:
    layout = layout_of(sizes)
    chunks = list(cut(0, layout))
    assert [leaf for chunk in chunks for leaf in range(chunk.lo, chunk.hi)] == list(
        range(layout.leaf_count)
    )
    for chunk in chunks:
        start, stop = layout.run_span(chunk.lo, chunk.hi)
        assert chunk.size == stop - start <= 4 * SUBTILE
        assert chunk.hi - chunk.lo <= SMALL_CHUNK_LEAVES


def test_small_tensors_share_chunks() -> None:
    layout = layout_of([1000] * 640)
    assert len(list(cut(0, layout))) == 10


def test_large_files_have_larger_chunks() -> None:
    layout = Layout.flat(LARGE_FILE)
    assert len(list(cut(0, layout))) == LARGE_FILE // SUBTILE // LARGE_LEAVES


@given(SIZES, SIZES, st.data())
def test_a_leaf_is_in_the_chunk_that_the_map_names(
    first: list[int], second: list[int], data: st.DataObject
) -> None:
    layouts = [layout_of(first), layout_of(second)]
    chunks = ChunkMap(layouts)
    file = data.draw(st.integers(0, 1))
    count = layouts[file].leaf_count
    if not count:
        return
    lo = data.draw(st.integers(0, count - 1))
    hi = data.draw(st.integers(lo + 1, count))
    for leaf in (lo, hi - 1):
        chunk = chunks.chunks[chunks.of_leaf(file, leaf)]
        assert chunk.file == file
        assert chunk.lo <= leaf < chunk.hi
    for number, chunk in enumerate(chunks.chunks):
        mine = chunk.file == file
        assert (number in chunks.whole(file, lo, hi)) == (
            mine and lo <= chunk.lo and chunk.hi <= hi
        )
        assert (number in chunks.of_run(file, lo, hi)) == (mine and lo < chunk.hi and chunk.lo < hi)


@given(st.sets(st.integers(0, 500)), st.integers(0, 500), st.integers(0, 500))
def test_spans_agree_with_the_set_they_are(leaves: set[int], lo: int, hi: int) -> None:
    runs: list[tuple[int, int]] = []
    for leaf in sorted(leaves):
        if runs and runs[-1][1] == leaf:
            runs[-1] = runs[-1][0], leaf + 1
        else:
            runs.append((leaf, leaf + 1))
    spans = Spans(runs)
    for chunk in cut(0, Layout.flat(501 * SUBTILE)):
        mask = spans.mask(chunk)
        assert {chunk.lo + bit for bit in range(64) if mask >> bit & 1} == {
            leaf for leaf in leaves if chunk.lo <= leaf < chunk.hi
        }
    if lo < hi:
        assert spans.covers(lo, hi) == leaves.issuperset(range(lo, hi))
