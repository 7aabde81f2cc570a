"""Bad requests at the control socket, by its own owner: fuzzers, broken scripts, lost clients."""

import json
from collections.abc import Callable

import trio

from tests.bench.attacker import GONE
from tests.bench.attacks import Draw, Target, many


async def bad_control(target: Target, draw: Draw, share: float) -> int:
    """Requests that are no HTTP, no JSON, of no path or of no sense; and clients that dawdle."""
    path = str(target.daemon.places.socket)

    async def one(_: int) -> int:
        try:
            stream = await trio.open_unix_socket(path)
        except OSError:
            return 0
        async with stream:
            try:
                await stream.send_all(_bad_request(draw))
                with trio.move_on_after(0.3):
                    await stream.receive_some()
            except GONE:
                pass
        return 1

    return await many(1500, share, 16, one)


_PATHS = (
    "/v1/status",
    "/v1/peers?which=nobody",
    "/v1/announcements?kind=%00",
    "/v1/models/import",
    "/v1/models/bafyreib/pull",
    "/v1/models/../../etc/passwd",
    "/v1/limits",
    "/v1/peers/connect",
    "/v1/ping",
    "/v1/events?kind=" + "x" * 5000,
    "/" + "a/" * 3000,
    "/v1/jobs/-1",
    "/openapi.json",
)


def _bad_request(draw: Draw) -> bytes:
    bodies: tuple[Callable[[], bytes], ...] = (
        lambda: draw.randbytes(500),
        lambda: b"[" * 5000,
        lambda: json.dumps({"path": "x" * 100_000}).encode(),
        lambda: json.dumps({"peer_id": draw.randrange(1 << 60)}).encode(),
        lambda: b'{"upload_rate": 1e999, "quota": -1}',
        lambda: b'{"addr": "/ip4/300.1.1.1/tcp/99999/p2p/12D3KooW"}',
        lambda: b"\xff\xfe{}",
        lambda: b"null",
    )
    body = draw.choice(bodies)()
    method = draw.choice(("GET", "POST", "PUT", "DELETE", "BREW", "P" * 50))
    head = f"{method} {draw.choice(_PATHS)} HTTP/1.1\r\nHost: synapsed\r\n".encode()
    length = draw.choice((len(body), len(body), len(body), 0, 1 << 40, -5))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: head + b"Content-Length: %d\r\n\r\n" % length + body,
        lambda: head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        lambda: head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body,
        lambda: head + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        lambda: draw.randbytes(300),
        lambda: head,  # and then silence
    )
    return draw.choice(kinds)()
