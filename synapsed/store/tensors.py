"""The tensors of a held safetensors file, as views of one mapping.

Nothing is copied: a view's pages are read when they are touched and belong to the page cache,
so resident memory grows with what is used, once for all processes that map the file.
Unverified: whoever opens a file has verified it, or maps what the store says it holds.
"""

import io
import mmap
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from protocols.errors import NotHeldError
from protocols.tensors.safetensors_header import (
    HeaderError,
    HeaderTruncatedError,
    SafetensorsHeader,
    TensorInfo,
    header_length,
    parse_safetensors_header,
)

if TYPE_CHECKING:
    import numpy
    import numpy.typing

# What numpy has no type for comes as raw bits of the same width, and packed types as bytes.
_NUMPY_TYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "F8_E5M2": "u1",
    "F8_E4M3": "u1",
    "F8_E8M0": "u1",
    "F8_E4M3FNUZ": "u1",
    "F8_E5M2FNUZ": "u1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "BF16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "C64": "<c8",
    "F64": "<f8",
    "I64": "<i8",
    "U64": "<u8",
}


FIRST_READ = 16 << 10
"""Bytes read on opening: most headers whole, faster than one page fault of a mapping."""


class MappedTensors:
    """An open safetensors file, mapped when its first tensor is asked for.

    Close it, or use it in a `with`. Views and arrays may outlive it: the mapping goes with the
    last of them.
    """

    def __init__(self, file: io.FileIO, size: int, header: SafetensorsHeader) -> None:
        self.header = header
        self._file = file
        self._size = size

    @cached_property
    def _by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.header.tensors}

    @cached_property
    def _mapping(self) -> memoryview:
        try:
            mapping = mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise HeaderTruncatedError(
                f"the file was cut off since it was opened: {error}"
            ) from error
        return memoryview(mapping)

    def names(self) -> list[str]:
        """The tensors' names, in the order of their bytes."""
        return [tensor.name for tensor in self.header.tensors]

    def info(self, name: str) -> TensorInfo:
        """Type, shape and place of a tensor. Raises NotHeldError if the file has none so named."""
        try:
            return self._by_name[name]
        except KeyError:
            raise NotHeldError(f"the file has no tensor {name[:80]!r}") from None

    def view(self, name: str) -> memoryview:
        """A tensor's bytes, read-only, in the mapping itself."""
        tensor = self.info(name)
        return self._mapping[tensor.start : tensor.stop]

    def array(self, name: str) -> "numpy.typing.NDArray[numpy.generic]":
        """A tensor as a read-only numpy array over the mapping; numpy must be installed.

        BF16 comes as uint16 and the 8-bit floats as uint8 of the same shape, to be reinterpreted
        (torch: `.view(torch.bfloat16)`); the packed 4- and 6-bit floats as one row of bytes.
        """
        import numpy  # noqa: PLC0415 - optional, and slow to import

        tensor = self.info(name)
        kind = _NUMPY_TYPES.get(tensor.dtype)
        if kind is None:
            return numpy.frombuffer(self.view(name), dtype="u1")
        return numpy.frombuffer(self.view(name), dtype=kind).reshape(tensor.shape)

    def close(self) -> None:
        """Close the file, and let the mapping go with its last view."""
        self.__dict__.pop("_mapping", None)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tensorblock(path: Path | str) -> MappedTensors:
    """Open the safetensors file at `path`; only its header is read.

    Raises OSError, or the errors of protocols/tensors/safetensors_header.py.
    """
    file = io.FileIO(path)
    try:
        size = file.seek(0, os.SEEK_END)
        prefix = os.pread(file.fileno(), FIRST_READ, 0)
        wanted = header_length(prefix, size)
        if len(prefix) < wanted:
            prefix = os.pread(file.fileno(), wanted, 0)
        return MappedTensors(file, size, parse_safetensors_header(prefix, size))
    except HeaderError:
        file.close()
        raise
