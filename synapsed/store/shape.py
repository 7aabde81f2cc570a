"""What a held file is: its size, root and layout, its header, and the nodes of its sections.

On disk (`layout` in the file's folder): 8 bytes of magic, u32 length, DAG-CBOR of `_Stated`,
the header's bytes, the nodes. All of it is checked against the root when it is read, so a
damaged one is noticed and never believed.
"""

from collections.abc import Callable
from pathlib import Path

from protocols.codec import Message, decode, encode
from protocols.errors import MalformedError, MismatchError
from protocols.manifest import FileRef
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.safetensors_header import LENGTH_BYTES, HeaderError, header_length
from protocols.tensors.tensorblock import (
    LEAVES_OF_TILE,
    SAFETENSORS,
    Layout,
    file_root,
    hash_run,
    section_node,
    split_hashes,
)
from synapsed.hashing import HASHER
from synapsed.store.disk import Source

_MAGIC = b"SYNLAY1\n"
_LENGTH = 4
_MAX_STATED = 4096
"""Bytes of `_Stated`: six small fields."""


class _Stated(Message, frozen=True):
    size: int
    root: bytes
    layout: str
    header: int
    nodes: int


class Shape:
    """A file's size, root and layout; `header` is empty unless the layout is safetensors."""

    def __init__(
        self, size: int, root: bytes, kind: str, header: bytes | None, nodes: list[bytes]
    ) -> None:
        """Raises MalformedError (by name) or MismatchError unless all parts lead to the root."""
        self.size = size
        self.root = root
        self.header = header or b""
        self.nodes = nodes
        self.layout = Layout.of_kind(kind, size, self.header)
        if len(nodes) != len(self.layout.sections):
            raise MalformedError(f"{len(nodes)} nodes for {len(self.layout.sections)} sections")
        if file_root(HASHER, self.size, nodes) != self.root:
            raise MismatchError("the section nodes do not lead to the file's root")
        if kind == SAFETENSORS:
            self._check_header()

    def _check_header(self) -> None:
        first = self.layout.sections[0]
        if len(self.header) != first.length:
            raise MalformedError(f"{len(self.header)} bytes of a header of {first.length}")
        if section_node(HASHER, first, self.header_hashes()) != self.nodes[0]:
            raise MismatchError("the header does not hash to its section's node")

    def header_hashes(self) -> bytes:
        """The leaf hashes of the header's section."""
        leaves = self.layout.sections[0].leaves if self.header else 0
        return hash_run(HASHER, self.layout, 0, leaves, self.header) if leaves else b""

    @property
    def fixed_bytes(self) -> int:
        """Bytes beside the data: the header again, the nodes, and all leaf hashes."""
        return len(self.header) + (len(self.nodes) + self.layout.leaf_count) * HASH_BYTES

    def bytes_of(self, lo: int, hi: int) -> int:
        """How many bytes the leaves [lo, hi) have."""
        start, stop = self.layout.run_span(lo, hi)
        return stop - start

    def encode(self) -> bytes:
        """The contents of the `layout` file."""
        stated = encode(
            _Stated(
                size=self.size,
                root=self.root,
                layout=self.layout.kind,
                header=len(self.header),
                nodes=len(self.nodes),
            )
        )
        length = len(stated).to_bytes(_LENGTH, "little")
        return b"".join([_MAGIC, length, stated, self.header, *self.nodes])


def describes(ref: FileRef, size: int, layout: Layout) -> bool:
    """Whether a manifest's `ref` says of a file what it is.

    A manifest may name the root of somebody else's file with another size or layout, and then
    its tiles are others for everybody who does not hold that file.
    """
    # With one section the layouts cut a file alike.
    return size == ref.size and (layout.kind == ref.layout or len(layout.sections) == 1)


def decode_shape(data: bytes) -> Shape:
    """A Shape from the contents of a `layout` file. Raises MalformedError or LimitError."""
    at = len(_MAGIC) + _LENGTH
    length = int.from_bytes(data[len(_MAGIC) : at], "little")
    if data[: len(_MAGIC)] != _MAGIC or len(data) < at + length:
        raise MalformedError("not the layout of a held file")
    stated = decode(data[at : at + length], _Stated, _MAX_STATED)
    at += length
    if len(data) != at + stated.header + stated.nodes * HASH_BYTES:
        raise MalformedError("the layout of a held file is cut off")
    header = data[at : at + stated.header]
    nodes = split_hashes(data[at + stated.header :])
    return Shape(stated.size, stated.root, stated.layout, header, nodes)


def shape_of_file(path: Path, kind: str, say: Callable[[int], None]) -> tuple[Shape, bytes]:
    """Hash a whole file: its Shape and all its leaf hashes.

    Raises the errors of the safetensors header, DiskError, or MalformedError where the file
    changes while it is read.
    """
    with Source(path) as source:
        try:
            header = _header(source) if kind == SAFETENSORS else b""
            layout = Layout.of_kind(kind, source.size, header)
        except HeaderError as error:
            raise type(error)(f"{path}: {error.message}", remedy=error.remedy) from error
        hashes = []
        nodes = []
        for section in layout.sections:
            mine = []
            for lo in range(section.first_leaf, section.end_leaf, LEAVES_OF_TILE):
                hi = min(lo + LEAVES_OF_TILE, section.end_leaf)
                data = source.read(*layout.run_span(lo, hi))
                mine.append(hash_run(HASHER, layout, lo, hi, data))
                say(len(data))
            hashes += mine
            nodes.append(section_node(HASHER, section, b"".join(mine)))
    root = file_root(HASHER, layout.size, nodes)
    return Shape(layout.size, root, kind, header, nodes), b"".join(hashes)


def _header(source: Source) -> bytes:
    prefix = source.read(0, min(LENGTH_BYTES, source.size))
    return source.read(0, header_length(prefix, source.size))
