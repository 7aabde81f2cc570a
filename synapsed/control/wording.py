"""What msgspec found wrong with a request, in words for whoever wrote it.

msgspec says "Expected `str` of length <= 128 - at `$.name`"; a person is told "name: at most 128
characters". What is not known here keeps msgspec's own words.
"""

import re

from synapsed.control.fields import WORDS

_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>[^`]*)`)?", re.DOTALL)

_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object of named fields",
    "null": "nothing",
}
_UNITS = {"str": ("character", "characters"), "array": ("entry", "entries")}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}

_SAID: tuple[tuple[str, str], ...] = (
    (r"Expected `(?P<kind>str|array)` of length (?P<bound>[<>]=?) (?P<limit>\d+)", "length"),
    (r"Expected `(?:int|float)` (?P<bound>[<>]=?) (?P<limit>\S+)", "range"),
    (r"Expected `(?P<kind>[a-z | ]+)`, got `(?P<found>[a-z]+)`", "kind"),
    (r"Object missing required field `(?P<field>.*)`", "missing"),
    (r"Object contains unknown field `(?P<field>.*)`", "unknown"),
)
_FORMS = tuple((re.compile(pattern, re.DOTALL), form) for pattern, form in _SAID)


def in_words(error: str) -> str:
    """`error` (the text of a msgspec.ValidationError) as `PLACE: what is expected there`."""
    parts = _PLACE.fullmatch(error)
    what, where = (parts["what"], parts["where"]) if parts is not None else (error, None)
    return f"{where}: {_plain(what)}" if where else _plain(what)


def _plain(what: str) -> str:
    for pattern, words in WORDS.items():
        if repr(pattern) in what:
            return f"expected {words}"
    for form, name in _FORMS:
        found = form.fullmatch(what)
        if found is not None:
            return _form(name, found.groupdict())
    return what


def _form(name: str, found: dict[str, str]) -> str:
    if name == "length":
        one, several = _UNITS[found["kind"]]
        unit = one if found["limit"] == "1" else several
        return f"{_BOUNDS[found['bound']]} {found['limit']} {unit}"
    if name == "range":
        return f"expected {_BOUNDS[found['bound']]} {found['limit'].removesuffix('.0')}"
    if name == "kind":
        kinds = " or ".join(_KINDS.get(kind, kind) for kind in found["kind"].split(" | "))
        return f"expected {kinds}, found {_KINDS.get(found['found'], found['found'])}"
    if name == "missing":
        return f"{found['field']!r} is missing"
    return f"{found['field']!r} is not a field of this"
