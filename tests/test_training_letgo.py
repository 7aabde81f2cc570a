"""Checkpoints on the disk of whoever wrote them: kept while something needs them, and no longer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocols.changes import CheckpointChange
from protocols.cid import cid_of
from synapsed.store import Store
from synapsed.store.reasons import CHECKPOINT, IMPORTED
from synapsed.training.letgo import ON_ITS_WAY_S, LetGo

FIRST, SECOND, THIRD, OTHER = (cid_of(name) for name in (b"1", b"2", b"3", b"other"))


class Ledger:
    """What letgo.py looks at of a ledger's state."""

    def __init__(self) -> None:
        self.open: dict[bytes, Any] = {}
        self.trainings = {OTHER: SimpleNamespace(chain=())}

    def opens(self, manifest: bytes) -> None:
        change = CheckpointChange(
            training=OTHER, parent=OTHER, manifest=manifest, evidence=OTHER, heads=bytes(32),
            shares=(),
        )  # fmt: skip
        terms = SimpleNamespace(manifest=SimpleNamespace(change=change))
        self.open[manifest] = SimpleNamespace(terms=terms)

    def ratifies(self, *manifests: bytes) -> None:
        chain = tuple(SimpleNamespace(manifest=each) for each in manifests)
        self.trainings = {OTHER: SimpleNamespace(chain=chain)}
        self.open.clear()


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = Store.open(tmp_path, 1 << 20)
    yield made
    made.close()


def pinned(store: Store) -> set[bytes]:
    return {pin.cid for pin in store.pins() if pin.reason == CHECKPOINT}


def test_one_is_let_go_of_once_nothing_needs_it(store: Store) -> None:
    ledger, now = Ledger(), [0.0]
    let_go = LetGo(store, lambda: cast(Any, ledger), lambda: now[0])
    store.pin(FIRST, CHECKPOINT)
    store.pin(OTHER, IMPORTED)
    assert let_go.look() == []  # its proposal is on its way
    ledger.opens(FIRST)
    now[0] += 2 * ON_ITS_WAY_S
    assert let_go.look() == []  # it is being judged
    ledger.ratifies(FIRST, SECOND)
    store.pin(SECOND, CHECKPOINT)
    assert let_go.look() == []  # the head was measured against it
    ledger.ratifies(FIRST, SECOND, THIRD)
    assert let_go.look() == [FIRST]
    assert pinned(store) == {SECOND}
    assert {pin.cid for pin in store.pins()} == {SECOND, OTHER}  # the owner's are the owner's


def test_one_that_the_council_refused_goes_after_a_while(store: Store) -> None:
    ledger, now = Ledger(), [0.0]
    let_go = LetGo(store, lambda: cast(Any, ledger), lambda: now[0])
    store.pin(FIRST, CHECKPOINT)
    ledger.opens(FIRST)
    let_go.look()
    ledger.open.clear()
    now[0] += ON_ITS_WAY_S - 1
    assert let_go.look() == []
    now[0] += 1
    assert let_go.look() == [FIRST]
    assert pinned(store) == set()
