"""Reading the configuration: default, profile, file, environment, each over the one before.

Every key is checked alone and every mistake is reported at once: its place, what was found, what
was expected, and what was probably meant.
"""

import difflib
import json
import os
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from protocols.errors import SynapseError
from synapsed.config.addresses import Address, IpText
from synapsed.config.options import (
    MIN_QUOTA,
    PROFILES,
    Config,
    Loaded,
    is_table,
    plain,
    schema,
    value_at,
)
from synapsed.config.quantities import Rate, Seconds, Size
from synapsed.config.tomllines import key_lines
from synapsed.paths import PathError

MAX_CONFIG_FILE = 64 << 10
"""Bytes: ten times the commented default; anything larger is not a config."""

ENV_PREFIX = "SYNAPSED_"
ENV_PLACES = frozenset({"SYNAPSED_HOME", "SYNAPSED_CONFIG"})
"""Variables that say where things are, and so cannot stand in the file."""

FILE_HEAD = """\
# The configuration of synapsed. A line that begins with `# key =` shows what holds without it.
# Any key can be set by a variable as well: SYNAPSED_NET__LISTEN for listen in [net]. Variables win.
# `synapsectl config show --origin` tells what holds now, and why."""

S = TypeVar("S", bound=msgspec.Struct)

_PARSED = (Size, Rate, Seconds, Address, IpText)


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with the configuration."""

    where: str
    key: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.key}: found {self.found}, expected {self.expected}"
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(SynapseError):
    """The configuration cannot be used; `problems` has every reason."""

    code = "bad-config"

    def __init__(self, problems: list[Problem]) -> None:
        lines = [str(problem) for problem in problems]
        super().__init__("\n".join(lines), remedy="")
        self.problems = problems


_FIELDS = dict(schema())
_SECTIONS = tuple(dict.fromkeys(key.rpartition(".")[0] for key in _FIELDS if "." in key))
"""Tables of the file, those in tables too: `net`, `upgrades.slots`."""


def load(path: Path | None, env: Mapping[str, str]) -> Loaded:
    """The configuration in `path` (None: no file) under the overrides in `env`.

    Raises ConfigError with every problem at once.
    """
    problems: list[Problem] = []
    entries = [*_from_file(path, problems), *_from_env(env, problems)]
    values, origins = _convert_all(entries, problems)
    loaded = assemble(values.get("profile", "home"), values, origins, path)
    problems += _validate(loaded)
    if problems:
        raise ConfigError(problems)
    return loaded


def _convert_all(
    entries: Iterable[tuple[str, str, Any]], problems: list[Problem]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and origins by key of (origin, key, raw value); later ones win."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for where, key, raw in entries:
        try:
            values[key] = _convert(_FIELDS[key].type, raw)
            origins[key] = where
        except (msgspec.ValidationError, ValueError) as error:
            expected = expected_of(_FIELDS[key].type)
            problems.append(Problem(where, key, _shown(raw), expected, _why(error)))
    return values, origins


def assemble(
    profile: str, values: Mapping[str, Any], origins: Mapping[str, str], path: Path | None
) -> Loaded:
    """`values` (converted, by dotted key) over the profile over the defaults."""
    every: dict[str, Any] = {}
    where = dict(origins)
    for key, field in _FIELDS.items():
        if key in values:
            every[key] = values[key]
        elif key in PROFILES[profile]:
            every[key], where[key] = PROFILES[profile][key], f"profile {profile}"
        else:
            every[key], where[key] = field.default, "default"
    return Loaded(_table(Config, every), where, path)


def _table(kind: type[S], every: Mapping[str, Any], start: str = "") -> S:
    """A table of the file, with the tables in it, from values by dotted key."""
    values = {
        field.name: _table(field.type, every, f"{start}{field.name}.")
        if is_table(field.type)
        else every[start + field.name]
        for field in msgspec.structs.fields(kind)
    }
    return kind(**values)


def _validate(loaded: Loaded) -> list[Problem]:
    """What no single key can tell alone."""
    config = loaded.config
    net, interval = config.net, config.liveness.interval
    rules = (
        ("store.quota", config.store.quota >= MIN_QUOTA, f"at least {MIN_QUOTA.text()}"),
        ("net.target_peers", net.target_peers <= net.max_connections, "at most max_connections"),
        ("net.bootstrap", all(a.peer for a in net.bootstrap), "each with its /p2p/PEER-ID"),
        ("net.listen", all(a.peer is None for a in net.listen), "addresses without /p2p/"),
        ("net.score_interval", 0.05 <= net.score_interval <= 600, "0.05 s to 600 s"),
        ("liveness.interval", 0.1 <= interval <= 600, "0.1 s to 600 s"),
        (
            "replication.probe_interval",
            1 <= config.replication.probe_interval <= 86400,
            "1 s to 1 day",
        ),
        ("training.beat", 0.05 <= config.training.beat <= 60, "0.05 s to 60 s"),
        ("training.probe", config.training.probe[:1] in ("", "/"), "an absolute path"),
    )
    return [
        Problem(loaded.origins[key], key, _shown(plain(value_at(config, key))), expected)
        for key, holds, expected in rules
        if not holds
    ]


def _from_file(path: Path | None, problems: list[Problem]) -> list[tuple[str, str, Any]]:
    """(origin, key, raw value) of every known key in the file."""
    if path is None:
        return []
    text = _read(path, problems)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        line = at[1] if at else text.count("\n") + 1
        problems.append(Problem(f"{path}:{line}", "syntax", str(error), "a TOML document"))
        return []
    lines = key_lines(text)
    found = []
    for key, raw in _flatten(document):
        where = f"{path}:{lines.get(tuple(key.split('.')), lines.get((key.split('.')[0],), 1))}"
        if key in _FIELDS:
            found.append((where, key, raw))
        elif key in _SECTIONS:
            problems.append(Problem(where, key, _shown(raw), f"a table [{key}]"))
        else:
            problems.append(Problem(where, key, "an unknown key", _known_beside(key), near(key)))
    return found


def _read(path: Path, problems: list[Problem]) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_FILE + 1)
        if len(data) > MAX_CONFIG_FILE:
            problems.append(
                Problem(str(path), "file", "a larger one", f"at most {MAX_CONFIG_FILE} bytes")
            )
            return ""
        return data.decode()
    except OSError as error:
        hint = "`synapsed init` writes one" if isinstance(error, FileNotFoundError) else ""
        problems.append(
            Problem(str(path), "file", error.strerror or str(error), "a readable file", hint)
        )
    except UnicodeDecodeError as error:
        problems.append(
            Problem(str(path), "file", f"byte {error.start} is not UTF-8", "UTF-8 text")
        )
    return ""


def _flatten(document: dict[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys; an unknown table is one unknown key, not one for each of its keys."""
    for name, value in document.items():
        key = start + name
        if key in _SECTIONS and isinstance(value, dict):
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _from_env(env: Mapping[str, str], problems: list[Problem]) -> list[tuple[str, str, Any]]:
    found = []
    for name in sorted(env):
        if not name.startswith(ENV_PREFIX) or name in ENV_PLACES:
            continue
        key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        if key not in _FIELDS:
            hint = near(key, say=env_name)
            problems.append(
                Problem(f"env {name}", key, "an unknown key", "the name of a key", hint)
            )
            continue
        found.append((f"env {name}", key, _from_text(_FIELDS[key].type, env[name])))
    return found


def env_name(key: str) -> str:
    """The variable that overrides a dotted key."""
    return ENV_PREFIX + key.replace(".", "__").upper()


def _bare(kind: Any) -> Any:
    """A field's type without its Annotated shell."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _from_text(kind: Any, text: str) -> Any:
    """A variable's text as what the file would have held; lists may be comma-separated."""
    kind = _bare(kind)
    if kind in (int, bool):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if get_origin(kind) is tuple:
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _convert(kind: Any, raw: Any) -> Any:
    def parse(wanted: type, value: Any) -> Any:
        if wanted not in _PARSED:
            raise NotImplementedError(f"no parser for {wanted}")
        return wanted.parse(value)

    return msgspec.convert(raw, kind, dec_hook=parse)


def expected_of(kind: Any) -> str:
    """What a key takes, in words."""
    meta = next((part for part in get_args(kind)[1:] if isinstance(part, Meta)), Meta())
    kind = _bare(kind)
    if get_origin(kind) is tuple:
        return f"a list of at most {meta.max_length}, each {get_args(kind)[0].expected}"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    if kind in (bool, int):
        return "true or false" if kind is bool else f"a whole number from {meta.ge} to {meta.le}"
    if kind is str:
        named = "lower-case letters, digits, dots and dashes, at most 63"
        return named if meta.pattern else f"text of at most {meta.max_length} bytes"
    return str(kind.expected)


_TOML_NAMES = {str: "text", bool: "a truth value", int: "a number", float: "a number"}


def _shown(raw: Any) -> str:
    kind = _TOML_NAMES.get(type(raw), "a list" if isinstance(raw, list) else "a table")
    if isinstance(raw, dict):
        return kind
    return f"{kind} {json.dumps(raw, default=str, ensure_ascii=False)[:120]}"


def _why(error: Exception) -> str:
    """The parser's own words where they add something to found and expected."""
    text = str(error)
    return "" if text.startswith(("Expected", "Invalid enum")) else text.partition(" - at ")[0]


def near(key: str, say: Callable[[str], str] = str) -> str:
    """`did you mean ...?` for a key or a table that does not exist, or nothing."""
    tables = [] if "." in key else difflib.get_close_matches(key, _SECTIONS, n=1, cutoff=0.7)
    if tables:
        keys = [say(known) for known in _FIELDS if known.startswith(f"{tables[0]}.")]
        return f"did you mean {f'[{tables[0]}]' if say is str else ' or '.join(keys)}?"
    last = key.rpartition(".")[2]
    by_last = {known.rpartition(".")[2]: known for known in _FIELDS}
    close = [by_last[last]] if last in by_last else []
    close = close or difflib.get_close_matches(key, _FIELDS, n=1, cutoff=0.7)
    close = close or [by_last[m] for m in difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)]
    return f"did you mean {say(close[0])}?" if close else ""


def _known_beside(key: str) -> str:
    section, dot, _ = key.rpartition(".")
    if not dot:
        top = [known for known in _FIELDS if "." not in known]
        return "one of " + ", ".join([*top, *(f"[{name}]" for name in _SECTIONS)])
    inner = [known.rpartition(".")[2] for known in _FIELDS if known.rpartition(".")[0] == section]
    return f"one of [{section}]'s " + ", ".join(inner)


def convert_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options by dotted key, checked like the file's; ConfigError."""
    problems: list[Problem] = []
    entries = [(f"option --{key.rpartition('.')[2]}", key, raw) for key, raw in given.items()]
    values, origins = _convert_all(entries, problems)
    problems += _validate(assemble(values.get("profile", "home"), values, origins, None))
    if problems:
        raise ConfigError(problems)
    return values


def write_config(path: Path, chosen: Mapping[str, Any], *, force: bool) -> bool:
    """Write the commented file with `chosen` set; False where one is there that agrees.

    ConfigError where one is there that differs, unless `force`: then it is kept as `.old`.
    PathError where it cannot be written.
    """
    if path.exists() and not force:
        there = load(path, {})
        problems = [
            Problem(
                there.origins[key] if there.origins[key] != "default" else str(path),
                key,
                _shown(plain(value_at(there.config, key))),
                _shown(plain(value)),
                "edit it there, or write the file anew with --force",
            )
            for key, value in chosen.items()
            if value_at(there.config, key) != value
        ]
        if problems:
            raise ConfigError(problems)
        return False
    try:
        _replace(path, render(chosen))
    except OSError as error:
        raise PathError(
            f"cannot write the config {path}: {error.strerror}",
            remedy="choose another place with --config FILE or --home DIR",
        ) from error
    return True


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.chmod(0o600)
    if path.exists():
        path.replace(path.with_name(path.name + ".old"))
    part.replace(path)


def render(chosen: Mapping[str, Any]) -> str:
    """The commented file: `chosen` (converted, by dotted key) set, the rest shown as defaults."""
    loaded = assemble(chosen.get("profile", "home"), chosen, dict.fromkeys(chosen, ""), None)
    out = [FILE_HEAD]
    section = ""
    for key, field in _FIELDS.items():
        table, _, name = key.rpartition(".")
        if table != section:
            section = table
            out.append(f"\n[{table}]")
        meta = next(part for part in get_args(field.type)[1:] if isinstance(part, Meta))
        out += ["", *(f"# {line}" for line in textwrap.wrap(meta.description or "", 88))]
        value = json.dumps(plain(value_at(loaded.config, key)), ensure_ascii=False)
        out.append(f"{'' if key in chosen else '# '}{name} = {value}")
    return "\n".join(out) + "\n"
