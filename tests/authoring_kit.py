"""What tests of authoring share: the examples, a jail, and compilers that may be missing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protocols.slots.closed_list import SLOTS
from synapsed.authoring.languages import LANGUAGES
from synapsed.authoring.question import Question
from synapsed.authoring.tools import MissingToolError
from synapsed.jail.jail import Jail

EXAMPLES = Path(__file__).parent.parent / "examples" / "upgrades"
SOURCES = sorted(
    path for language in LANGUAGES.values() for path in EXAMPLES.glob(f"*/*{language.suffix}")
)
WAT = EXAMPLES / "wat" / "peer_scoring.wat"


def need(language: str) -> None:
    """Skip the test where the language's compiler is not here."""
    tool = LANGUAGES[language].tool
    try:
        if tool is not None:
            tool()
    except MissingToolError as error:
        pytest.skip(str(error))


@asynccontextmanager
async def a_jail(folder: Path) -> AsyncIterator[Jail]:
    """A jail whose worker ends with the block."""
    jail = Jail(folder, lambda *_, **__: None, allow_weaker=True)
    try:
        yield jail
    finally:
        jail.close()


def question(module: bytes, slot: str = "peer_scoring", **more: object) -> Question:
    """A quick check: a fortieth of the rows, the same inputs each time."""
    known: dict[str, object] = {"seed": "test", "rows": 5_000, "timing": False}
    if "limits" not in more:
        known["limits"] = SLOTS[slot].limits
    return Question(slot=slot, module=module, **(known | more))  # type: ignore[arg-type]
