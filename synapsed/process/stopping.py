"""SIGTERM and SIGINT: a clean stop, and the deadline after which it is no longer asked for.

The handlers are Python's own and not trio's, because they must also work before the event loop
runs, and while something holds it up. SIGHUP is ignored: a closed terminal is no reason to leave
the network, and `synapsectl limits` changes the limits of a running daemon.
"""

import faulthandler
import logging
import os
import signal
from types import FrameType

import trio

from synapsed.process import sdnotify

log = logging.getLogger(__name__)

DEADLINE_S = 1.7
"""From the signal to a forced end: a stop is promised within 2 s, the rest is for the log line."""

LAST_RESORT_S = 1.9
"""Then a thread in C, which needs no interpreter lock, writes the stacks and ends the process."""

EXIT_FORCED = 1


class Stopping:
    """Turns the first signal into `stop`, and a second one, or the deadline, into an end.

    The deadline is never lifted: it covers the interpreter's own tidying as well.
    """

    def __init__(self) -> None:
        self.asked = False
        self._stop: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def install(self) -> None:
        """Take over the signals of this process; from its main thread."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGALRM, self._too_late)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def bind(self, stop: trio.Event) -> None:
        """Set `stop` on the first signal, also if that came already; from inside trio."""
        self._stop, self._token = stop, trio.lowlevel.current_trio_token()
        if self.asked:
            stop.set()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            self._force("a second signal")
        self.asked = True
        signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
        faulthandler.dump_traceback_later(LAST_RESORT_S, exit=True, file=2)
        log.info("%s: stopping", signal.Signals(number).name)
        sdnotify.notify("STOPPING=1")
        if self._token is not None and self._stop is not None:
            self._token.run_sync_soon(self._stop.set)

    def _too_late(self, _number: int, _frame: FrameType | None) -> None:
        self._force(f"no clean stop within {DEADLINE_S} s")

    def _force(self, why: str) -> None:
        log.critical("%s: ending at once", why)
        os._exit(EXIT_FORCED)
