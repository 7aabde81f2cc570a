"""Files: safetensors mapped as torch tensors, and whole writes.

A mapping is read-only and its pages are the page cache's. torch has no read-only tensors, so what
wrote to one would end the process: nothing here does, and no file could be damaged by it.
"""

import ctypes
import hashlib
import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from protocols.tensors.safetensors_header import (
    HeaderError,
    SafetensorsHeader,
    TensorInfo,
    header_length,
    parse_safetensors_header,
)
from synapsed.compute import wire
from synapsed.compute.errors import BadModelError, DiskError

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""What weights may be made of here."""
SAFETENSORS = ".safetensors"


class Mapped:
    """A safetensors file whose tensors are views of one mapping. It goes with the last of them."""

    def __init__(self, path: str) -> None:
        """Raises DiskError, BadModelError. Only the header is read."""
        self.path = path
        try:
            with open(path, "rb", buffering=0) as file:
                self.size = file.seek(0, os.SEEK_END)
                prefix = os.pread(file.fileno(), 1 << 16, 0)
                wanted = header_length(prefix, self.size)
                if len(prefix) < wanted:
                    prefix = os.pread(file.fileno(), wanted, 0)
                self.header: SafetensorsHeader = parse_safetensors_header(prefix, self.size)
                self._window = _window(mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ))
        except HeaderError as error:
            raise BadModelError(f"{path}: {error.message}", remedy=error.remedy) from None
        except (OSError, ValueError) as error:
            raise disk_error(path, error) from error

    def tensor(self, info: TensorInfo) -> tuple[Tensor, bool]:
        """One of its tensors, and whether it had to be copied because it is not aligned."""
        dtype = DTYPES.get(info.dtype)
        if dtype is None:
            raise BadModelError(
                f"{self.path}: {info.name[:80]!r} is {info.dtype}; weights are F32, BF16 or F16"
            )
        count = (info.stop - info.start) // dtype.itemsize
        if count == 0:
            return torch.empty(info.shape, dtype=dtype), False
        if info.start % dtype.itemsize:
            data = bytearray(memoryview(self._window)[info.start : info.stop])
            return torch.frombuffer(data, dtype=dtype).view(info.shape), True
        flat = torch.frombuffer(self._window, dtype=dtype, count=count, offset=info.start)
        return flat.view(info.shape), False

    def read_only_what_is_asked_for(self) -> None:
        """No guessing of what is read next: the kernel's read-ahead, of 128 KiB to some MiB around
        each page that is touched, would bring an expert's neighbours in."""
        self._window.file.madvise(mmap.MADV_RANDOM)

    def will_need(self, value: Tensor) -> bool:
        """Start to read a tensor's bytes, in one go; False if it is not of this file."""
        start = value.data_ptr() - ctypes.addressof(self._window)
        if not 0 <= start < self.size:
            return False
        before = start % mmap.PAGESIZE
        self._window.file.madvise(mmap.MADV_WILLNEED, start - before, value.nbytes + before)
        return True


class ModelFiles:
    """A model's files, by their numbers in the manifest."""

    def __init__(self, files: Sequence[wire.ModelFile]) -> None:
        self._files = files
        self.safetensors: dict[int, Mapped] = {
            number: Mapped(file.path)
            for number, file in enumerate(files)
            if file.name.endswith(SAFETENSORS)
        }
        if not self.safetensors:
            raise BadModelError("a model without a safetensors file")

    def read(self, name: str, most: int) -> bytes | None:
        """A small file; None where there is none."""
        for file in self._files:
            if file.name == name:
                return read(file.path, most)
        return None

    def path_of(self, name: str) -> str | None:
        """Where a file lies; None where there is none."""
        return next((file.path for file in self._files if file.name == name), None)

    def will_need(self, values: Iterable[Tensor]) -> None:
        """Start to read tensors' bytes, those that are not in memory."""
        for value in values:
            any(mapped.will_need(value) for mapped in self.safetensors.values())

    def headers(self) -> list[tuple[int, SafetensorsHeader]]:
        """For partition.groups_of."""
        return [(number, mapped.header) for number, mapped in self.safetensors.items()]


def _window(mapping: mmap.mmap) -> Any:
    """A buffer over a mapping that torch takes without a warning; it keeps the mapping alive."""
    view = numpy.frombuffer(mapping, dtype=numpy.uint8)
    window: Any = (ctypes.c_char * len(mapping)).from_address(view.ctypes.data)
    window.file, window.view = mapping, view
    return window


def disk_error(path: str, error: Exception) -> DiskError:
    """`error`, said of `path`."""
    why = error.strerror if isinstance(error, OSError) else str(error)
    return DiskError(f"{path}: {why}", remedy="`synapsectl doctor` looks at the disk")


def read(path: str, most: int) -> bytes:
    """A file of at most so many bytes. Raises DiskError."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > most:
                raise DiskError(f"{path} has more than {most} bytes")
            return file.read()
    except OSError as error:
        raise disk_error(path, error) from error


def read_own(path: str, most: int) -> bytearray:
    """The same as memory of ours, which may be written to. Raises DiskError."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise DiskError(f"{path} has more than {most} bytes")
            own = bytearray(size)
            at = 0
            while at < size and (got := file.readinto(memoryview(own)[at:])):
                at += got
            return own if at == size else own[:at]
    except OSError as error:
        raise disk_error(path, error) from error


def write_blob(folder: str, parts: Sequence[bytes | memoryview]) -> wire.Blob:
    """A file named by the sha256 of its bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    path = str(Path(folder) / digest.hexdigest())
    write_whole(path, parts)
    return wire.Blob(path, digest.digest(), sum(len(part) for part in parts))


def write_whole(path: str, parts: Sequence[bytes | memoryview], *, sync: bool = False) -> None:
    """A file that is there or not at all; with `sync` (12 to 110 ms here) even where the power is
    lost. Raises DiskError."""
    passing = f"{path}.{os.getpid()}.part"
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(passing, "wb", buffering=0) as file:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[file.write(rest) :]
            if sync:
                os.fsync(file.fileno())
        os.replace(passing, path)
    except OSError as error:
        Path(passing).unlink(missing_ok=True)
        raise disk_error(path, error) from error
