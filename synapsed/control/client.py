"""Talking to a daemon's control socket: `Client` for the CLI, `AsyncClient` for trio programs.

Errors: NoDaemonError, TimedOutError, NotTextError, and DaemonError with the Problem that the
daemon answered.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

import httpx
import msgspec

from protocols.errors import SynapseError
from synapsed.control.models import KEEP_ALIVE_S, EventInfo, Problem, Progress
from synapsed.control.problems import TimedOutError
from synapsed.training.said import Piece

CONNECT_S = 5.0
"""A listening socket on this machine accepts at once, unless its daemon is stopped."""

STREAM_S = 3 * KEEP_ALIVE_S
"""Silence after which a stream's daemon counts as stuck: three comments missed."""

T = TypeVar("T")
Watch = Callable[[Progress], None]


class Writable(Protocol):
    """Where a download goes."""

    def write(self, part: bytes, /) -> int: ...


class NoDaemonError(SynapseError):
    """Nobody listens at the socket."""

    code: ClassVar[str] = "no-daemon"


class NotADaemonError(NoDaemonError):
    """What listens at the socket does not speak as a daemon of this version."""

    code: ClassVar[str] = "not-a-daemon"


class NotTextError(SynapseError):
    """An argument that JSON cannot carry: file names on Linux may be any bytes."""

    code: ClassVar[str] = "not-text"


class DaemonError(SynapseError):
    """What the daemon answered; `code` is the problem's."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message, remedy=problem.remedy)
        self.problem = problem


class SseParser:
    """Server-sent events from lines. Source: https://html.spec.whatwg.org (section 9.2)."""

    def __init__(self) -> None:
        self._kind, self._data = "", ""

    def feed(self, line: str) -> tuple[str, str] | None:
        """(kind, data) when `line` ends an event."""
        if line.startswith("event: "):
            self._kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            self._data += line.removeprefix("data: ")
        elif not line and self._data:
            found, self._kind, self._data = (self._kind, self._data), "", ""
            return found
        return None


class Client:
    """A daemon's control socket, synchronously. Use it in a `with` block."""

    def __init__(self, socket: Path, timeout: float) -> None:
        self._socket = socket
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)),
            base_url="http://synapsed",
            timeout=httpx.Timeout(timeout, connect=CONNECT_S),
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(
        self, method: str, path: str, kind: type[T], body: object = None, /, **query: str | bool
    ) -> T:
        """The answer, as `kind`."""
        with _told(self._socket):
            answer = self._http.request(
                method, path, params=query, content=_encoded(body), headers=_JSON
            )
            return _decoded(answer, kind)

    def text(self, path: str) -> str:
        """The answer, as text."""
        with _told(self._socket):
            answer = self._http.get(path)
            _check(answer)
            return answer.text

    def download(self, path: str, sink: Writable) -> int:
        """The answer's bytes into `sink`, as they come; how many they were."""
        size = 0
        with (
            _told(self._socket),
            self._http.stream("GET", path, timeout=_STREAM) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                answer.read()
            _check(answer)
            for piece in answer.iter_bytes():
                size += sink.write(piece)
        return size

    def work(
        self, path: str, kind: type[T], body: object, watch: Watch, /, **query: str | bool
    ) -> T:
        """Long work: `watch` gets its progress; its result, as `kind`."""
        outcome = _Outcome(kind, watch)
        with _told(self._socket):
            for event, data in self._frames("POST", path, body, query):
                outcome.take(event, data)
        return outcome.result()

    def talk(self, path: str, kind: type[T], body: object, tell: Callable[[str], None], /) -> T:
        """Text as it comes, a `piece` at a time to `tell`; all of it at last, as `kind`."""
        outcome = _Outcome(kind, lambda _: None)
        with _told(self._socket):
            for event, data in self._frames("POST", path, body, {}):
                if event == "piece":
                    tell(msgspec.json.decode(data, type=Piece).text)
                outcome.take(event, data)
        return outcome.result()

    def events(self, prefix: str, tell: Callable[[EventInfo], None]) -> None:
        """`tell` each of the daemon's events from now on, until it raises."""
        for _, data in self._frames("GET", "/v1/events", None, {"kind": prefix}):
            with _told(self._socket):
                event = msgspec.json.decode(data, type=EventInfo)
            tell(event)

    def _frames(
        self, method: str, path: str, body: object, query: dict[str, str | bool]
    ) -> Iterator[tuple[str, str]]:
        with (
            _told(self._socket, _KEPT if method == "POST" else _GONE),
            self._http.stream(
                method, path, params=query, content=_encoded(body), headers=_JSON, timeout=_STREAM
            ) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                answer.read()
            _check(answer)
            parser = SseParser()
            for line in answer.iter_lines():
                if (event := parser.feed(line)) is not None:
                    yield event


class AsyncClient:
    """The same under trio. Use it in an `async with` block."""

    def __init__(self, socket: Path, timeout: float) -> None:
        self._socket = socket
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)),
            base_url="http://synapsed",
            timeout=httpx.Timeout(timeout, connect=CONNECT_S),
        )

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(
        self, method: str, path: str, kind: type[T], body: object = None, /, **query: str | bool
    ) -> T:
        """The answer, as `kind`."""
        with _told(self._socket):
            answer = await self._http.request(
                method, path, params=query, content=_encoded(body), headers=_JSON
            )
            return _decoded(answer, kind)

    async def work(
        self, path: str, kind: type[T], body: object, watch: Watch, /, **query: str | bool
    ) -> T:
        """Long work: `watch` gets its progress; its result, as `kind`."""
        outcome = _Outcome(kind, watch)
        await self._frames("POST", path, body, query, outcome.take)
        return outcome.result()

    async def events(self, prefix: str, tell: Callable[[EventInfo], None]) -> None:
        """`tell` each of the daemon's events from now on, until cancelled."""

        def take(_event: str, data: str) -> None:
            tell(msgspec.json.decode(data, type=EventInfo))

        await self._frames("GET", "/v1/events", None, {"kind": prefix}, take)

    async def _frames(
        self,
        method: str,
        path: str,
        body: object,
        query: dict[str, str | bool],
        take: Callable[[str, str], None],
    ) -> None:
        """`take` all of a stream. (A generator that is left early must not be left to trio.)"""
        with _told(self._socket, _KEPT if method == "POST" else _GONE):
            async with self._http.stream(
                method, path, params=query, content=_encoded(body), headers=_JSON, timeout=_STREAM
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    await answer.aread()
                _check(answer)
                parser = SseParser()
                async for line in answer.aiter_lines():
                    if (event := parser.feed(line)) is not None:
                        take(*event)


class _Outcome(Generic[T]):
    """What a stream of long work comes to."""

    def __init__(self, kind: type[T], watch: Watch) -> None:
        self._kind = kind
        self._watch = watch
        self._found: T | Problem | None = None

    def take(self, event: str, data: str) -> None:
        """One event of the stream."""
        if event == "progress":
            self._watch(msgspec.json.decode(data, type=Progress))
        elif event == "error":
            self._found = msgspec.json.decode(data, type=Problem)
        elif event == "result":
            self._found = msgspec.json.decode(data, type=self._kind)

    def result(self) -> T:
        """The result, at the stream's end. Raises DaemonError, NoDaemonError."""
        if isinstance(self._found, Problem):
            raise DaemonError(self._found)
        if self._found is None:
            raise NoDaemonError("the daemon stopped before the work was done", remedy=_KEPT)
        return self._found


_STREAM = httpx.Timeout(STREAM_S, connect=CONNECT_S)
_JSON = {"content-type": "application/json"}

_GONE = "look at its log, and start it again if need be"
_KEPT = "start it again and repeat the command: what has arrived is kept"


def _encoded(body: object) -> bytes | None:
    return msgspec.json.encode(body) if body is not None else None


def _decoded(answer: httpx.Response, kind: type[T]) -> T:
    _check(answer)
    return msgspec.json.decode(answer.content, type=kind)


def _check(answer: httpx.Response) -> None:
    if not answer.is_success:
        raise DaemonError(msgspec.json.decode(answer.content, type=Problem))


@contextmanager
def _told(socket: Path, gone: str = _GONE) -> Iterator[None]:
    """httpx's and msgspec's errors as ours; `gone` is what to do where the daemon ended."""
    try:
        yield
    except msgspec.DecodeError as error:
        raise NotADaemonError(
            f"what listens at {socket} does not answer as a synapsed of this version: {error}",
            remedy="is it another program's socket, or a daemon of before an update? restart it",
        ) from error
    except UnicodeEncodeError as error:
        raise NotTextError(
            f"{error.object!a} is not UTF-8 text, and no path or name can be sent otherwise",
            remedy="rename the file, or set the locale to a UTF-8 one",
        ) from error
    except httpx.ConnectTimeout as error:
        raise TimedOutError(
            f"the daemon at {socket} does not accept connections",
            remedy="is it stopped or overloaded? its log may say",
        ) from error
    except httpx.ConnectError as error:
        raise NoDaemonError(
            f"no daemon listens at {socket}",
            remedy="start it with: synapsed run (or name another with --home or --socket)",
        ) from error
    except httpx.TimeoutException as error:
        raise TimedOutError(
            f"the daemon at {socket} did not answer in time",
            remedy="is it stopped or overloaded? its log may say; --timeout SECONDS gives it more",
        ) from error
    except httpx.TransportError as error:
        raise NoDaemonError(
            f"the daemon at {socket} stopped, or closed the connection", remedy=gone
        ) from error
