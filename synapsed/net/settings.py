"""What the owner may choose about the network; everything else is a constant beside its use."""

import msgspec


class NetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where we listen and whom we look for. Addresses are multiaddrs over TCP.

    `listen`: where to bind (port 0: any free one). `announce`: what we state instead of what we
    are bound to (a forwarded port, a proxy). `dial_from`: the source address of our own dials,
    for machines with several ("": the system's choice).
    """

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    announce: tuple[str, ...] = ()
    dial_from: str = ""
    bootstrap: tuple[str, ...] = ()
    mdns: bool = False
    dht: bool = False
    target_peers: int = 8
    """Live connections that discovery keeps: gossipsub's mesh of 6, and two to spare."""
    max_connections: int = 64
    """Connections in all; a full node keeps the worthiest."""
    max_connections_per_ip: int = 16
    """One address may be a household or a university; it may not be the whole table."""
    score_seconds: float = 5.0
    """Between two rounds of scoring everybody we know: a thousandth of a core for a full book."""
