"""Answers that take long: the daemon's events, the news of a job, a file without known length.

The first two are server-sent events: each is `event: KIND`, `data: JSON`, an empty line. A
stream ends when its client goes away; a comment now and then finds out clients that vanished
without a word.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
import trio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from protocols.errors import SynapseError
from synapsed.control.gate import problem_response
from synapsed.control.jobs import Job, Result
from synapsed.control.models import KEEP_ALIVE_S, Progress
from synapsed.control.problems import problem_of
from synapsed.control.schema import BINARY
from synapsed.process.events import EventBus
from synapsed.training.said import Generated, Piece

FIRST_NEWS_S = 2.0
"""An error that comes within this time gets its own HTTP status; then the stream begins."""

_EVENTS = b"text/event-stream"


class Stream(Response, ABC):
    """A response that talks until it has said all or its client goes away."""

    media_type = "text/event-stream"

    @abstractmethod
    async def talk(self, send: Send) -> Response | None:
        """Start the stream, say what there is, end it; or answer by another response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        instead: Response | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_when_gone, receive, nursery.cancel_scope)
            instead = await self.talk(send)
            nursery.cancel_scope.cancel()
        if instead is not None:
            await instead(scope, receive, send)


class EventStream(Stream):
    """Every event from now on whose kind begins with `prefix`."""

    def __init__(self, bus: EventBus, prefix: str) -> None:
        super().__init__()
        self._bus = bus
        self._prefix = prefix

    async def talk(self, send: Send) -> None:
        with self._bus.subscribe() as reader:
            await _begin(send)
            told = trio.current_time()
            while True:
                # Events of other kinds say nothing to the client: they keep nothing alive.
                with trio.move_on_at(told + KEEP_ALIVE_S) as quiet:
                    event = await reader.next()
                if quiet.cancelled_caught:
                    await _say(send, b": still here\n\n")
                elif event.kind.startswith((self._prefix, "events.")):
                    await _say(send, _sse(event.kind, event))
                else:
                    continue
                told = trio.current_time()


class JobStream(Stream):
    """A job's news until its end.

    An error that comes at once is a plain HTTP error; a later one is the last event.
    """

    def __init__(self, start: Callable[[], Job]) -> None:
        super().__init__()
        self._start = start

    async def talk(self, send: Send) -> Response | None:
        try:
            job = self._start()
        except SynapseError as error:
            return problem_response(error)
        with job.watched():
            news = await _soon(job, None, FIRST_NEWS_S)
            if isinstance(news, SynapseError):
                return problem_response(news)
            await _begin(send)
            seen: Progress | None = None
            while news is None or isinstance(news, Progress):
                if news is None:
                    await _say(send, b": still here\n\n")
                else:
                    await _say(send, _sse("progress", news))
                    seen = news
                news = await _soon(job, seen, KEEP_ALIVE_S)
            if isinstance(news, SynapseError):
                await _say(send, _sse("error", problem_of(news)))
            else:
                await _say(send, _sse("result", news))
            await _end(send)
            return None


class TextStream(Stream):
    """Text in pieces, then the whole: `piece` events and one `result`; an error before the first
    piece is a plain HTTP error."""

    def __init__(self, pieces: Callable[[], AsyncGenerator[Piece | Generated, None]]) -> None:
        super().__init__()
        self._pieces = pieces

    async def talk(self, send: Send) -> Response | None:
        begun = False
        try:
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    if not begun:
                        await _begin(send)
                        begun = True
                    await _say(send, _sse("piece" if isinstance(piece, Piece) else "result", piece))
        except SynapseError as error:
            if not begun:
                return problem_response(error)
            await _say(send, _sse("error", problem_of(error)))
        await _end(send)
        return None


class FileStream(Stream):
    """Bytes that come in pieces: an error before the first is a plain HTTP error."""

    media_type = BINARY

    def __init__(self, pieces: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        super().__init__()
        self._pieces = pieces

    async def talk(self, send: Send) -> Response | None:
        async with aclosing(self._pieces()) as pieces:
            try:
                first = await anext(pieces, b"")
            except SynapseError as error:
                return problem_response(error)
            await _start(send, BINARY.encode())
            await _say(send, first)
            async for piece in pieces:
                await _say(send, piece)
        await _end(send)
        return None


async def underway(start: Callable[[], Job]) -> Job:
    """A detached job that is well under way, or over. Raises the error of one that fails at once.

    Nobody will be there to be told later.
    """
    job = start()
    news = await _soon(job, None, FIRST_NEWS_S)
    if isinstance(news, SynapseError):
        raise news
    return job


async def _soon(
    job: Job, seen: Progress | None, seconds: float
) -> Progress | Result | SynapseError | None:
    """The job's next news, or None where none comes within `seconds`."""
    news = None
    with trio.move_on_after(seconds):
        news = await job.next_news(seen)
    return news


def _sse(kind: str, value: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(value))


async def _when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    message: Message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()
    scope.cancel()


async def _begin(send: Send) -> None:
    await _start(send, _EVENTS)
    await _say(send, b": synapsed\n\n")


async def _start(send: Send, media_type: bytes) -> None:
    headers = [(b"content-type", media_type), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _say(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})
