"""Many workers on one machine, forked from one process that has torch imported already.

Listens on a socket that only its owner can open; each connection gets a worker of its own, which
ends when the connection does. Forking is only sound while there is one thread, so nothing is
computed here; a card is first spoken to by the children, as its driver demands.

A fork of a process that has imported torch takes 10 ms and shares 250 MB, which importing it
anew takes 3 s and private memory for.
"""

import contextlib
import ctypes
import gc
import os
import selectors
import signal
import socket
import traceback
from pathlib import Path
from typing import NoReturn

from synapsed.compute.wire import SOCKET_FD
from synapsed.computeworker.serving import serve

MAX_WORKERS = 256
_PR_SET_PDEATHSIG = 1
BACKLOG = 64


class Server:
    """The parent of workers."""

    def __init__(self, path: Path) -> None:
        """Listen at `path`, whose folder should be its owner's alone."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._listener.bind(str(path))  # the umask leaves it to us alone
        self._listener.listen(BACKLOG)
        self._children: set[int] = set()

    def run(self) -> NoReturn:
        """Until it is killed."""
        gc.disable()
        gc.collect()
        gc.freeze()
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise RuntimeError(f"an import started {threads - 1} threads, which no fork survives")
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(self._listener, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fd == wake_read:
                    os.read(wake_read, 4096)
                else:
                    self._accept()
            self._reap()

    def _accept(self) -> None:
        node, _ = self._listener.accept()
        with node:
            if len(self._children) >= MAX_WORKERS:
                return  # closed: the node sees that nobody is there
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                self._be_child(node, parent)
            self._children.add(pid)

    def _be_child(self, node: socket.socket, parent: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:  # else it died before we asked to die with it
                os.dup2(node.fileno(), SOCKET_FD)
                os.closerange(SOCKET_FD + 1, os.sysconf("SC_OPEN_MAX"))
                gc.enable()
                serve(socket.socket(fileno=SOCKET_FD))
        finally:
            traceback.print_exc()
            os._exit(1)

    def _reap(self) -> None:
        while self._children:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
