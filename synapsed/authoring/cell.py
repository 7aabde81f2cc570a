"""`python -I -m synapsed.authoring.cell SPEC`: become a command that has no network and few files.

This process gives up what the command does not need and then turns into it: limits, namespaces
(no interface to send from, no other process to see), Landlock (the compiler's folders to read,
one folder to write), seccomp (no sockets, no looking into other processes). A source is somebody
else's, and compilers are large and were not written to be attacked.

Nothing here may be imported by a process that means to go on: what is given up stays given up.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from typing import NoReturn

import msgspec

EXIT_WEAK = 125
"""The kernel lacks a layer that is asked for; what is missing is on standard error."""

MAX_FILE = 256 << 20
"""Bytes of one file that is written: zig's cache holds a runtime library of some megabytes."""
MAX_DATA = 2 << 30
"""Bytes of one process' memory: compilers take 0.2 to 0.6 GB for a module."""
MAX_OPEN = 512
MAX_CPU_S = 60

_libc = ctypes.CDLL(None, use_errno=True)

# -- numbers of the kernel's interface (linux/prctl.h, sched.h, landlock.h, seccomp.h) ----------

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x08000000 | 0x04000000
"""CLONE_NEWUSER, NEWNET, NEWPID, NEWIPC, NEWUTS."""
_SYS_LANDLOCK = (444, 445, 446)
_READ = 1 << 2 | 1 << 3
_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_OF_FILES = _EXECUTE | _WRITE_FILE | 1 << 2
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Kinds of access to files that each version of Landlock knows; later ones added none."""
_NET_SINCE, _SCOPE_SINCE = 4, 6
_NET_ALL, _SCOPE_ALL = 0b11, 0b11
_DEVICES = ("/dev/null",)
"""None that can be read for ever, or gives something else each time."""

_FORBIDDEN = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "recvfrom": 45,
            "sendmsg": 46, "bind": 49, "listen": 50, "socketpair": 53, "kill": 62, "ptrace": 101,
            "rt_sigqueueinfo": 129, "pivot_root": 155, "chroot": 161, "mount": 165,
            "umount2": 166, "tkill": 200, "tgkill": 234, "add_key": 248, "request_key": 249,
            "keyctl": 250, "unshare": 272, "rt_tgsigqueueinfo": 297, "perf_event_open": 298,
            "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321,
            "userfaultfd": 323,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "connect": 203, "accept": 202, "sendto": 206, "recvfrom": 207,
            "sendmsg": 211, "bind": 200, "listen": 201, "socketpair": 199, "kill": 129,
            "ptrace": 117, "rt_sigqueueinfo": 138, "pivot_root": 41, "chroot": 51, "mount": 40,
            "umount2": 39, "tkill": 130, "tgkill": 131, "add_key": 217, "request_key": 218,
            "keyctl": 219, "unshare": 97, "rt_tgsigqueueinfo": 240, "perf_event_open": 241,
            "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280,
            "userfaultfd": 282,
        },
    ),
}  # fmt: skip
"""By machine: the audit number of its calls, and what is refused."""
_FORBIDDEN_EVERYWHERE = (424, 425, 434, 438)
"""pidfd_send_signal, io_uring_setup (which opens sockets behind a filter's back), pidfd_open,
pidfd_getfd."""
_X32 = 0x40000000


class Spec(msgspec.Struct, frozen=True):
    """What to become."""

    command: tuple[str, ...]
    environment: dict[str, str]
    work: str
    """The one folder that may be written; the command begins there."""
    folders: tuple[str, ...]
    """What may be read, with all below."""
    allow_weaker: bool


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("fs", ctypes.c_uint64),
        ("net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def become(spec: Spec, parent: int) -> NoReturn:
    """Give up everything else, and run the command."""
    os.chdir(spec.work)
    _limit()
    missing = []
    if not (alone := _leave_namespaces()):
        missing.append("user namespaces")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not _keep_only(spec.work, spec.folders):
        missing.append("Landlock")
    deaf = _refuse_calls()
    if not deaf:
        missing.append("seccomp")
    # Either of the two keeps the network away; nothing else keeps the files away.
    enough = "Landlock" not in missing and (alone or deaf)
    if not enough and not spec.allow_weaker:
        print(f"this kernel lacks {', '.join(missing)}", file=sys.stderr, flush=True)
        os._exit(EXIT_WEAK)
    if not alone and os.getppid() != parent:
        os._exit(1)
    os.execve(spec.command[0], list(spec.command), spec.environment)  # noqa: S606 - it is the point


def _limit() -> None:
    for what, most in (
        (resource.RLIMIT_CPU, MAX_CPU_S),
        (resource.RLIMIT_FSIZE, MAX_FILE),
        (resource.RLIMIT_DATA, MAX_DATA),
        (resource.RLIMIT_NOFILE, MAX_OPEN),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))


def _leave_namespaces() -> bool:
    """Go on in a process that has its own network and sees no other process; whether it could.

    The one that stays outside only waits: it dies with whoever started it, and the other, as the
    first of its process namespace, takes all its children along. Without namespaces, a child that
    leaves its group outlives the build; it can then do as little as before, for as long as its
    processor time lasts.
    """
    if not _can_leave():
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        return False
    _leave()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return True


def _can_leave() -> bool:
    """Tried by a child, since some systems let one leave and then do nothing there."""
    pid = os.fork()
    if pid == 0:
        try:
            _leave()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _leave() -> None:
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_NAMESPACES) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _prctl(what: int, value: int) -> None:
    if _libc.prctl(what, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {what}")


def _keep_only(work: str, folders: Sequence[str]) -> bool:
    """Landlock: whether nothing but these can be opened from now on."""
    create, add, restrict = _SYS_LANDLOCK
    version = _libc.syscall(create, None, 0, 1)
    if version < 1:
        return False
    every = (1 << _FS_BITS.get(version, 16)) - 1
    rules = _Ruleset(
        every,
        _NET_ALL if version >= _NET_SINCE else 0,
        _SCOPE_ALL if version >= _SCOPE_SINCE else 0,
    )
    size = 24 if version >= _SCOPE_SINCE else 16 if version >= _NET_SINCE else 8
    ruleset = _libc.syscall(create, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return False
    allowed = [(folder, _READ | _EXECUTE) for folder in folders]
    allowed += [(device, _READ | _WRITE_FILE) for device in _DEVICES]
    allowed.append((work, every & ~_EXECUTE))
    for path, access in allowed:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # /lib64 is not everywhere
        mask = every if os.path.isdir(path) else every & _OF_FILES
        rule = _PathBeneath(access & mask, opened)
        if _libc.syscall(add, ruleset, 1, ctypes.byref(rule), 0) != 0:
            return False
        os.close(opened)
    done: int = _libc.syscall(restrict, ruleset, 0)
    os.close(ruleset)
    return done == 0


def _refuse_calls() -> bool:
    """seccomp: whether the calls that are forbidden are refused from now on."""
    known = _FORBIDDEN.get(platform.machine())
    if known is None:
        return False
    architecture, numbers = known
    refuse = struct.pack("<HBBI", 0x06, 0, 0, 0x00050000 | errno.EPERM)
    lines = [
        struct.pack("<HBBI", 0x20, 0, 0, 4),  # the architecture
        struct.pack("<HBBI", 0x15, 1, 0, architecture),
        struct.pack("<HBBI", 0x06, 0, 0, 0x80000000),  # another one: the end of the process
        struct.pack("<HBBI", 0x20, 0, 0, 0),  # the call's number
        struct.pack("<HBBI", 0x35, 0, 1, _X32),  # x32's, which are other names for the same
        refuse,
    ]
    for number in (*numbers.values(), *_FORBIDDEN_EVERYWHERE):
        lines += [struct.pack("<HBBI", 0x15, 0, 1, number), refuse]
    lines.append(struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000))
    code = b"".join(lines)
    program = _Program(len(lines), code)
    return bool(_libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) == 0)


def main() -> NoReturn:
    """Become what the first argument says."""
    become(msgspec.json.decode(sys.argv[1], type=Spec), os.getppid())


if __name__ == "__main__":
    main()
