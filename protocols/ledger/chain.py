"""The chain of entries: headers, their hashes, and short proofs from one to another.

Each entry's header names the chain hash before it (`prev`) and, as a short cut, the one at its
index with the lowest set bit cleared (`skip`). So whoever trusts one chain hash can be shown any
earlier entry by O(log² n) headers: 100 of them, 12 KB, over a million entries.
Source: P. Maniatis, M. Baker, "Secure history preservation through timeline entanglement"
(USENIX Security 2002), authenticated append-only skip lists.

The term is not in the hash: an entry that is proposed again in a later term is the same entry.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated

import msgspec

from protocols.envelope import domain
from protocols.errors import MalformedError

HASH_LENGTH = 32
Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_LENGTH, max_length=HASH_LENGTH)]
Index = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

NOTHING = bytes(HASH_LENGTH)
"""Stands where the genesis entry has nothing before it."""
MAX_PATH = 2048
"""Headers in one proof: (63 bits)² / 2, the longest way down from the highest index."""

_HEADER = struct.Struct(">QQ32s32s32s")


class BrokenPathError(MalformedError):
    """Headers that do not lead from the one chain hash to the other."""

    code = "broken-path"


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One place of one chain."""

    index: Index
    hash: Hash


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the chain hash covers."""

    epoch: Index
    index: Index
    prev: Hash
    skip: Hash
    payload: Hash
    """sha256 of the entry's bytes."""


def skip_index(index: int) -> int:
    """Where the short cut of `index` (at least 1) leads."""
    return index & (index - 1)


def payload_hash(payload: bytes) -> bytes:
    """sha256 of an entry's bytes."""
    return hashlib.sha256(payload).digest()


@lru_cache(maxsize=64)
def _domain(network: str) -> bytes:
    return domain(network, "chain")


def chain_hash(network: str, header: Header) -> bytes:
    """The name of an entry and of everything before it."""
    packed = _HEADER.pack(header.epoch, header.index, header.prev, header.skip, header.payload)
    return hashlib.sha256(_domain(network) + packed).digest()


class Spine:
    """The head of a chain with the ancestors that later short cuts can lead to. Immutable."""

    __slots__ = ("_ancestors",)

    def __init__(self, ancestors: tuple[tuple[int, bytes], ...]) -> None:
        """From (index, hash) of the head with 0, 1, 2, ... of its lowest bits cleared, rising."""
        self._ancestors = ancestors

    @classmethod
    def begin(cls, network: str, genesis: bytes) -> "Spine":
        """The chain of one entry, the genesis payload."""
        header = Header(0, 0, NOTHING, NOTHING, payload_hash(genesis))
        return cls(((0, chain_hash(network, header)),))

    @property
    def ancestors(self) -> tuple[tuple[int, bytes], ...]:
        """For saving; at most 64 pairs."""
        return self._ancestors

    @property
    def head(self) -> Head:
        """The newest entry."""
        return Head(*self._ancestors[-1])

    def next_header(self, epoch: int, payload: bytes) -> Header:
        """The header of `payload` (an entry's bytes) as the next entry."""
        index, prev = self._ancestors[-1]
        wanted = skip_index(index + 1)
        skip = next(found for at, found in reversed(self._ancestors) if at == wanted)
        return Header(epoch, index + 1, prev, skip, payload_hash(payload))

    def extended(self, network: str, header: Header) -> "Spine":
        """With `header`, made by `next_header`, as the new head."""
        keep = skip_index(header.index)
        kept = tuple(pair for pair in self._ancestors if pair[0] <= keep)
        return Spine((*kept, (header.index, chain_hash(network, header))))


def next_on_path(index: int, target: int) -> int:
    """Which of an entry's two links leads towards `target`, as far as it can."""
    skip = skip_index(index)
    return skip if skip >= target else index - 1


def path(header_at: Callable[[int], Header], index: int, target: int) -> list[Header]:
    """The headers that show what the chain hash at `index` has at `target` <= `index`."""
    headers = []
    while index > target:
        headers.append(header_at(index))
        index = next_on_path(index, target)
    return headers


def ancestor(network: str, top: Head, headers: Sequence[Header], target: int) -> bytes:
    """The chain hash at `target` below `top`, by the headers of `path`.

    Raises BrokenPathError where they do not lead there.
    """
    if target > top.index or len(headers) > MAX_PATH:
        raise BrokenPathError("a path that goes up, or without end")
    index, expected = top.index, top.hash
    for header in headers:
        if index <= target or header.index != index or chain_hash(network, header) != expected:
            raise BrokenPathError(f"the headers leave the chain at index {index}")
        following = next_on_path(index, target)
        expected = header.prev if following == index - 1 else header.skip
        index = following
    if index != target:
        raise BrokenPathError(f"the headers end at index {index}, above {target}")
    return expected
