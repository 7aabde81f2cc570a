"""Held files: only what verifies is kept, and what is on record is durable."""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import MalformedError, MismatchError, NotHeldError
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.safetensors_header import HeaderError
from protocols.tensors.tensorblock import SUBTILE, BlockTree, verify_run
from synapsed.hashing import HASHER
from synapsed.store import HashesUnknownError, HeldFile, LeafMismatchError, Runs, Store
from tests.store_kit import QUOTA, Events, Made, check_store, made, made_flat, reopened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store", QUOTA)
    yield store
    store.close()


@pytest.fixture
def file(tmp_path: Path) -> Made:
    return made(tmp_path)


def test_a_new_file_has_its_header_and_no_more(store: Store, file: Made) -> None:
    held = file.begin(store)
    assert held.have == Runs([(0, 1)])
    assert bytes(held.read(0, 1)) == file.shape.header
    assert held.missing() == [(1, file.leaves)]
    assert not held.complete
    with pytest.raises(NotHeldError, match=r"\[0, 2\)"):
        held.read(0, 2)
    assert store.file(file.ref.root) is held
    assert store.create(file.ref, file.shape.header, file.shape.nodes) is held


@settings(max_examples=20)  # each writes 6 MB and syncs it many times
@given(data=st.data())
def test_any_order_of_writes_gives_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("order")
    file = made(folder)
    store = Store.open(folder / "store", QUOTA)
    held = file.begin(store)
    cuts = sorted(data.draw(st.sets(st.integers(1, file.leaves - 1))))
    runs = list(zip([0, *cuts], [*cuts, file.leaves], strict=True))
    for lo, hi in data.draw(st.permutations(runs)):
        held.write(lo, file.bytes_of(lo, hi))
        if data.draw(st.booleans()):
            held.commit()
    held.commit()
    assert held.complete
    assert bytes(held.read(0, file.leaves)) == file.data
    store = reopened(store)
    assert bytes(store.file(file.ref.root).read(0, file.leaves)) == file.data
    check_store(store)
    store.close()


def test_a_flipped_byte_refuses_its_sub_tile_only(store: Store, file: Made) -> None:
    held = file.begin(store)
    lo, hi = 6, 20
    wrong = bytearray(file.bytes_of(lo, hi))
    wrong[5 * SUBTILE + 17] ^= 1
    with pytest.raises(LeafMismatchError) as caught:
        held.write(lo, wrong)
    assert caught.value.leaves == (11,)
    assert held.missing(lo, hi) == [(11, 12)]
    held.write(11, file.bytes_of(11, 12))
    assert bytes(held.read(lo, hi)) == file.bytes_of(lo, hi)


def test_only_whole_sub_tiles_are_taken(store: Store, file: Made) -> None:
    held = file.begin(store)
    for wrong in (b"", file.bytes_of(6, 7)[:-1], file.bytes_of(6, 7) + b"x"):
        with pytest.raises(MalformedError):
            held.write(6, wrong)
    with pytest.raises(MalformedError):
        held.write(file.leaves, b"x")
    with pytest.raises(MalformedError):
        held.write(file.leaves - 1, file.data)
    assert held.have == Runs([(0, 1)])


def test_nothing_is_written_before_its_leaf_hash_is_known(store: Store, file: Made) -> None:
    held = store.create(file.ref, file.shape.header, file.shape.nodes)
    assert held.knows(0)
    assert not held.knows(1)
    with pytest.raises(HashesUnknownError):
        held.write(1, file.bytes_of(1, 2))
    section = held.layout.sections[1]
    hashes = file.hashes[section.first_leaf * HASH_BYTES : section.end_leaf * HASH_BYTES]
    with pytest.raises(MismatchError):
        held.put_leaf_hashes(1, hashes[:-1] + bytes([hashes[-1] ^ 1]))
    with pytest.raises(MismatchError):
        held.put_leaf_hashes(1, hashes[:-HASH_BYTES])
    held.put_leaf_hashes(1, hashes)
    assert held.write(1, file.bytes_of(1, 2)) == 1
    assert held.write(1, file.bytes_of(1, 2)) == 0


def test_a_lying_description_is_refused(store: Store, file: Made, tmp_path: Path) -> None:
    nodes = file.shape.nodes
    with pytest.raises(MismatchError):
        store.create(file.ref, file.shape.header, [*nodes[:-1], nodes[0]])
    with pytest.raises(MalformedError):
        store.create(file.ref, file.shape.header, nodes[:-1])
    with pytest.raises(HeaderError):
        store.create(file.ref, file.shape.header[:20], nodes)
    other = made(tmp_path, {"x": 600 << 10, "y": 300, "other": 0, "c": 256 << 10, "d": 5 << 20})
    assert len(other.shape.header) == len(file.shape.header)
    with pytest.raises(MismatchError, match="header"):
        store.create(file.ref, other.shape.header, nodes)
    assert store.files() == []
    assert store.quota.used == 0


def test_proofs_are_right_whoever_else_asks_for_some_in_between(store: Store, file: Made) -> None:
    """The tree of the last section asked about is kept, and threads ask about different ones:
    here another one asks before each line of what finds that tree."""
    held = file.begin(store)
    expected = held.prove(2, 3)
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        nonlocal lines
        if frame.f_code is not BlockTree._section_tree.__code__:
            return None
        if event == "line":
            lines += 1
            sys.settrace(None)
            held.prove(10, 11)
            sys.settrace(trace)
        return trace

    sys.settrace(trace)
    try:
        found = held.prove(2, 3)
    finally:
        sys.settrace(None)
    assert lines > 2
    assert found == expected


def test_a_manifest_that_lies_about_a_file_does_not_have_it(store: Store, file: Made) -> None:
    """Its size or its layout: both change how tiles are numbered, for whoever believes it."""
    held = file.begin(store)
    assert store.file_of(file.ref) is held
    replace = msgspec.structs.replace
    assert store.file_of(replace(file.ref, size=file.ref.size + 1)) is None
    assert store.file_of(replace(file.ref, layout="flat")) is None
    with pytest.raises(MismatchError, match="another size or layout"):
        store.create(replace(file.ref, layout="flat"), None, file.shape.nodes)


def test_a_file_of_one_section_is_the_same_in_either_layout(store: Store, tmp_path: Path) -> None:
    file = made(tmp_path, {})
    held = file.begin(store)
    assert len(held.layout.sections) == 1
    assert store.file_of(msgspec.structs.replace(file.ref, layout="flat")) is held


def test_what_was_written_and_not_committed_is_not_on_record(store: Store, file: Made) -> None:
    held = file.begin(store)
    file.feed(held, 1, 6)
    held.write(6, file.bytes_of(6, 8))
    assert bytes(held.read(6, 8)) == file.bytes_of(6, 8)
    assert _on_record(held) == Runs([(0, 6)])
    held.commit()
    assert _on_record(held) == Runs([(0, 8)])


def _on_record(held: HeldFile) -> Runs:
    from synapsed.store.record import replay

    data = (held.path.parent / "record").read_bytes()
    return replay(held.root, data, held.layout.leaf_count).held


def test_dropping_gives_the_space_back(store: Store, file: Made) -> None:
    held = file.begin(store)
    file.feed(held)
    used, blocks = store.quota.used, held.path.stat().st_blocks
    assert held.drop(6, 20) == 14
    assert held.drop(6, 20) == 0
    assert store.quota.used == used - 14 * SUBTILE
    assert held.path.stat().st_blocks <= blocks - 13 * SUBTILE // 512
    with pytest.raises(NotHeldError):
        held.read(10, 11)
    assert bytes(held.read(0, 6)) == file.bytes_of(0, 6)
    assert _on_record(held) == Runs([(0, 6), (20, 26)])
    file.feed(held, 6, 20)
    assert bytes(held.read(0, file.leaves)) == file.data


def test_proofs_from_the_store_verify(store: Store, file: Made) -> None:
    held = file.begin(store)
    for lo, hi in ((0, 1), (3, 5), (5, 26), (0, 26)):
        verify_run(
            HASHER,
            held.layout,
            held.root,
            lo,
            hi,
            leaf_hashes=held.leaf_hashes(lo, hi),
            proof=held.prove(lo, hi),
        )


def test_threads_may_bring_the_same_leaves(store: Store, file: Made) -> None:
    held = file.begin(store)

    def bring(seed: int) -> None:
        leaves = list(range(file.leaves))
        random.Random(seed).shuffle(leaves)
        for leaf in leaves:
            held.write(leaf, file.bytes_of(leaf, leaf + 1))
            if leaf % 5 == 0:
                held.commit()

    threads = [threading.Thread(target=bring, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held.commit()
    assert _on_record(held) == Runs([(0, file.leaves)])
    check_store(store)


def test_writers_and_a_dropper_never_hold_what_is_not_there(store: Store, file: Made) -> None:
    held = file.begin(store)
    stop = threading.Event()

    def write(seed: int) -> None:
        draw = random.Random(seed)
        while not stop.is_set():
            lo = draw.randrange(1, file.leaves)
            hi = draw.randrange(lo, file.leaves) + 1
            held.write(lo, file.bytes_of(lo, hi))

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for writer in writers:
        writer.start()
    draw = random.Random(9)
    dropped = 0
    while dropped < 500:
        lo = draw.randrange(1, file.leaves)
        dropped += held.drop(lo, draw.randrange(lo, file.leaves) + 1)
        if draw.random() < 0.2:
            held.commit()
    stop.set()
    for writer in writers:
        writer.join()
    check_store(store)


@pytest.mark.parametrize("size", [0, 1, 1000, SUBTILE, SUBTILE + 1, 40 * SUBTILE])
def test_flat_files_of_any_size(store: Store, tmp_path: Path, size: int) -> None:
    file = made_flat(tmp_path, size)
    held = file.begin(store)
    assert held.complete == (size == 0)
    file.feed(held)
    assert held.complete
    assert held.header == b""
    again = reopened(store)
    held = again.file(file.ref.root)
    assert held.complete
    assert b"".join(held.read(leaf, leaf + 1) for leaf in range(file.leaves)) == file.data
    check_store(again)
    again.close()


def test_what_is_held_in_part_is_held_in_part_after_a_restart(tmp_path: Path, file: Made) -> None:
    events = Events()
    store = Store.open(tmp_path / "s", QUOTA, on_event=events)
    held = file.begin(store)
    file.feed(held, 3, 9)
    store = reopened(store, events)
    held = store.file(file.ref.root)
    assert held.have == Runs([(0, 1), (3, 9)])
    assert all(held.knows(section.index) for section in held.layout.sections)
    file.feed(held)
    assert bytes(held.read(0, file.leaves)) == file.data
    assert events == []
    store.close()


def test_a_removed_file_is_gone(store: Store, file: Made) -> None:
    held = file.begin(store)
    file.feed(held)
    assert store.remove_file(held.root) > len(file.data)
    assert store.file(held.root) is None
    assert store.quota.used == 0
    assert not held.path.exists()
    with pytest.raises(NotHeldError):
        held.read(1, 2)
    assert store.remove_file(held.root) == 0
