"""What foreign code could try if it got out of WebAssembly: run inside the jail's walls, natively.

    python -I tests/jail_probe.py LAYERS CANARY PORT PARENT

It locks itself in exactly as the worker does and then tries to get at files, sockets, processes
and the kernel. What it got is written to the node's socket, a JSON object of name -> outcome;
"got" means that the walls have a hole. CANARY is a file that it tries to change, PORT a TCP port
on this machine where somebody listens.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from synapsed.jail import lockdown, wire

BOUNDS = lockdown.Bounds(address_space=1 << 34, data=1 << 29, cpu_s=5, file_size=1 << 16)
X86 = platform.machine() == "x86_64"
GOT = "got"

libc = ctypes.CDLL(None, use_errno=True)


def call(x86: int, arm: int, *arguments: object) -> int:
    """A system call by its number. Raises OSError."""
    result = libc.syscall(ctypes.c_long(x86 if X86 else arm), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def attempts(canary: str, port: int, parent: int) -> dict[str, Callable[[], object]]:
    """Everything that must not work, by name."""
    path = canary.encode()
    room = ctypes.create_string_buffer(4096)
    at = ctypes.byref(room)
    here = ctypes.c_int(-100)

    def child() -> object:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return pid

    def thread() -> object:
        other = threading.Thread(target=int)
        other.start()
        return other

    def abstract() -> object:
        with socket.socket(socket.AF_UNIX) as own:
            own.connect(f"\0jail-canary-{port}")
        return True

    def tcp(verb: str) -> object:
        with socket.socket() as own:
            getattr(own, verb)(("127.0.0.1", port if verb == "connect" else 0))
        return True

    return {
        "open to read": lambda: os.open(canary, os.O_RDONLY),
        "open to write": lambda: os.open(canary, os.O_WRONLY),
        "open the password file": lambda: open("/etc/passwd").read(),
        "open its own memory": lambda: os.open("/proc/self/mem", os.O_RDWR),
        "open its parent's memory": lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
        "create a file": lambda: os.open(f"{canary}.new", os.O_WRONLY | os.O_CREAT, 0o600),
        "open by openat2": lambda: call(437, 437, here, path, at, 24),
        "open by the old open": lambda: call(2, 56, path if X86 else here, 0 if X86 else path, 0),
        "truncate": lambda: os.truncate(canary, 0),
        "unlink": lambda: os.unlink(canary),
        "rename": lambda: os.rename(canary, f"{canary}.old"),
        "link": lambda: os.link(canary, f"{canary}.link"),
        "symlink": lambda: os.symlink("/", f"{canary}.symlink"),
        "mkdir": lambda: os.mkdir(f"{canary}.folder"),
        "chmod": lambda: os.chmod(canary, 0o777),
        "stat": lambda: os.stat(canary),
        "list a folder": lambda: os.listdir("/"),
        "chroot": lambda: os.chroot("/"),
        "mount": lambda: call(165, 40, b"none", b"/tmp", b"tmpfs", 0, None),
        "mknod": lambda: os.mknod(f"{canary}.device", 0o20600, os.makedev(1, 3)),
        "watch files": lambda: call(294, 26, 0),
        "a TCP socket": socket.socket,
        "a UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "a Unix socket": lambda: socket.socket(socket.AF_UNIX),
        "a pair of sockets": socket.socketpair,
        "connect over TCP": lambda: tcp("connect"),
        "bind over TCP": lambda: tcp("bind"),
        "connect to an abstract socket": abstract,
        "send a descriptor": lambda: socket.socket(fileno=os.dup(wire.SOCKET_FD)),
        "fork": child,
        "vfork": lambda: call(58, 1079, 0),
        "clone": lambda: call(56, 220, signal.SIGCHLD, 0, 0, 0, 0) or os._exit(0),
        "clone3": lambda: call(435, 435, at, 64) or os._exit(0),
        "a thread": thread,
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "execute by descriptor": lambda: call(322, 281, 0, b"", None, None, 0x1000),
        "signal the parent": lambda: os.kill(parent, 0),
        "kill the parent's group": lambda: os.killpg(os.getpgid(parent), 0),
        "queue a signal": lambda: call(129, 138, parent, 0, at),
        "a pidfd of the parent": lambda: os.pidfd_open(parent),
        "ptrace the parent": lambda: call(101, 117, 16, parent, None, None),
        "be traced": lambda: call(101, 117, 0, 0, None, None),
        "read the parent's memory": lambda: call(310, 270, parent, at, 1, at, 1, 0),
        "write the parent's memory": lambda: call(311, 271, parent, at, 1, at, 1, 0),
        "take the parent's descriptor": lambda: call(438, 438, 5, 0, 0),
        "raise its limits": lambda: call(302, 261, 0, 6, at, None),
        "become somebody else": lambda: os.setuid(65534),
        "new namespaces": lambda: call(272, 97, 0x10000000 | 0x40000000),
        "enter a namespace": lambda: call(308, 268, 0, 0),
        "ask for capabilities": lambda: call(126, 91, at, None),
        "prctl": lambda: call(157, 167, 4, 1, 0, 0, 0),
        "another filter": lambda: call(317, 277, 1, 0, at),
        "io_uring": lambda: call(425, 425, 1, at),
        "bpf": lambda: call(321, 280, 0, at, 128),
        "perf": lambda: call(298, 241, at, 0, -1, -1, 0),
        "userfaultfd": lambda: call(323, 282, 0),
        "keys": lambda: call(250, 219, 0, -3, 1),
        "a memory file": lambda: os.memfd_create("x"),
        "shared memory": lambda: call(29, 194, 0, 4096, 0o1600),
        "memory beyond its limit": lambda: mmap.mmap(-1, 1 << 30),
        "a stack that grows": lambda: mmap.mmap(-1, 1 << 20, 0x02 | 0x20 | 0x100),
        "private memory beyond its limit": lambda: mmap.mmap(-1, 1 << 30, 0x02 | 0x20),
        "a message queue": lambda: call(68, 186, 0, 0o1600),
        "load a kernel module": lambda: call(175, 105, at, 1, b""),
        "reboot": lambda: call(169, 142, 0, 0, 0, None),
        "set the clock": lambda: call(227, 112, 0, at),
        "the host's name": lambda: call(170, 161, b"x", 1),
        "swap": lambda: call(167, 224, path, 0),
        "the kernel's log": lambda: call(103, 116, 3, at, 10),
        "personality": lambda: call(135, 92, 0x0040000),
        "ioctl": lambda: call(16, 29, wire.SOCKET_FD, 0x541B, at),
        "another descriptor": lambda: next(fd for fd in range(6, 1024) if _open(fd)),
        "an environment": lambda: os.environ["HOME"],
    }


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


LANDLOCKED = (
    "open to read", "open to write", "open the password file", "create a file", "open by openat2",
    "open by the old open", "truncate", "unlink", "mkdir", "list a folder", "connect over TCP",
    "bind over TCP", "connect to an abstract socket", "signal the parent",
)  # fmt: skip
"""What Landlock alone refuses (from ABI 6; files from the first)."""


def outcome(attempt: Callable[[], Any]) -> str:
    """GOT, or why not."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    except (RuntimeError, StopIteration, KeyError) as error:
        return type(error).__name__
    return GOT


def main() -> None:
    layers, canary, port, parent = sys.argv[1:]
    lockdown.begin(int(parent), keep=6)
    lockdown.confine(layers, BOUNDS)
    lockdown.seal(layers)
    found = attempts(canary, int(port), int(parent))
    if "seccomp" not in layers:
        found = {name: found[name] for name in LANDLOCKED}
    told = json.dumps({name: outcome(attempt) for name, attempt in found.items()})
    os.write(wire.SOCKET_FD, told.encode())
    os._exit(0)


if __name__ == "__main__":
    main()
