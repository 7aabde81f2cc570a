"""What a mutant is, and how it is put into a copy of the source.

Rules of this file:
1. The old text stands exactly once in its file; otherwise the source has moved and the mutant
   must be written anew.
2. A mutated file still compiles: a bug that breaks the import proves nothing about the checks.
"""

from pathlib import Path

import msgspec

from protocols.errors import SynapseError
from tests.mutants.catchers import Catcher


class MutantError(SynapseError):
    """A mutant that does not fit the source, or a catcher that broke."""

    code = "mutant"


class Change(msgspec.Struct, frozen=True):
    """One replacement in one file; the path is from the repository's root."""

    file: str
    old: str
    new: str


class Mutant(msgspec.Struct, frozen=True):
    """One bug: what it drops, where, and what is to catch it, cheap ones first."""

    name: str
    drops: str
    changes: tuple[Change, ...]
    caught_by: tuple[Catcher, ...]


def apply(mutant: Mutant, root: Path) -> None:
    """Put the bug into the source under `root`. Raises MutantError, and has then done nothing."""
    for path, text in mutated(mutant, root).items():
        path.write_text(text, encoding="utf-8")
        # Python compares times of whole seconds and sizes: an old compiled file may look fresh.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


def mutated(mutant: Mutant, root: Path) -> dict[Path, str]:
    """The files that the mutant changes, as they are with the bug."""
    texts: dict[Path, str] = {}
    for change in mutant.changes:
        path = root / change.file
        if not path.is_file():
            raise MutantError(f"{mutant.name}: there is no {change.file}")
        text = texts.get(path) or path.read_text(encoding="utf-8")
        found = text.count(change.old)
        if found != 1:
            raise MutantError(
                f"{mutant.name}: its old text stands {found} times in {change.file}, not once",
                remedy="the source has moved: write the mutant anew",
            )
        texts[path] = text.replace(change.old, change.new)
        _check_compiles(mutant, change, texts[path])
    return texts


def _check_compiles(mutant: Mutant, change: Change, text: str) -> None:
    if change.old == change.new:
        raise MutantError(f"{mutant.name}: it changes nothing")
    try:
        compile(text, change.file, "exec")
    except SyntaxError as error:
        raise MutantError(f"{mutant.name}: {change.file} does not compile: {error}") from error
