"""What may catch a mutant: named tests, and families of the simulator within a budget of seeds.

A catcher is a command that is run in the mutated copy, and a reading of how it ended.
"""

import json
import sys
from typing import Any

import msgspec

BUDGET = 250
"""Seeds of one family: a quarter of what `make test` runs of all together, and some 40 s of one
idle core. What a family does not see within them is left to a scripted test."""

TESTS_LIMIT_S = 180.0
"""For named tests: each ends within pytest's own time-out of 120 s."""

FAMILY_LIMIT_S = 400.0
"""For one family: ten times what BUDGET seeds take on an idle core, for it may be shared."""

PYTEST_PASSED, PYTEST_FAILED = 0, 1
CLEAN, VIOLATED, ABSENT = 0, 1, 3

ACCIDENTS = ("NameError", "UnboundLocalError", "ImportError", "AttributeError", "SyntaxError")
"""How a mutant fails that was written wrongly: it proves nothing about the checks."""


class Verdict(msgspec.Struct, frozen=True):
    """How a catcher ended: it caught something, it did not, or it broke (`caught` is None)."""

    caught: bool | None
    by: str = ""
    seed: int = 0  # the first seed with a violation; 0 for tests


class NamedTests(msgspec.Struct, frozen=True, tag=True):
    """Named tests, as pytest names them from the repository's root."""

    nodes: tuple[str, ...]

    limit_s = TESTS_LIMIT_S

    @property
    def words(self) -> str:
        """For people, and for keeping results."""
        return " ".join(self.nodes)

    def command(self) -> list[str]:
        """What to run in the copy."""
        quiet = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line"]
        return [sys.executable, "-m", "pytest", *quiet, *self.nodes]

    def read(self, status: int, output: str) -> Verdict:
        """What came of it; no test, and one that cannot be imported, is a broken catcher."""
        if status == PYTEST_PASSED:
            return Verdict(False)
        if status != PYTEST_FAILED or any(f": {name}: " in output for name in ACCIDENTS):
            return Verdict(None, _last_words(output))
        failed = [line for line in output.splitlines() if line.startswith("FAILED ")]
        return Verdict(True, failed[0].split()[1] if failed else self.words)


class Family(msgspec.Struct, frozen=True, tag=True):
    """A family of the simulator, stopped at the first violation."""

    name: str
    seeds: int = BUDGET

    limit_s = FAMILY_LIMIT_S

    @property
    def words(self) -> str:
        """For people, and for keeping results."""
        return f"simnet.virtual {self.name}"

    def command(self) -> list[str]:
        """What to run in the copy: on one core, for another mutant has the other."""
        seeds = ["--seeds", f"1-{self.seeds}", "--workers", "1"]
        return [sys.executable, "-m", "simnet.virtual", self.name, *seeds, "--first", "--json"]

    def read(self, status: int, output: str) -> Verdict:
        """What came of it: the last line is a JSON object."""
        try:
            said: dict[str, Any] = json.loads(output.strip().rpartition("\n")[2])
            found: list[dict[str, Any]] = said["violations"]
        except (ValueError, LookupError, TypeError):
            return Verdict(None, _last_words(output))
        if status == CLEAN and not found:
            return Verdict(False)
        absent = said.get("never_happened")
        if status == ABSENT and absent and not found:
            # What a family promises to have happened, such as that liars were found guilty.
            return Verdict(True, f"{self.words}: never {', '.join(absent)}", said["seeds"])
        if status != VIOLATED or not found:
            return Verdict(None, _last_words(output))
        if found[0]["check"] == "crash" and found[0].get("text", "").startswith(ACCIDENTS):
            return Verdict(None, found[0]["text"])
        return Verdict(True, f"{self.words}: {found[0]['check']}", found[0]["seed"])


Catcher = NamedTests | Family


def _last_words(output: str) -> str:
    return output.strip()[-400:] or "it said nothing"
