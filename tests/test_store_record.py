"""The record of held leaves: whatever a crash or a bad disk leaves of it, it claims no more."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapsed.store.record import COMPACT_ABOVE, Record, replay
from synapsed.store.runs import Runs

ROOT = b"r" * 32
LEAVES = 1000
_RUNS = st.tuples(st.integers(0, LEAVES - 1), st.integers(1, 50)).map(
    lambda run: (run[0], min(sum(run), LEAVES))
)


def _record(folder: Path) -> Record:
    record = Record(folder / "record", ROOT, folder)
    record.open(LEAVES)
    return record


@given(runs=st.lists(_RUNS, max_size=20), cut=st.integers(0, 400))
def test_a_torn_end_leaves_what_came_before(runs: list[tuple[int, int]], cut: int) -> None:
    data = Record.first_bytes(ROOT, runs)
    found = replay(ROOT, data[: max(0, len(data) - cut)], LEAVES)
    assert found.held == Runs(runs[: found.entries])
    assert found.entries == max(0, len(data) - cut) // 16
    assert not found.doubtful


@given(runs=st.lists(_RUNS, min_size=1, max_size=20), at=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_ends_what_is_believed(
    runs: list[tuple[int, int]], at: int, bit: int
) -> None:
    data = bytearray(Record.first_bytes(ROOT, runs))
    at %= len(data)
    data[at] ^= 1 << bit
    found = replay(ROOT, bytes(data), LEAVES)
    assert found.entries == at // 16
    assert found.held == Runs(runs[: found.entries])
    assert found.doubtful == (found.entries < len(runs) - 1)


@given(st.binary(max_size=400))
def test_garbage_holds_nothing(data: bytes) -> None:
    assert replay(ROOT, data, LEAVES).held == Runs()


def test_another_files_record_means_nothing() -> None:
    data = Record.first_bytes(ROOT, [(0, 5)])
    assert replay(b"s" * 32, data, LEAVES).held.count == 0
    assert replay(ROOT, data, 4).held.count == 0
    assert replay(ROOT, data, 5).held.count == 5


def test_appends_survive_and_follow_a_torn_end(tmp_path: Path) -> None:
    record = _record(tmp_path)
    record.held([(0, 10), (20, 30)])
    record.dropped([(5, 7)])
    with (tmp_path / "record").open("ab") as file:
        file.write(Record.first_bytes(ROOT, [(900, 901)])[:11])
    again = Record(tmp_path / "record", ROOT, tmp_path)
    assert again.open(LEAVES).held == Runs([(0, 5), (7, 10), (20, 30)])
    again.held([(40, 41)])
    assert _held(tmp_path) == Runs([(0, 5), (7, 10), (20, 30), (40, 41)])


def test_half_of_a_failed_append_is_not_left_behind_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = _record(tmp_path)
    record.held([(0, 1)])

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fail)
        with pytest.raises(Exception, match="no room on the disk"):
            record.held([(10, 11), (12, 13), (14, 15)])
    record.held([(2, 3)])
    assert _held(tmp_path) == Runs([(0, 1), (2, 3)])


def test_a_long_record_is_rewritten_on_opening(tmp_path: Path) -> None:
    record = _record(tmp_path)
    for leaf in range(COMPACT_ABOVE + 10):
        record.held([(leaf, leaf + 1)])
    before = (tmp_path / "record").stat().st_size
    assert _held(tmp_path) == Runs([(0, COMPACT_ABOVE + 10)])
    assert (tmp_path / "record").stat().st_size == 16 < before
    record = _record(tmp_path)
    record.held([(500, 501)])
    assert _held(tmp_path) == Runs([(0, COMPACT_ABOVE + 10), (500, 501)])


def _held(folder: Path) -> Runs:
    return Record(folder / "record", ROOT, folder).open(LEAVES).held
