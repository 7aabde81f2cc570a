"""Memory that the node and the jail's worker share, and rooms in it.

A block is built in a room, read by the worker where it is, and its answer appears in it: nothing
is copied between the two processes. The worker cannot shrink what it shares (the file is sealed),
so a look at it never ends the node; that a worker taken over by a module can write anywhere in it
makes answers wrong, which answers may always be.
"""

import ctypes
import fcntl
import mmap
import os
import weakref

PAGE = 4096
SIZE = 64 << 20
"""Eight of the largest blocks. It costs what is used of it: rooms are given out from its front."""


class Arena:
    """One shared file, mapped here and in the worker."""

    def __init__(self, size: int = SIZE) -> None:
        self.fd = os.memfd_create("jail-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        self._memory = mmap.mmap(self.fd, size)
        self._size = size
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._used: dict[int, int] = {}
        """Where each room begins, and its size."""

    def room(self, size: int) -> memoryview | None:
        """So many bytes, with whatever they held before; None where there is no such room left.
        They are given back when the last view of them is gone."""
        whole = -(-max(size, 1) // PAGE) * PAGE
        at = self._gap(whole)
        if at is None:
            return None
        exporter = (ctypes.c_ubyte * whole).from_buffer(self._memory, at)
        self._used[at] = whole
        weakref.finalize(exporter, self._used.pop, at).atexit = False
        return memoryview(exporter).cast("B")[:size]

    def place(self, block: memoryview) -> int | None:
        """Where a block begins in the arena; None where it lies elsewhere."""
        at = ctypes.addressof(ctypes.c_char.from_buffer(block)) - self._base
        return at if 0 <= at <= self._size - block.nbytes else None

    def _gap(self, size: int) -> int | None:
        """The first place with so much room."""
        at = 0
        for begin in sorted(self._used):
            if begin - at >= size:
                return at
            at = begin + self._used[begin]
        return at if self._size - at >= size else None
