"""A daemon that caught somebody publishes the case and proposes it: once, and not too often."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocols.changes import ExclusionChange
from protocols.cid import cid_of
from protocols.learn.case import ABOUT, BASE, RoundCase, accused, delta_name, unpack
from protocols.learn.claims import Endorsement, Input, Round
from protocols.ledger.entries import Proposal, Verdict
from protocols.manifest import DatasetManifest
from protocols.tensors.safetensors_header import make_safetensors_header
from synapsed.store import Store
from synapsed.training import accusing
from synapsed.training.accuser import Waiting
from synapsed.training.accusing import Accusing, Docket
from tests.ledger_book import MEMBERS, Book, Person
from tests.test_ledger_exclusion import exclusion, started
from tests.training_book import MODEL

ADA, BEN, CLEO, DAN = MEMBERS


class Facade(Accusing):
    """A daemon's, without the daemon: what it says is on the ledger at once."""

    def __init__(self, folder: Path, me: Person, book: Book) -> None:
        self.folder = folder
        self.me = me
        self.book = book
        self.store = Store.open(folder / "store", 1 << 26)
        self.waiting: dict[bytes, Waiting] = {}
        self.announced: list[bytes] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        accuser = SimpleNamespace(waiting=self.waiting, drop=self.waiting.pop)
        self._parts = cast(
            Any,
            SimpleNamespace(
                store=self.store,
                identity=SimpleNamespace(peer_id=me.identity),
                ledger=SimpleNamespace(ledger=book.state, loaded=True),
                training=SimpleNamespace(lineages={MODEL: SimpleNamespace(accuser=accuser)}),
                evictor=SimpleNamespace(room=self._room),
                bus=SimpleNamespace(emit=lambda kind, **fields: self.events.append((kind, fields))),
                catalog=SimpleNamespace(
                    announce=lambda body: self.announced.append(body.dataset),
                    withdraw=lambda _kind, cid: self.announced.remove(cid),
                ),
            ),
        )

    @contextmanager
    def _room(self) -> Iterator[Any]:
        yield SimpleNamespace(make_from_thread=lambda _size: None)

    async def _say(self, _kind: str, body: Any, *_rest: Any) -> Any:
        assert isinstance(body, Proposal)
        self.book.submit(self.me, body)

    def catch(self, who: Person, epoch: int | None = None) -> None:
        """Something that it signed, with files of the right names."""
        folder = self.folder / f"case-{who.name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        delta = b"delta of " + who.identity
        digest = cid_of(delta)[4:]
        made = Round(
            model=MODEL, group=0, number=7, parent=bytes(32), head=bytes(32),
            epoch=self.book.state.epoch if epoch is None else epoch,
            result=bytes(32), size=1, inputs=(Input(BEN.identity, digest, 1000),),
        )  # fmt: skip
        (folder / delta_name(digest)).write_bytes(delta)
        header = make_safetensors_header([("w", "F32", [1])])
        (folder / BASE).write_bytes(header + bytes(4))
        case = RoundCase(round=made, by=Endorsement(who.identity, bytes(64)))
        self.waiting[who.identity] = Waiting(case, folder)

    def proposed(self) -> list[ExclusionChange]:
        changes = [each.terms.change for each in self.book.state.open.values()]
        return [each for each in changes if isinstance(each, ExclusionChange)]


@pytest.fixture
def facade(tmp_path: Path) -> Iterator[Facade]:
    one = Facade(tmp_path, ADA, started())
    yield one
    one.store.close()


def decide(facade: Facade, *, holds: bool) -> None:
    (cid,) = [cid for cid, each in facade.book.state.open.items() if each.terms.by_verdicts]
    for each in (BEN, CLEO, DAN):
        facade.book.submit(each, Verdict(proposal=cid, claim="wrong", holds=holds))
    facade.book.later(0)


async def test_a_case_is_published_and_proposed_once(facade: Facade) -> None:
    docket = Docket()
    facade.catch(DAN)
    (case,) = [each.case for each in facade.waiting.values()]
    await facade.accuse_now(docket)
    (change,) = facade.proposed()
    assert (change.accused, change.training) == (DAN.identity, MODEL)
    assert set(facade.announced) == {change.case, change.evidence}
    statement = facade.store.manifest_of(change.case)
    assert isinstance(statement, DatasetManifest)
    assert [ref.path for ref in statement.files] == [ABOUT]
    held = facade.store.file_of(statement.files[0])
    assert held is not None
    read = unpack(held.path.read_bytes())
    assert read == case
    assert accused(read) == DAN.identity
    assert [kind for kind, _ in facade.events] == ["training.accused"]
    assert not facade.waiting
    await facade.accuse_now(docket)
    assert len(facade.proposed()) == 1
    decide(facade, holds=True)
    await facade.accuse_now(docket)
    assert not docket.open
    assert not facade.announced  # nobody needs the evidence any more
    assert not [pin for pin in facade.store.pins() if pin.cid in (change.case, change.evidence)]
    facade.catch(DAN)
    await facade.accuse_now(docket)  # it is out already
    assert not facade.proposed()
    assert not facade.waiting


async def test_one_at_a_time_and_then_the_next(facade: Facade) -> None:
    docket = Docket()
    facade.catch(DAN)
    facade.catch(CLEO)
    await facade.accuse_now(docket)
    assert [each.accused for each in facade.proposed()] == [DAN.identity]
    await facade.accuse_now(docket)
    assert len(facade.proposed()) == 1
    decide(facade, holds=False)
    await facade.accuse_now(docket)
    assert [each.accused for each in facade.proposed()] == [CLEO.identity]


async def test_nobody_accuses_whom_somebody_else_accuses(facade: Facade) -> None:
    docket = Docket()
    facade.catch(DAN)
    theirs = facade.book.propose(BEN, exclusion(facade.book))
    await facade.accuse_now(docket)
    assert len(facade.proposed()) == 1
    assert facade.waiting
    for each in (BEN, CLEO, DAN):  # theirs shows nothing; ours may
        facade.book.submit(each, Verdict(proposal=theirs, claim="wrong", holds=False))
    facade.book.later(0)
    await facade.accuse_now(docket)
    assert [each.accused for each in facade.proposed()] == [DAN.identity]


async def test_so_many_a_day(facade: Facade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accusing, "MAX_A_DAY", 2)
    docket = Docket()
    for who in (DAN, CLEO, BEN):
        facade.catch(who)
        await facade.accuse_now(docket)
        if facade.proposed():
            decide(facade, holds=False)
    assert list(facade.waiting) == [BEN.identity]


async def test_what_the_ledger_will_never_take_is_dropped(facade: Facade) -> None:
    docket = Docket()
    facade.catch(Person("stranger"))
    facade.catch(ADA)  # ourselves
    facade.catch(DAN, epoch=99)  # of an epoch to come: our ledger may be behind
    await facade.accuse_now(docket)
    assert list(facade.waiting) == [DAN.identity]
    assert not facade.proposed()
