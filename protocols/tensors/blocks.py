"""Blocks and sub-tiles from one peer: requests, answers and limits of `/synapse/blocks/1.0.0`.

A stream carries any number of conversations, one behind the other, and a client may send its
next requests before the answers to the first have come (the server answers in order):

    client   [u32 length][DAG-CBOR request] ...
    server   [u32 length][DAG-CBOR answer][`answer.length` raw bytes] ...

Lengths are big endian. Large bytes follow an answer raw and never stand in it.

    request   what follows the answer                                     answer
    block     the block                                                   bytes
    layout    the header's `header` bytes, then all section nodes         shape
    leaves    the leaf hashes of the answer's `sections`, one behind      hashes
              the other: those of the sections asked for that it has
    have      nothing                                                     holdings
    fetch     the bytes of the leaves [lo, hi)                            bytes
    prove     the run proof for one leaf (`hashes` of them), its bytes    proven
    any       nothing                                                     refusal

Nothing here is signed, because nothing is believed: a block hashes to its CID, nodes to the
root, a header to its node, leaf hashes to their node, and bytes to their leaf hash. `have` is a
claim, and fetching finds out.
"""

from typing import Annotated, Literal

import msgspec

from protocols.codec import Message, decode
from protocols.errors import LimitError, MalformedError
from protocols.manifest import MAX_FILE_SIZE, CidBytes, Layout, Root
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.safetensors_header import MAX_HEADER, MAX_TENSORS
from protocols.tensors.tensorblock import TILE

PROTOCOL = "/synapse/blocks/1.0.0"

MAX_REQUEST = 64 << 10
"""Bytes of a request: `leaves` for MAX_RUNS runs of sections takes 45 KB."""
MAX_ANSWER = 128 << 10
"""Bytes of an answer without what follows it: `holdings` of MAX_RUNS runs take 90 KB."""
MAX_RUNS = 4096
"""Runs in one message. A holder with more tells the first ones: less is asked of it, no more."""
MAX_HAVE_ROOTS = 64
"""Files in one `have`: a model of 4,096 files is asked about in rotation."""
MAX_FETCH_BYTES = TILE
"""Bytes of one `fetch`: half a second at 8 MB/s, and at 200 MB/s still 50 requests a second."""
MAX_FETCH_LEAVES = 256
"""Leaves of one `fetch`: small tensors (biases, norms) are leaves of a few KB."""
MAX_SECTIONS = 1 << 14
"""Sections of which one answer has leaf hashes: empty ones cost time and no bytes."""
MAX_HASHES = 1 << 18
"""Leaf hashes of one answer, 8 MiB: the sections of 64 GiB, or as many as fit. A larger tensor
cannot be pulled; no published one has a tenth of that."""
MAX_SHAPE_BYTES = 8 + MAX_HEADER + HASH_BYTES * (MAX_TENSORS + 1)
"""Bytes that follow a `shape`: the largest header, and a node for each section."""
MAX_PROOF = 64
"""Hashes of a run proof for one leaf: twice 24 levels of leaves and 17 of sections is less."""
MAX_RETRY_MS = 60_000
"""The longest wait that a refusal may ask for."""

LeafIndex = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Span = tuple[LeafIndex, LeafIndex]
"""[lo, hi) of leaves or sections."""
Spans = Annotated[tuple[Span, ...], msgspec.Meta(max_length=MAX_RUNS)]
Length = Annotated[int, msgspec.Meta(ge=0, le=MAX_SHAPE_BYTES)]

RefusalCode = Literal["not-held", "busy", "paused", "too-large", "malformed"]


# -- requests -------------------------------------------------------------------------------


class BlockRequest(Message, frozen=True, tag_field="ask", tag="block"):
    """One block by its CID."""

    cid: CidBytes


class LayoutRequest(Message, frozen=True, tag_field="ask", tag="layout"):
    """The header and the section nodes of a file."""

    root: Root


class LeavesRequest(Message, frozen=True, tag_field="ask", tag="leaves"):
    """The leaf hashes of runs of sections."""

    root: Root
    sections: Spans

    def __post_init__(self) -> None:
        check_spans(self.sections)


class HaveRequest(Message, frozen=True, tag_field="ask", tag="have"):
    """Which leaves of some files are held, and which are being pulled."""

    roots: Annotated[tuple[Root, ...], msgspec.Meta(min_length=1, max_length=MAX_HAVE_ROOTS)]


class FetchRequest(Message, frozen=True, tag_field="ask", tag="fetch"):
    """The bytes of the leaves [lo, hi), at most MAX_FETCH_BYTES of them."""

    root: Root
    lo: LeafIndex
    hi: LeafIndex

    def __post_init__(self) -> None:
        if not self.lo < self.hi <= self.lo + MAX_FETCH_LEAVES:
            raise LimitError(f"leaves [{self.lo}, {self.hi}) are not 1 to {MAX_FETCH_LEAVES}")


class ProveRequest(Message, frozen=True, tag_field="ask", tag="prove"):
    """One leaf with the proof that it belongs to the root: a probe."""

    root: Root
    leaf: LeafIndex


Request = BlockRequest | LayoutRequest | LeavesRequest | HaveRequest | FetchRequest | ProveRequest


# -- answers --------------------------------------------------------------------------------


class Bytes(Message, frozen=True, tag_field="say", tag="bytes"):
    """What was asked for follows."""

    length: Length


class Shape(Message, frozen=True, tag_field="say", tag="shape"):
    """`header` bytes of header and then the section nodes follow, of a file of `size` bytes.

    Size and layout are under the root too. So whoever asked can tell a peer that lies (they do
    not lead to the root) from a manifest that does (they do, and are not what it says).
    """

    length: Length
    header: Length
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_SIZE)]
    layout: Layout

    def __post_init__(self) -> None:
        nodes = self.length - self.header
        if nodes < HASH_BYTES or nodes % HASH_BYTES:
            raise MalformedError("a shape without whole section nodes")


class Hashes(Message, frozen=True, tag_field="say", tag="hashes"):
    """The leaf hashes of `sections` follow: of those asked for, the ones that are known."""

    length: Length
    sections: Spans

    def __post_init__(self) -> None:
        check_spans(self.sections)


class Holding(Message, frozen=True):
    """What a peer has of one file. `pulling`: it wants `wants`, or all where it has no list."""

    held: Spans
    complete: bool
    pulling: bool
    wants: Spans

    def __post_init__(self) -> None:
        check_spans(self.held)
        check_spans(self.wants)


class Holdings(Message, frozen=True, tag_field="say", tag="holdings"):
    """One Holding for each file asked about, in that order."""

    files: Annotated[tuple[Holding, ...], msgspec.Meta(max_length=MAX_HAVE_ROOTS)]

    @property
    def length(self) -> int:
        """Nothing follows."""
        return 0


class Proven(Message, frozen=True, tag_field="say", tag="proven"):
    """`hashes` proof hashes and then the leaf's bytes follow."""

    length: Length
    hashes: Annotated[int, msgspec.Meta(ge=0, le=MAX_PROOF)]

    def __post_init__(self) -> None:
        if self.length < self.hashes * HASH_BYTES:
            raise MalformedError("a proof longer than the answer that carries it")


class Refusal(Message, frozen=True, tag_field="say", tag="refusal"):
    """No; and for `busy` and `paused`, when asking again makes sense."""

    code: RefusalCode
    retry_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_RETRY_MS)] = 0

    @property
    def length(self) -> int:
        """Nothing follows."""
        return 0


Answer = Bytes | Shape | Hashes | Holdings | Proven | Refusal


def check_spans(spans: tuple[Span, ...]) -> None:
    """Raise MalformedError unless the runs are non-empty, in order, and do not touch."""
    last = -1
    for lo, hi in spans:
        if not last < lo < hi:
            raise MalformedError("runs that are empty, out of order, or touch")
        last = hi


def decode_request(data: bytes) -> Request:
    """The request in a frame. Raises MalformedError, LimitError."""
    request: Request = decode(data, Request, MAX_REQUEST)  # type: ignore[arg-type]  # a union
    return request


def decode_answer(data: bytes) -> Answer:
    """The answer in a frame. Raises MalformedError, LimitError."""
    answer: Answer = decode(data, Answer, MAX_ANSWER)  # type: ignore[arg-type]  # a union
    return answer
