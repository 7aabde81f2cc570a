"""Waiting for less than a millisecond, which Python's own `poll` cannot. Of one thread: the event
loop's, which has one descriptor to ask about at a time."""

import ctypes
import os
import select
import time

MOMENT_S = 0.0002
"""That a call blocks the event loop before it waits as others do: a batch of 10,000 rows, with its
way there and back, takes 0.11 ms, and the event loop's turn would add a fifth to that."""

_ppoll = ctypes.CDLL(None).ppoll
_ppoll.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p]
_ppoll.restype = ctypes.c_int


class _Pollfd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_fd = _Pollfd(-1, select.POLLIN, 0)
_nothing = _Timespec(0, 0)
_fd_at, _nothing_at = map(ctypes.addressof, (_fd, _nothing))


def soon_readable(fd: int) -> bool:
    """Whether there is something to read, within a moment. Asked again and again: an idle machine
    takes longer to wake who sleeps than most calls take; who else wants the core has it meanwhile.
    """
    until = time.perf_counter() + MOMENT_S
    while not readable(fd):
        if time.perf_counter() > until:
            return False
        os.sched_yield()
    return True


def readable(fd: int) -> bool:
    """Whether there is something to read already."""
    _fd.fd = fd
    return bool(_ppoll(_fd_at, 1, _nothing_at, None) > 0)
