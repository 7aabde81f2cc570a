"""The leaf hashes of one file, section by section, each checked against its section's node.

On disk they stand one behind the other (32 bytes times the leaf's number). A section's are
believed when they make its node, so nothing else needs to say which of them are there.
"""

import os
from pathlib import Path

from protocols.errors import MismatchError
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.tensorblock import Layout, Section, section_node
from synapsed.hashing import HASHER
from synapsed.store.disk import sync_data, write_all
from synapsed.store.errors import HashesUnknownError, StoreError, disk_errors


class LeafHashes:
    """The leaf hashes of a file whose section nodes are known. Safe between threads."""

    def __init__(self, path: Path, layout: Layout, nodes: list[bytes]) -> None:
        self._path, self._layout, self._nodes = path, layout, nodes
        self._known: dict[int, bytes] = {}
        self._absent: set[int] = set()
        self._dirty = False

    def _makes_node(self, section: Section, hashes: bytes) -> bool:
        right_length = len(hashes) == section.leaves * HASH_BYTES
        return right_length and section_node(HASHER, section, hashes) == self._nodes[section.index]

    def knows(self, index: int) -> bool:
        """Whether the leaf hashes of the section `index` are here."""
        return self._get(index) is not None

    def _get(self, index: int) -> bytes | None:
        found = self._known.get(index)
        if found is None and index not in self._absent:
            found = self._load(self._layout.sections[index])
        return found

    def _load(self, section: Section) -> bytes | None:
        with disk_errors(self._path, "reading leaf hashes"):
            fd = os.open(self._path, os.O_RDONLY | os.O_CREAT, 0o600)
            try:
                at = section.first_leaf * HASH_BYTES
                hashes = os.pread(fd, section.leaves * HASH_BYTES, at)
            finally:
                os.close(fd)
        if not self._makes_node(section, hashes):
            self._absent.add(section.index)
            return None
        self._known[section.index] = hashes
        return hashes

    def of_section(self, index: int) -> bytes:
        """All leaf hashes of the section `index`. Raises HashesUnknownError."""
        found = self._get(index)
        if found is None:
            raise HashesUnknownError(
                f"the leaf hashes of section {index} are not known", remedy="fetch them first"
            )
        return found

    def of_run(self, lo: int, hi: int) -> bytes:
        """The hashes of the leaves [lo, hi). Raises HashesUnknownError, LeafRangeError."""
        parts = []
        for section in self._layout.sections_of_run(lo, hi):
            first = max(lo - section.first_leaf, 0)
            last = min(hi, section.end_leaf) - section.first_leaf
            parts.append(self.of_section(section.index)[first * HASH_BYTES : last * HASH_BYTES])
        return b"".join(parts)

    def put(self, index: int, hashes: bytes) -> None:
        """Keep the leaf hashes of a section; MismatchError unless they make its node."""
        section = self._layout.sections[index]
        if not self._makes_node(section, hashes):
            raise MismatchError(f"the leaf hashes of section {index} do not make its node")
        if self._get(index) is not None:
            return
        with disk_errors(self._path, "writing leaf hashes"):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                write_all(fd, hashes, section.first_leaf * HASH_BYTES)
            finally:
                os.close(fd)
        self._dirty = True
        self._known[index] = hashes
        self._absent.discard(index)

    def sync(self) -> None:
        """Make what was put durable; called before the record speaks of their leaves."""
        if not self._dirty:
            return
        self._dirty = False
        try:
            sync_data(self._path)
        except StoreError:
            self._dirty = True
            raise
