"""Reading what the owner wrote: manifests to announce, and proposals."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import typer

from protocols.errors import MalformedError


def read_manifest(file: Path) -> dict[str, Any]:
    """The object of named fields in `file`: TOML by its name, else JSON; - is stdin."""
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = data.decode()
        body = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise MalformedError(
            f"{file} is not {'TOML' if file.suffix == '.toml' else 'JSON'}: {why}",
            remedy="docs/cli.md has an example of each manifest",
        ) from error
    if not isinstance(body, dict):
        raise MalformedError(
            f"{file} holds no object of named fields", remedy="docs/cli.md has an example of each"
        )
    return body
