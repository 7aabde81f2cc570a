"""Serving the control socket: bind, accept the owner's connections, close them on the way out.

Nothing that a client sends ends the daemon: each connection runs under `guard`, each job under
`supervise`. Importing this module imports FastAPI and Hypercorn (130 ms beside libp2p, 16 MB): the
daemon does it before its event loop runs, and the fork server once for all its daemons.
"""

import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.worker_context import WorkerContext

from synapsed.control.api import NodeApi
from synapsed.control.bind import bind, peer_uid
from synapsed.control.connection import ControlConnection, http_config
from synapsed.control.gate import BodyGate
from synapsed.control.jobs import JobBoard
from synapsed.control.models import Problem
from synapsed.control.routes import build_app
from synapsed.process.events import Event
from synapsed.process.metrics import ProcessMeter
from synapsed.process.supervise import guard, supervise

MAX_CONNECTIONS = 128
"""At a time: an owner's shells, dashboards and scrapers, with room; a task and 30 KB each."""

TURN_AWAY_S = 1.0
"""For a refusal to be read: it is one packet on this machine."""

RECENT_EVENTS = 256
"""Events kept for `synapsectl events` without --follow: 50 KB."""

Handle = Callable[[trio.SocketStream], Awaitable[None]]
"""Serves one accepted connection to its end."""


async def serve_control(
    node: NodeApi, path: Path, *, task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve `node` at the Unix socket `path` until cancelled.

    Started means that clients can connect. Raises SocketNotOursError or ConflictError when the
    place is taken; on leaving, open streams are cut, jobs cancelled and the socket removed.
    """
    bound = bind(path)
    try:
        async with trio.open_nursery() as nursery:
            door = _Door(start_app(node, nursery))
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound.listener))
            task_status.started()
            await trio.serve_listeners(door, [listener], handler_nursery=nursery)
    finally:
        bound.close()


def start_app(node: NodeApi, nursery: trio.Nursery) -> Handle:
    """The HTTP application over `node`: what serves one accepted connection.

    Its jobs and its memory of recent events live in `nursery`.
    """

    def spawn(name: str, work: Callable[[], Awaitable[None]]) -> None:
        nursery.start_soon(partial(supervise, name, work, node.bus.emit, restart=False))

    recent: deque[Event] = deque()
    spawn("recent events", partial(_remember, node, recent))
    app = build_app(node, JobBoard(node.bus, spawn), ProcessMeter(), recent)
    gate: Any = BodyGate(app)  # Starlette's ASGI types are wider than Hypercorn's
    wrapped, config, context = ASGIWrapper(gate), http_config(), WorkerContext(None)

    async def handle(stream: trio.SocketStream) -> None:
        with guard("control connection", node.bus.emit):
            await ControlConnection(wrapped, config, context, stream).run()

    return handle


async def _remember(node: NodeApi, recent: deque[Event]) -> None:
    with node.bus.subscribe() as reader:
        while True:
            remember(recent, await reader.next())


def remember(recent: deque[Event], event: Event) -> None:
    """Keep an event. Where they are too many, the oldest of the most frequent kind goes: an idle
    council's ticks must not push out what was rare."""
    recent.append(event)
    if len(recent) > RECENT_EVENTS:
        ((frequent, _),) = Counter(each.kind for each in recent).most_common(1)
        del recent[next(n for n, each in enumerate(recent) if each.kind == frequent)]


class _Door:
    """Lets the owner (and root, whom nothing keeps out) in, up to the limit."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._inside = 0

    async def __call__(self, stream: trio.SocketStream) -> None:
        uid = peer_uid(stream.socket)
        if uid not in (os.geteuid(), 0):
            text = f"this socket is for user {os.geteuid()} only, and you are user {uid}"
            await _turn_away(stream, Problem("not-owner", text, "ask its owner", 403))
        elif self._inside >= MAX_CONNECTIONS:
            text = f"{MAX_CONNECTIONS} connections are open already"
            await _turn_away(stream, Problem("busy", text, "close one and try again", 503))
        else:
            self._inside += 1
            try:
                await self._handle(stream)
            finally:
                self._inside -= 1


async def _turn_away(stream: trio.SocketStream, problem: Problem) -> None:
    """Answer before anything is read, and close. Never waits on the client."""
    body = msgspec.json.encode(problem)
    head = f"HTTP/1.1 {problem.status} Refused\r\nconnection: close\r\ncontent-length: {len(body)}"
    data = head.encode() + b"\r\ncontent-type: application/json\r\n\r\n" + body
    async with stream:
        with trio.move_on_after(TURN_AWAY_S):
            try:
                await stream.send_all(data)
                await stream.send_eof()
                await stream.receive_some()  # its request: unread, it would reset our answer away
            except trio.BrokenResourceError:
                pass  # it has gone already
