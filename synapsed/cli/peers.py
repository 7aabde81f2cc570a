"""peers, ping, connect."""

import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from synapsed.cli import candidates
from synapsed.cli.common import Cli, command
from synapsed.cli.names import peer_id
from synapsed.control import models

if TYPE_CHECKING:
    from synapsed.cli.output import Output


class Pings(msgspec.Struct):
    """What `ping --json` prints."""

    peer_id: str
    rtt_ms: list[float]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    command(app, "peers")(peers)
    command(app, "ping")(ping)
    command(app, "connect")(connect)


def peers(
    cli: Cli,
    live: Annotated[bool, typer.Option("--live", help="Those alive by heartbeat.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Connected, alive or banned.")] = False,
) -> None:
    """Peers that are connected."""
    which = "all" if every else "live" if live else "connected"
    with cli.client() as client:
        found = client.call("GET", "/v1/peers", models.Peers, which=which)
    cli.done(found, lambda out: _table(out, found.peers))


def _table(out: "Output", found: list[models.PeerInfo]) -> None:
    from synapsed.cli.output import short_peer, since  # noqa: PLC0415

    columns = ("PEER", "LINK", "LIVE", "RTT>", "SCORE>", "FAULTS>", "SINCE>")
    rows = (
        (
            short_peer(peer.peer_id),
            _link(peer),
            "yes" if peer.live else "no",
            "" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms",
            f"{peer.score:.1f}",
            str(peer.faults),
            "" if peer.since is None else since(peer.since),
        )
        for peer in found
    )
    out.table(columns, rows, empty="no peers")


def _link(peer: models.PeerInfo) -> str:
    from synapsed.cli.output import duration  # noqa: PLC0415

    if peer.banned_until is not None:
        return f"banned, {duration(peer.banned_until - time.time())} left"
    if not peer.connected:
        return "-"
    return f"{peer.direction or '?'}{', local' if peer.local else ''}"


def ping(
    cli: Cli,
    peer: Annotated[
        str,
        typer.Argument(
            metavar="PEER", help="A peer id, or its beginning.", autocompletion=candidates.peers
        ),
    ],
    count: Annotated[
        int, typer.Option("--count", "-c", metavar="N", min=1, max=1000, help="So many times.")
    ] = 1,
) -> None:
    """Measure the round trip to a peer."""
    with cli.client() as client:
        asked = models.PeerRequest(peer_id=peer_id(client, peer))
        times: list[float] = []
        for _ in range(count):
            pong = client.call("POST", "/v1/ping", models.Pong, asked)
            times.append(pong.rtt_ms)
            if not cli.json:
                cli.out.line(f"{pong.peer_id}  {pong.rtt_ms:.2f} ms")
    if cli.json:
        cli.done(Pings(peer_id=asked.peer_id, rtt_ms=times), lambda _out: None)


def connect(
    cli: Cli, addr: Annotated[str, typer.Argument(metavar="ADDR", help="/ip4/.../tcp/.../p2p/...")]
) -> None:
    """Dial a peer's address."""
    with cli.client() as client:
        found = client.call(
            "POST", "/v1/peers/connect", models.PeerInfo, models.ConnectRequest(addr=addr)
        )
    cli.done(found, lambda out: out.line(f"connected to {found.peer_id}"))
