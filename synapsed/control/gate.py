"""What stands before the routes: a request's body is read whole, within limits, or refused."""

import msgspec
import trio
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocols.errors import SynapseError
from synapsed.control.problems import SlowBodyError, TooLargeError, problem_of

BODY_LIMIT = 4 << 20
"""Bytes. The largest request names 10,000 tensors of 256 characters; manifests stop at 1 MiB."""

BODY_S = 10.0
"""For the whole body: it comes through a Unix socket, in milliseconds."""


def problem_response(error: SynapseError) -> Response:
    """A typed error as an HTTP response of its own."""
    problem = problem_of(error)
    body = msgspec.json.encode(problem)
    return Response(body, problem.status, media_type="application/json")


class BodyGate:
    """ASGI middleware: the app sees bodies that are complete, or does not see the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await _read(receive)
        except SynapseError as error:
            await problem_response(error)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)


async def _read(receive: Receive) -> bytes | None:
    """The body; None where the client went away first."""
    body = bytearray()
    with trio.move_on_after(BODY_S):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > BODY_LIMIT:
                raise TooLargeError(f"a request's body has at most {BODY_LIMIT} bytes")
            if not message.get("more_body", False):
                return bytes(body)
    raise SlowBodyError(f"the request's body did not arrive within {BODY_S:g} s")


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
