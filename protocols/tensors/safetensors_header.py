"""The header of a safetensors file, believed in nothing.

    8 bytes   N, unsigned, little endian
    N bytes   a JSON object: tensor name -> {dtype, shape, data_offsets: [start, stop]}, and
              optionally "__metadata__" -> {text: text}; offsets count from byte 8 + N
    the rest  the tensors' bytes, without holes

Whatever is accepted here the safetensors library accepts too. Stricter than the library: the
object begins at byte 8 (its documentation demands that, its parser does not), no key may stand
twice (two readers could disagree about which counts), no field is unknown, and the limits below.
Format: https://github.com/huggingface/safetensors#format

    HeaderError (a MalformedError)
     +- HeaderTruncatedError      the file ends before its header does
     +- HeaderTooLargeError       longer than MAX_HEADER, or more than MAX_TENSORS tensors
     +- HeaderNotJsonError        not one JSON object in UTF-8, or nested beyond the format
     +- HeaderFieldError          JSON, but not the format's fields and types
     +- DuplicateKeyError         a key twice in one object
     +- UnknownDtypeError         an element type that the format does not have
     +- AbsurdShapeError          too many dimensions, or a size beyond 64 bits
     +- ShapeMismatchError        shape and dtype take another number of bytes than the offsets
     +- OffsetOutOfFileError      offsets that run backwards or past the file's end
     +- OverlappingOffsetsError   two tensors share bytes
     +- OffsetHoleError           bytes of the file that belong to no tensor
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import msgspec

from protocols.errors import LimitError, MalformedError

MAX_HEADER = 16 << 20
"""Bytes of JSON: 65,536 tensors with long names take 13 MB; published shards have at most a few
hundred KB."""

MAX_TENSORS = 1 << 16
"""Tensors of one file: each costs a section node; the largest published shard has some 10,000."""

MAX_COLONS = 5 * MAX_TENSORS
"""Colons of a header: a tensor has four keys; the rest is room for metadata and for names with
colons. It bounds the parser's memory, 200 MB, and with it the time for which no other thread of
the process gets on, 0.1 s."""

MAX_COMMAS = 16 * MAX_TENSORS
"""Commas of a header, for the same reason: a tensor of three dimensions has six; the rest is room
for metadata."""

MAX_RANK = 64
"""Dimensions of a tensor: what numpy 2 and torch can hold."""

MAX_OFFSET = (1 << 63) - 1
"""Largest offset or dimension: file offsets are signed 64-bit numbers everywhere."""

LENGTH_BYTES = 8
METADATA_KEY = "__metadata__"
"""The one key that no tensor can have."""

ALIGNMENT = 4096
"""Where our own writer begins the data: a page, so that a mapped tensor starts on one."""

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, for every dtype of safetensors 0.8."""


class HeaderError(MalformedError):
    """A safetensors header that does not describe its file."""

    code = "bad-header"


class HeaderTruncatedError(HeaderError):
    """The file, or what was given of it, ends before its header does."""

    code = "header-truncated"


class HeaderTooLargeError(HeaderError, LimitError):
    """Longer, or with more tensors, than the limits of this file allow."""

    code = "header-too-large"


class HeaderNotJsonError(HeaderError):
    """Not one JSON object in UTF-8."""

    code = "header-not-json"


class HeaderFieldError(HeaderError):
    """JSON, but a field is missing, unknown or of the wrong type."""

    code = "header-field"


class DuplicateKeyError(HeaderError):
    """A key stands twice in one object."""

    code = "header-duplicate-key"


class UnknownDtypeError(HeaderError):
    """An element type that safetensors does not have."""

    code = "unknown-dtype"


class AbsurdShapeError(HeaderError):
    """A shape of too many dimensions or of more than 2**63 bits."""

    code = "absurd-shape"


class ShapeMismatchError(HeaderError):
    """Shape and dtype take another number of bytes than the offsets span."""

    code = "shape-mismatch"


class OffsetOutOfFileError(HeaderError):
    """Offsets that run backwards or past the end of the file."""

    code = "offset-out-of-file"


class OverlappingOffsetsError(HeaderError):
    """Two tensors claim the same bytes."""

    code = "overlapping-offsets"


class OffsetHoleError(HeaderError):
    """Bytes that belong to no tensor."""

    code = "offset-hole"


class TensorInfo(msgspec.Struct, frozen=True, gc=False):
    """One tensor: its bytes are [start, stop) of the *file*."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsHeader(msgspec.Struct, frozen=True):
    """What a header says: tensors in the order of their bytes; data begins at `header_len`."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    header_len: int


_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    dtype: str
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRIES = msgspec.json.Decoder(list[_Entry])
_METADATA = msgspec.json.Decoder(dict[str, str])
# Possessive: without backtracking, so without a stack that an adversary could grow.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


def header_length(prefix: bytes | memoryview, size: int) -> int:
    """Bytes of the header (8 + N) of a file of `size` bytes, from its first 8 bytes.

    Raises HeaderTruncatedError or HeaderTooLargeError.
    """
    if size < LENGTH_BYTES or len(prefix) < LENGTH_BYTES:
        raise HeaderTruncatedError(
            f"a safetensors file begins with {LENGTH_BYTES} bytes of length; {size} bytes are there"
        )
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER:
        raise HeaderTooLargeError(
            f"a header of {length} bytes where {MAX_HEADER} are allowed{_looks_like(prefix)}",
            remedy="only safetensors files are read; convert other formats first",
        )
    if LENGTH_BYTES + length > size:
        raise HeaderTruncatedError(
            f"a header of {length} bytes in a file of {size}",
            remedy="the file is cut off; fetch it again",
        )
    return LENGTH_BYTES + length


def _looks_like(prefix: bytes | memoryview) -> str:
    """What a file that is no safetensors file may be; nothing of it is parsed."""
    start = bytes(prefix[:4])
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        return "; this looks like a pickle, which is never parsed"
    return ""


def parse_safetensors_header(prefix: bytes | memoryview, size: int) -> SafetensorsHeader:
    """The header of a file of `size` bytes that begins with `prefix` (the whole header, or more).

    Raises the errors at the top of this file. Time and memory grow with the header only.
    """
    header_len = header_length(prefix, size)
    if len(prefix) < header_len:
        raise HeaderTruncatedError(f"{len(prefix)} bytes of a header of {header_len}")
    names, entries, metadata = _decode(bytes(prefix[LENGTH_BYTES:header_len]))
    if len(entries) > MAX_TENSORS:
        raise HeaderTooLargeError(f"{len(entries)} tensors where {MAX_TENSORS} are allowed")
    # Empty tensors stand before the one that begins where they do; the name settles the rest.
    ordered = sorted(zip([entry.data_offsets for entry in entries], names, entries, strict=True))
    return SafetensorsHeader(
        tensors=tuple(_tensors(ordered, header_len, size)),
        metadata=metadata,
        header_len=header_len,
    )


def _decode(text: bytes) -> tuple[list[str], list[_Entry], dict[str, str]]:
    """Names, entries and metadata of the JSON object `text`."""
    if not text.startswith(b"{"):
        raise HeaderNotJsonError("a header does not begin with '{'")
    for mark, most in ((b":", MAX_COLONS), (b",", MAX_COMMAS)):
        if (count := text.count(mark)) > most:
            raise HeaderTooLargeError(
                f"a header with {count} times {mark.decode()!r} where {most} are allowed"
            )
    try:
        raw = _OBJECT.decode(text)
        metadata_raw = raw.pop(METADATA_KEY, None)
        metadata = {} if metadata_raw is None else _METADATA.decode(metadata_raw)
        # All entries in one call, which costs less than a call for each.
        entries = _ENTRIES.decode(b"[" + b",".join(raw.values()) + b"]")
    except msgspec.ValidationError as error:
        raise HeaderFieldError(f"a header's fields are not safetensors': {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HeaderNotJsonError(f"a header is not JSON: {error}") from error
    keys = len(raw) * (1 + len(_Entry.__struct_fields__)) + len(metadata)
    _check_skeleton(text, keys + (metadata_raw is not None))
    return list(raw), entries, metadata


def _check_skeleton(text: bytes, keys: int) -> None:
    """Refuse what a decoder forgives: a key twice, and -0 for 0.

    With the strings taken out, valid JSON has one colon for each key of each object, so more
    colons than distinct keys means that one stands twice, in whichever object.
    """
    if b"-" not in text and text.count(b":") == keys:
        return  # No need to take the strings out, which takes longer than all the rest.
    skeleton = _STRINGS.sub(b"", text)
    if b"-" in skeleton:
        raise HeaderFieldError("a header has a negative number")
    if skeleton.count(b":") != keys:
        raise DuplicateKeyError("a header has the same key twice")


def _tensors(
    ordered: Iterable[tuple[tuple[int, int], str, _Entry]], header_len: int, size: int
) -> Iterator[TensorInfo]:
    """The tensors of the entries, in the order of bytes, which they must cover exactly."""
    at = 0
    end = size - header_len
    for (start, stop), name, entry in ordered:
        if not start <= stop <= end:
            raise OffsetOutOfFileError(
                f"tensor {_q(name)} has the bytes [{start}, {stop}) of {end}"
            )
        if start < at:
            raise OverlappingOffsetsError(f"tensor {_q(name)} begins {at - start} bytes in another")
        if start > at:
            raise OffsetHoleError(
                f"{start - at} bytes before tensor {_q(name)} belong to no tensor"
            )
        at = stop
        bits = bits_of(name, entry.dtype, entry.shape)
        if bits != (stop - start) * 8:
            raise ShapeMismatchError(
                f"tensor {_q(name)}: {entry.dtype} {list(entry.shape)} has {bits} bits,"
                f" and offsets that span {stop - start} bytes"
            )
        yield TensorInfo(name, entry.dtype, entry.shape, header_len + start, header_len + stop)
    if at != end:
        raise OffsetHoleError(f"the last {end - at} bytes of the file belong to no tensor")


def bits_of(name: str, dtype: str, shape: Sequence[int]) -> int:
    """Bits of the tensor `name`. Raises UnknownDtypeError or AbsurdShapeError."""
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise UnknownDtypeError(f"tensor {_q(name)} has the unknown dtype {_q(dtype)}")
    if len(shape) > MAX_RANK:
        raise AbsurdShapeError(f"tensor {_q(name)} has {len(shape)} dimensions")
    bits *= math.prod(shape)
    # A dimension of 0 must not hide the others, whose product some reader will take first.
    if bits > MAX_OFFSET or (not bits and math.prod(filter(None, shape)) > MAX_OFFSET >> 6):
        raise AbsurdShapeError(f"tensor {_q(name)} has the shape {list(shape)}")
    return bits


def _q(text: str) -> str:
    """Foreign text, quoted and cut to what a log line bears."""
    return repr(text[:80])


def make_safetensors_header(
    tensors: Iterable[tuple[str, str, Sequence[int]]],
    metadata: dict[str, str] | None = None,
    align: int = ALIGNMENT,
) -> bytes:
    """The header (8 + N bytes) of a file that holds (name, dtype, shape) tensors in this order.

    The JSON is padded with spaces so that the data begins at a multiple of `align`.
    """
    header: dict[str, object] = {} if not metadata else {METADATA_KEY: metadata}
    at = 0
    for name, dtype, shape in tensors:
        stop = at + bits_of(name, dtype, shape) // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    text = msgspec.json.encode(header)
    text += b" " * (-(LENGTH_BYTES + len(text)) % align)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
