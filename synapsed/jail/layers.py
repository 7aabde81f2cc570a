"""Which layers of confinement this kernel has. Looking changes nothing.

rlimits        bounds on memory, processor time, files and processes
no_new_privs   nothing gained by executing a setuid program
landlock       no file, no TCP port, no signal to others, whoever asks
seccomp        no system call but the few that computing needs
"""

import ctypes
import errno
import platform
import sys

import msgspec

NAMES = ("rlimits", "no_new_privs", "landlock", "seccomp")

PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS = 21, 39
SYS_LANDLOCK_CREATE_RULESET = 444
LANDLOCK_CREATE_RULESET_VERSION = 1
ARCHITECTURES = ("x86_64", "aarch64")
"""Whose system call numbers are known here."""


class Layers(msgspec.Struct, frozen=True):
    """What there is."""

    rlimits: bool
    no_new_privs: bool
    landlock: int
    """Its ABI; 0 where the kernel has none."""
    seccomp: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of what there is not."""
        return tuple(name for name in NAMES if not getattr(self, name))

    def text(self) -> str:
        """As a child is told on its command line: those that it must put on."""
        return ",".join(name for name in NAMES if getattr(self, name))


def detect() -> Layers:
    """Ask the kernel."""
    if not sys.platform.startswith("linux"):
        return Layers(rlimits=True, no_new_privs=False, landlock=0, seccomp=False)
    libc = ctypes.CDLL(None, use_errno=True)
    known = platform.machine() in ARCHITECTURES
    return Layers(
        rlimits=True,
        no_new_privs=libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0,
        landlock=max(0, landlock_abi(libc)),
        seccomp=known and _has_seccomp_filter(libc),
    )


def landlock_abi(libc: ctypes.CDLL) -> int:
    """The number of Landlock's interface, or -1."""
    return int(
        libc.syscall(
            SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION
        )
    )


def _has_seccomp_filter(libc: ctypes.CDLL) -> bool:
    """A null filter is a bad address where filters are known, and a bad argument where not."""
    set_mode_filter, pr_set_seccomp = 2, 22
    if libc.prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0:
        return False
    failed = libc.prctl(pr_set_seccomp, set_mode_filter, None, 0, 0) < 0
    return failed and ctypes.get_errno() == errno.EFAULT
