"""What a child of the jail does to itself, after its last import and before the first foreign byte.

Order matters: Landlock holds for the thread that asks and those that it starts later, so it comes
before any thread; the filter of system calls comes last and holds for all threads.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal

import msgspec

from synapsed.jail import seccomp
from synapsed.jail.layers import SYS_LANDLOCK_CREATE_RULESET, landlock_abi

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SYS_LANDLOCK_RESTRICT_SELF = 446
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522

_FILES_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Landlock's rights over files, by the ABI that brought them."""
_TCP_SINCE, _TCP = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11
"""Abstract sockets of others, and signals to them."""


class LockdownError(Exception):
    """A layer that should be there could not be put on."""


class Bounds(msgspec.Struct, frozen=True):
    """Resource limits of a child."""

    address_space: int
    data: int
    """Bytes of private writable memory: unlike reserved addresses, these cost something."""
    cpu_s: int
    """Of processor time; 0: as much as it takes."""
    file_size: int


def begin(parent: int, keep: int) -> None:
    """Die with the parent, keep the descriptors below `keep` alone, and be nowhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "die with the parent")
    if os.getppid() != parent:  # it died before we asked to die with it
        os._exit(1)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory ends, it ends before anything of the owner's
    os.closerange(keep, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.chdir("/")
    os.umask(0o077)


def confine(layers: str, bounds: Bounds) -> None:
    """All but the filter of system calls. Threads may be started afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "core dumps off")
    _drop_capabilities(libc)
    wanted = layers.split(",")
    if "rlimits" in wanted:
        _limit(bounds)
    if "no_new_privs" in wanted:
        _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if "landlock" in wanted:
        _landlock(libc)


def seal(layers: str, *, threads: bool = False) -> None:
    """No process is made from here on, and where there is seccomp only computing is possible."""
    wanted = layers.split(",")
    if "rlimits" in wanted:
        _lower(resource.RLIMIT_NPROC, 0)
    if "seccomp" in wanted:
        seccomp.install(platform.machine(), threads=threads)


def _limit(bounds: Bounds) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_AS, bounds.address_space, least=bounds.address_space)
    _lower(resource.RLIMIT_DATA, bounds.data, least=bounds.data)
    _lower(resource.RLIMIT_FSIZE, bounds.file_size)
    _lower(resource.RLIMIT_NOFILE, 16)
    _lower(resource.RLIMIT_MEMLOCK, 0)
    _lower(resource.RLIMIT_MSGQUEUE, 0)
    if bounds.cpu_s:
        _lower(resource.RLIMIT_CPU, bounds.cpu_s)


def _lower(what: int, most: int, *, least: int = 0) -> None:
    """Down to `most`. LockdownError where the owner allows less than `least`: a module would be
    blamed for what it cannot have."""
    hard = resource.getrlimit(what)[1]
    possible = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if possible < least:
        raise LockdownError(
            f"{possible >> 20} MiB of memory or addresses are allowed (ulimit -v, ulimit -d), and "
            f"{least >> 20} are needed"
        )
    resource.setrlimit(what, (possible, possible))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """A daemon that root started has children that can do no more than anybody's."""
    number = _SYS_CAPSET.get(platform.machine())
    if number is None:
        return
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _check(libc.syscall(number, header, none), "drop capabilities")


def _landlock(libc: ctypes.CDLL) -> None:
    """Forbid everything that this kernel's Landlock can, and allow nothing."""
    abi = landlock_abi(libc)
    if abi < 1:
        raise LockdownError("Landlock was there when the node looked, and is not now")
    files = max(rights for since, rights in _FILES_OF_ABI.items() if since <= abi)
    words = [files]
    if abi >= _TCP_SINCE:
        words.append(_TCP)
    if abi >= _SCOPES_SINCE:
        words.append(_SCOPES)
    attributes = (ctypes.c_uint64 * len(words))(*words)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    ruleset = libc.syscall(SYS_LANDLOCK_CREATE_RULESET, attributes, size, 0)
    _check(ruleset, "Landlock's rules")
    _check(libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise LockdownError(f"{what}: {os.strerror(ctypes.get_errno())}")
