"""Hypercorn's connection, hardened for a socket that lives as long as the daemon.

What Hypercorn 0.18 does, and what is done about it here:

| finding                                                       | guard                          |
| ------------------------------------------------------------- | ------------------------------ |
| a write to a client that stopped reading is shielded, and so  | `protocol_send`: no shield, a  |
| outlives the shutdown                                         | time limit                     |
| an app that does not read a body blocks the connection for    | an unbounded app queue, and    |
| ever once ten chunks wait                                     | bodies are read before routing |
| a connection whose client has gone stays open until it counts | `run` stops the idle task      |
| as idle                                                       |                                |
| HTTP/2 and its upgrade, which nobody needs here               | `_check_protocol` is empty     |
| an HTTP error has no body                                     | `_send_error_response`: JSON   |
| no limit on connections                                       | server.py counts them          |
"""

import logging
import math
from itertools import chain

import h11
import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from synapsed.control.problems import http_problem

IDLE_S = 15.0
"""A connection without a request is closed: also the time that a request's head may take."""

WRITE_S = 20.0
"""A client that takes nothing for so long is gone, stopped, or hostile."""

HEAD_LIMIT = 16 * 1024
"""Bytes of a request's line and headers, beyond the first read of up to 64 KiB: ours are under
1 KiB, a CID being 60 characters."""


def http_config() -> Config:
    """Hypercorn's settings for the control socket."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("synapsed.control.http")
    config.include_server_header = False
    config.keep_alive_timeout = IDLE_S
    config.h11_max_incomplete_size = HEAD_LIMIT
    config.max_app_queue_size = math.inf  # type: ignore[assignment]  # what trio's channels take
    return config


class ControlProtocol(H11Protocol):
    """HTTP/1.1 only, with errors that have the shape of all others."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Never switch to HTTP/2."""

    async def _send_error_response(self, status_code: int) -> None:
        body = msgspec.json.encode(http_problem(status_code, "not a valid HTTP request"))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(
            h11.Response(
                status_code=status_code,
                headers=list(chain(headers, self.config.response_headers("h11"))),
            )
        )
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class ControlConnection(TCPServer):
    """One accepted connection, from its first byte to its end."""

    def __init__(
        self, app: ASGIWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream
    ) -> None:
        # Hypercorn's annotation says TLS; it takes plain streams all the same.
        super().__init__(app, config, context, LifespanState(), stream)  # type: ignore[arg-type]

    async def run(self) -> None:
        """Serve requests until either side closes."""
        try:
            async with TaskGroup() as group:
                self._task_group = group
                self.protocol = ControlProtocol(  # type: ignore[assignment]
                    self.app,
                    self.config,
                    self.context,
                    group,
                    ConnectionState(self.state),
                    False,
                    None,
                    None,
                    self.protocol_send,
                )
                await self.idle_task.restart(group, self._idle_timeout)
                await self._read_data()
                await self.idle_task.stop()
        finally:
            with trio.move_on_after(1) as closing:
                closing.shield = True
                await self._close()

    async def protocol_send(self, event: Event) -> None:
        """Send bytes within WRITE_S; a client that does not take them is closed."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            with trio.move_on_after(WRITE_S) as writing:
                try:
                    await self.stream.send_all(event.data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.protocol.handle(Closed())
        if writing.cancelled_caught:
            await self.stream.aclose()
            await self.protocol.handle(Closed())
