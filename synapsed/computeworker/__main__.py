"""The command line of the compute worker.

    python -I -m synapsed.computeworker work PARENT            serve the socket on descriptor 3
    python -I -m synapsed.computeworker serve SOCKET PARENT    fork such workers (server.py)

PARENT is the process to die with. torch and transformers are imported here, before anything else is
done: whoever starts a worker waits for that, and a fork server's children do not.
"""

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

from synapsed.compute.environment import environment
from synapsed.compute.wire import SOCKET_FD

_PR_SET_PDEATHSIG = 1
_STDERR = 2


def main() -> None:
    """Never returns."""
    mode, *arguments = sys.argv[1:]
    die_with(int(arguments[-1]))
    os.umask(0o077)
    if mode == "work":
        from synapsed.computeworker.serving import serve  # noqa: PLC0415 - it takes seconds

        os.closerange(SOCKET_FD + 1, os.sysconf("SC_OPEN_MAX"))
        serve(socket.socket(fileno=SOCKET_FD))
    elif mode == "serve":
        # Libraries that start threads when they are loaded read this then; workers may use more.
        os.environ.update(environment(threads=1))
        from synapsed.computeworker.server import Server  # noqa: PLC0415 - it takes seconds

        Server(Path(arguments[0])).run()
    else:
        sys.exit(f"no mode {mode!r}")


def die_with(parent: int) -> None:
    """End when that process, which must be our parent, ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to die with it
        os._exit(1)


if __name__ == "__main__":
    main()
