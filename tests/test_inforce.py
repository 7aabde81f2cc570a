"""What holds: the owner's word, then the network's, then what is built in."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocols.ledger.params import defaults
from protocols.ledger.state import Origin
from synapsed.config.inforce import InForce
from synapsed.config.load import load
from synapsed.config.options import Loaded

UPLOAD, DOWNLOAD = "limits.upload", "limits.download"
UNSAID = {DOWNLOAD: "0 (default)"}
"""What holds where nobody said anything about downloads."""
BUILT_IN = 2_500_000


def ledger(value: int | None = None, index: int = 0, name: str = UPLOAD) -> Any:
    """A ledger that states a value, by an entry where `index` says so."""
    stated = defaults() | ({name: value} if value is not None else {})
    origins = {name: Origin(index, b"c" * 36)} if index else {}
    return cast(Any, SimpleNamespace(params=stated, origins=origins))


def force(env: dict[str, str] | None = None) -> tuple[InForce, list[tuple[str, int]]]:
    applied: list[tuple[str, int]] = []
    loaded: Loaded = load(None, env or {})
    return InForce(loaded, lambda name, value: applied.append((name, value))), applied


def test_without_any_word_the_built_in_holds() -> None:
    holds, applied = force()
    holds.advanced(ledger())
    assert (holds.value(UPLOAD), holds.origin(UPLOAD), applied) == (BUILT_IN, "default", [])


def test_a_parameter_entry_is_applied_once() -> None:
    holds, applied = force()
    for _ in range(3):
        holds.advanced(ledger(7, index=12))
    assert (holds.value(UPLOAD), holds.origin(UPLOAD)) == (7, "ledger 12")
    assert applied == [(UPLOAD, 7)]
    holds.advanced(ledger(8, index=40))
    assert holds.origin(UPLOAD) == "ledger 40"
    assert applied == [(UPLOAD, 7), (UPLOAD, 8)]
    assert holds.local() == UNSAID
    holds.advanced(ledger(9, index=41, name=DOWNLOAD))
    assert (holds.value(DOWNLOAD), holds.origin(DOWNLOAD)) == (9, "ledger 41")
    assert applied[2:] == [(DOWNLOAD, 9)]
    assert holds.local() == {}


def test_the_genesis_counts_where_it_differs_from_every_versions_default() -> None:
    holds, applied = force()
    holds.advanced(ledger(9))
    assert (holds.value(UPLOAD), holds.origin(UPLOAD)) == (9, "genesis")
    assert applied == [(UPLOAD, 9)]


@pytest.mark.parametrize("profile", ["server", "lab"])
def test_a_profile_gives_way_to_what_was_ratified_only(profile: str) -> None:
    holds, applied = force({"SYNAPSED_PROFILE": profile})
    holds.advanced(ledger())
    assert (holds.value(UPLOAD), holds.origin(UPLOAD)) == (0, f"profile {profile}")
    assert holds.local() == {UPLOAD: f"0 (profile {profile})"} | UNSAID
    holds.advanced(ledger(7, index=3))
    assert (holds.value(UPLOAD), holds.origin(UPLOAD)) == (7, "ledger 3")
    assert applied == [(UPLOAD, 7)]


def test_the_owners_setting_stands_over_the_ratified_one() -> None:
    holds, applied = force({"SYNAPSED_LIMITS__UPLOAD": "9 MB/s"})
    holds.advanced(ledger(7, index=3))
    assert (holds.value(UPLOAD), holds.origin(UPLOAD)) == (
        9_000_000,
        "env SYNAPSED_LIMITS__UPLOAD",
    )
    assert applied == []
    assert holds.local() == {UPLOAD: "9000000 (env SYNAPSED_LIMITS__UPLOAD)"} | UNSAID
    assert holds.ratified[UPLOAD].index == 3


def test_the_command_stands_over_everything_until_the_restart() -> None:
    holds, applied = force()
    holds.set_own(UPLOAD, 5)
    holds.advanced(ledger(7, index=3))
    assert (holds.value(UPLOAD), holds.origin(UPLOAD)) == (5, "limits")
    assert applied == [(UPLOAD, 5)]
