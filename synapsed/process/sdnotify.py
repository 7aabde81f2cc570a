"""Telling systemd how we are: sd_notify(3) in its few lines of datagram, without its library."""

import os
import socket
from collections.abc import Mapping

import trio


def notify(*lines: str, env: Mapping[str, str] = os.environ) -> bool:
    """Send `READY=1` and the like to whoever started us; False if nobody asked to be told."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # abstract: the zero byte is not writable in a variable
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError:  # a manager that is gone or full must not take us with it
            return False
    return True


def watchdog_interval(env: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two signs of life, half of what systemd allows; None if it asks for none."""
    text, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 2e6


async def watchdog() -> None:
    """Signs of life from the event loop itself, so that a stalled loop is a missed one."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await trio.sleep(interval)
