"""The OpenAPI document: paths from FastAPI's routes, shapes from the msgspec structs."""

import re
from typing import Any, get_args

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from synapsed.control import ledgermodels, models, upgrademodels
from synapsed.training import said

_JSON = "application/json"
BINARY = "application/octet-stream"
_REF = "#/components/schemas/{name}"

_MEANINGS = {
    400: "Malformed: not JSON, or not an id.",
    403: "Refused by policy or by file permissions.",
    404: "Not here.",
    408: "The body did not arrive in time.",
    409: "What is there already forbids it.",
    413: "The body is too large.",
    422: "Well formed, and a value is not allowed.",
    429: "More than a day's quota.",
    500: "A defect of the daemon, or a failing disk.",
    502: "A peer failed.",
    503: "Paused, or busy.",
    504: "It took too long.",
    507: "The quota or the disk is full.",
}
_ALWAYS = (422, 500, 504)
_WITH_BODY = (400, 408, 413, 422)
LONG_WORK = (400, 403, 404, 409, 502, 503, 507)
"""What long work may answer instead of a stream, when it fails before its first progress."""


def route(
    result: type | None,
    *,
    body: Any = None,
    body_required: bool = True,
    stream: bool = False,
    pieces: type | None = None,
    file: str = "",
    status: int = 200,
    fails: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Keyword arguments of a FastAPI route: what it takes, answers, and how it may fail.

    `result` None is plain text, or the bytes of `file` (what they are); with `stream` it is
    what the stream's last event carries, after `progress` or, where there are, `pieces`.
    """
    if body is not None:
        fails = (*fails, *_WITH_BODY)
    success = _file(file) if file else _success(result, stream, pieces)
    responses: dict[int | str, dict[str, Any]] = {status: success}
    for code in sorted({*fails, *_ALWAYS}):
        responses[code] = {"description": _MEANINGS[code], "content": _json(models.Problem)}
    extra: dict[str, Any] = {"status_code": status, "responses": responses}
    if body is not None:
        extra["openapi_extra"] = {
            "requestBody": {"required": body_required, "content": _json(body)}
        }
    return extra


def _success(result: type | None, stream: bool, pieces: type | None) -> dict[str, Any]:
    if stream and result is not None:
        kinds = ["progress" if pieces is None else "piece", "result", "error"]
        before = models.Progress if pieces is None else pieces
        said = f"Server-sent events: `{kinds[0]}` ({before.__name__}), then `result` "
        said += f"({result.__name__})"
        return {"description": f"{said} or `error` (Problem).", "content": _events(kinds)}
    if stream:
        return {"description": "Server-sent events (EventInfo).", "content": _events(None)}
    if result is None:
        content = {"text/plain": {"schema": {"type": "string"}}}
        return {"description": "Prometheus text.", "content": content}
    return answer(result)


def _file(what: str) -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"}
    return {"description": what, "content": {BINARY: {"schema": schema}}}


def answer(result: type) -> dict[str, Any]:
    """The response that carries one struct."""
    return {"description": (result.__doc__ or "").strip(), "content": _json(result)}


def _events(kinds: list[str] | None) -> dict[str, Any]:
    """One event of a stream; its data is JSON."""
    kind = {"type": "string"} if kinds is None else {"type": "string", "enum": kinds}
    properties = {"event": kind, "data": {"type": "string", "contentMediaType": _JSON}}
    event = {"type": "object", "properties": properties, "required": ["event", "data"]}
    return {"text/event-stream": {"schema": event}}


def _json(kind: Any) -> dict[str, Any]:
    """A struct by reference; a union of tagged ones as OpenAPI's oneOf."""
    parts = get_args(kind) or (kind,)
    references = [{"$ref": _REF.format(name=part.__name__)} for part in parts]
    schema = references[0] if len(references) == 1 else {"oneOf": references}
    return {_JSON: {"schema": schema}}


def methods_of(app: FastAPI, path: str) -> list[str]:
    """The methods that a path takes, by the document; for the Allow header."""
    paths = app.openapi()["paths"]
    templates = [path] if path in paths else paths
    for template in templates:
        if re.fullmatch(re.sub(r"{[^}]+}", "[^/]+", template), path):
            return sorted(method.upper() for method in paths[template])
    return []


def document(app: FastAPI) -> dict[str, Any]:
    """The whole OpenAPI 3.1 document."""
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    structs = [
        value
        for module in (models, ledgermodels, upgrademodels, said)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == module.__name__
        and value.__struct_fields__  # which the bases have not
    ]
    _, schemas = msgspec.json.schema_components(structs, ref_template=_REF)
    found["components"] = {"schemas": dict(sorted(schemas.items()))}
    return found
