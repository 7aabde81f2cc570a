"""On which line of a TOML file each key stands, which tomllib does not tell.

A statement ends at the first line end at which what was read so far parses, so tomllib's own
grammar decides about multi-line arrays and strings; nothing of TOML is parsed again here.
"""

import tomllib
from collections.abc import Iterator
from typing import Any


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Line number (from 1) of every key and table of a *valid* TOML document."""
    found: dict[tuple[str, ...], int] = {}
    prefix: tuple[str, ...] = ()
    for number, statement in _statements(text.split("\n")):
        # A header alone parses to empty tables: its deepest path is where the next keys go.
        paths = list(_paths(tomllib.loads(statement)))
        if statement.lstrip().startswith("["):
            prefix = paths[-1]
            found.setdefault(prefix, number)
        else:
            for path in paths:
                found.setdefault(prefix + path, number)
    return found


def _statements(lines: list[str]) -> Iterator[tuple[int, str]]:
    at = 0
    while at < len(lines):
        end = at + 1
        if lines[at].strip() and not lines[at].lstrip().startswith("#"):
            while end < len(lines) and not _parses("\n".join(lines[at:end])):
                end += 1
            yield at + 1, "\n".join(lines[at:end])
        at = end


def _parses(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _paths(table: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (*above, key)
        is_array_of_tables = isinstance(value, list) and value and isinstance(value[0], dict)
        inner = value[0] if is_array_of_tables else value
        if isinstance(inner, dict):
            yield from _paths(inner, (*above, key))
