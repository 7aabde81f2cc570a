"""A model's tiles are numbered through its files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.tensors.tensorblock import SUBTILE, TILE, Layout, LeafRangeError
from protocols.tensors.tiles import ModelTiles

_LENGTHS = st.sampled_from([0, 1, SUBTILE, SUBTILE + 1, TILE, TILE + 1, 3 * TILE - 5])
_FILES = st.lists(st.lists(_LENGTHS, min_size=1, max_size=4), min_size=1, max_size=4)


def _layout(lengths: list[int]) -> Layout:
    return Layout("safetensors", sum(lengths), [(str(n), size) for n, size in enumerate(lengths)])


@given(_FILES, st.data())
def test_tiles_and_leaves_answer_each_other(files: list[list[int]], data: st.DataObject) -> None:
    layouts = [_layout(lengths) for lengths in files]
    tiles = ModelTiles(layouts)
    assert tiles.count == sum(layout.tile_count for layout in layouts)
    places = [tiles.leaves(tile) for tile in range(tiles.count)]
    assert places == [
        (file, *layout.leaves_of_tile(tile))
        for file, layout in enumerate(layouts)
        for tile in range(layout.tile_count)
    ]
    for file, layout in enumerate(layouts):
        mine = [tile for tile, place in enumerate(places) if place[0] == file]
        if not layout.leaf_count:
            continue
        lo = data.draw(st.integers(0, layout.leaf_count - 1))
        hi = data.draw(st.integers(lo + 1, layout.leaf_count))
        whole = [tile for tile in mine if lo <= places[tile][1] and places[tile][2] <= hi]
        assert list(range(*tiles.whole_in(file, lo, hi))) == whole
    with pytest.raises(LeafRangeError):
        tiles.leaves(tiles.count)
    with pytest.raises(LeafRangeError):
        tiles.leaves(-1)
