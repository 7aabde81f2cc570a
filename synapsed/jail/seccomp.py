"""A filter that lets computing's system calls through and answers all others EPERM.

A list of what is allowed, not of what is forbidden: kernels gain calls faster than anybody reads
about them. A refused call is an error and not the end of the process, because the C library tries
some that it can do without.
"""

import ctypes
import errno
import os
import struct

_X86_64 = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "mmap": 9, "mprotect": 10, "munmap": 11,
    "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24,
    "mremap": 25, "madvise": 28, "recvmsg": 47, "exit": 60, "sigaltstack": 131, "futex": 202,
    "clock_gettime": 228, "exit_group": 231, "restart_syscall": 219, "getrandom": 318,
    "membarrier": 324,
}  # fmt: skip
_AARCH64 = {
    "read": 63, "write": 64, "close": 57, "fstat": 80, "mmap": 222, "mprotect": 226, "munmap": 215,
    "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
    "sched_yield": 124, "mremap": 216, "madvise": 233, "recvmsg": 212, "exit": 93,
    "sigaltstack": 132, "futex": 98, "clock_gettime": 113, "exit_group": 94,
    "restart_syscall": 128, "getrandom": 278, "membarrier": 283,
}  # fmt: skip
CALLS = {"x86_64": (0xC000003E, 317, _X86_64), "aarch64": (0xC00000B7, 277, _AARCH64)}
"""By machine: the audit number of its calls, the number of seccomp(2), and what is allowed."""

_X32 = 0x40000000
"""x86-64's other set of numbers for the same calls."""

_SET_MODE_FILTER, _TSYNC = 1, 1
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FOURTH = 0, 4, 40
"""Within the kernel's description of a call; of its fourth argument the lower half."""
_PRIVATE_OR_NOT, _PRIVATE = 0x103, 0x002
"""Of mmap's flags: shared, private, growing downwards. Only private memory that does not grow
counts as data, which is what is limited."""
ROW = struct.Struct("<HBBI")
"""Of the filter: an operation, how far to jump if true and if not, a number."""


class SeccompError(Exception):
    """The kernel did not take the filter."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def program(machine: str) -> bytes:
    """The filter for a machine, as the kernel takes it."""
    architecture, _, calls = CALLS[machine]
    numbers = sorted(set(calls.values()) - {calls["mmap"]})
    mmap = [
        (_LOAD, 0, 0, _AT_FOURTH),
        (_AND, 0, 0, _PRIVATE_OR_NOT),
        (_EQUAL, 1, 0, _PRIVATE),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    rows = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_EQUAL, 0, len(mmap), calls["mmap"]),
        *mmap,
    ]
    for at, number in enumerate(numbers):
        rows.append((_EQUAL, len(numbers) - at, 0, number))
    rows += [(_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(ROW.pack(*row) for row in rows)


def install(machine: str, *, threads: bool) -> None:
    """For this process, with the threads that it has already where it has some."""
    _, number, _ = CALLS[machine]
    code = ctypes.create_string_buffer(program(machine))
    length = (len(code) - 1) // 8
    filled = _Program(length, ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _TSYNC if threads else 0
    result = libc.syscall(number, _SET_MODE_FILTER, flags, ctypes.byref(filled))
    if result != 0:
        raise SeccompError(os.strerror(ctypes.get_errno()) if result < 0 else "a thread refuses")
