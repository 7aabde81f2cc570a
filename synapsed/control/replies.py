"""Reading requests and writing replies: what every handler of routes.py does the same way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import trio
from fastapi import FastAPI, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette import status
from starlette.exceptions import HTTPException
from starlette.responses import Response

from protocols.errors import MalformedError, SynapseError
from protocols.peerid import parse_peer_id
from synapsed.control import schema
from synapsed.control.fields import CID_PATTERN, IN_PATHS
from synapsed.control.gate import problem_response
from synapsed.control.models import Problem
from synapsed.control.problems import (
    InvalidError,
    NotWritableError,
    TimedOutError,
    UnknownError,
    first_typed,
    http_problem,
)
from synapsed.control.wording import in_words

BRIEF_S = 20.0
"""For what should take milliseconds; a ping that must dial first has 10 s of its own."""

CidInPath = Annotated[str, InPath(pattern=CID_PATTERN, description="A content id.")]

SHAPES = "docs/cli.md has examples, and /openapi.json the shape of every request"


def reply(value: object, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """TimedOutError where the block takes longer."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise TimedOutError(
            f"no answer within {seconds:g} s", remedy="is the disk or the peer stuck? try again"
        )


async def body_as(request: Request, kind: Any, *, absent: bytes = b"") -> Any:
    """The request's body as `kind`: MalformedError if it is not JSON, InvalidError if it differs.

    `absent` stands for a body that is empty.
    """
    data = await request.body() or absent
    if not data:
        raise MalformedError("this request needs a JSON body", remedy=SHAPES)
    try:
        return _decoded(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidError(in_words(str(error)), remedy=SHAPES) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedError(f"the request's body is not JSON: {error}") from error


def _decoded(data: bytes, kind: Any) -> Any:
    """JSON has one kind of number: where a whole one is wanted, 3.0 is as good as 3."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        try:
            return msgspec.convert(_whole(msgspec.json.decode(data)), kind)
        except (msgspec.ValidationError, RecursionError):
            raise error from None


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return value


async def path_of(text: str, *, to_write: bool = False) -> Path:
    """An absolute path of what is there, or `to_write` in a folder that is.

    UnknownError, NotWritableError.
    """
    path = Path(text)
    try:
        await trio.Path(path.parent if to_write else path).stat()
        with suppress(FileNotFoundError):
            await trio.Path(path).stat()  # a name that no file system takes
    except OSError as error:
        raise UnknownError(
            f"{text[:500]}: {error.strerror}",
            remedy="give an absolute path on the daemon's machine that its user can reach",
        ) from error
    if to_write and not os.access(path.parent, os.W_OK):
        raise NotWritableError(
            f"the daemon may not write in {str(path.parent)[:500]}",
            remedy="choose another folder, or let its user; a systemd unit has ReadWritePaths=",
        )
    return path


def peer_of(text: str) -> bytes:
    """The peer id in `text`. UnknownError: what is no id is no peer either."""
    try:
        return parse_peer_id(text)
    except MalformedError as error:
        raise UnknownError(error.message, remedy="synapsectl peers --all lists them") from error


async def _typed(_request: Request, error: Exception) -> Response:
    typed = first_typed(error)
    if typed is None:
        raise error
    return problem_response(typed)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if request.method not in schema.methods_of(request.app, request.url.path):
        # GET /v1/models/import is not the model `import`: that path takes POST alone.
        return await _http(request, HTTPException(status.HTTP_405_METHOD_NOT_ALLOWED))
    where = " ".join(str(part) for part in first["loc"])
    expected = IN_PATHS.get(first.get("ctx", {}).get("pattern", ""))
    what = f"expected {expected}" if expected is not None else first["msg"]
    problem = Problem(error="invalid", message=f"{where}: {what}", remedy=SHAPES, status=422)
    return reply(problem, problem.status)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = reply(http_problem(error.status_code, str(error.detail)), error.status_code)
    if error.status_code == status.HTTP_405_METHOD_NOT_ALLOWED:
        # Starlette's own names the methods of one route only, and a path may have two.
        answer.headers["allow"] = ", ".join(schema.methods_of(request.app, request.url.path))
    return answer


async def _defect(_request: Request, error: Exception) -> Response:
    problem = Problem(
        error="defect",
        message=f"a defect of the daemon: {type(error).__name__}",
        remedy="the daemon's log has the details; please report them",
    )
    return reply(problem, problem.status)


def answer_errors(app: FastAPI) -> None:
    """Give every error that a handler raises the one JSON shape."""
    app.add_exception_handler(SynapseError, _typed)
    app.add_exception_handler(ExceptionGroup, _typed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)
