"""Where the daemons of a world live on loopback.

Daemon i listens on 127.77.x.y and dials from it, so that its address says who it is. Others
reach it at 127.78.x.y, where its proxy stands. One port serves a whole world; two worlds on one
machine take two ports.
"""

import random
import socket

HOME_NET = "127.77"
PROXY_NET = "127.78"
HOSTS_A_NET = 250
"""Host numbers 1 to 250 of the last byte: .0 and .255 look like network and broadcast."""

PORTS = range(21000, 31000)
"""Below the range from which Linux draws ephemeral ports (32768 on)."""


def home_ip(index: int) -> str:
    """The address that daemon `index` (from 0) listens on and dials from."""
    return f"{HOME_NET}.{index // HOSTS_A_NET}.{index % HOSTS_A_NET + 1}"


def proxy_ip(index: int) -> str:
    """The address at which daemon `index`'s proxy stands."""
    return f"{PROXY_NET}.{index // HOSTS_A_NET}.{index % HOSTS_A_NET + 1}"


def index_of(ip: str) -> int | None:
    """The daemon that dials from `ip`; None where no daemon of ours does."""
    parts = ip.split(".")
    if ".".join(parts[:2]) not in (HOME_NET, PROXY_NET) or len(parts) != 4:
        return None
    return int(parts[2]) * HOSTS_A_NET + int(parts[3]) - 1


def claim_port() -> tuple[socket.socket, int]:
    """A port that no other world on this machine uses, and the socket that keeps it ours."""
    ports = random.SystemRandom().sample(PORTS, len(PORTS))
    for port in ports:
        held = socket.socket()
        try:
            held.bind((f"{PROXY_NET}.255.1", port))
            held.listen(1)
        except OSError:
            held.close()
            continue
        return held, port
    raise OSError("no free port between 21000 and 31000 for a world")
