"""A council member's look at an upgrade: its parts, and the check's word, and nothing guessed."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio

from protocols.cid import cid_of
from protocols.council.errands import Examine
from protocols.manifest import ProposalManifest
from protocols.slots.closed_list import SLOTS
from synapsed.authoring.question import Checked, CheckFailedError, Finding, Question
from synapsed.control.problems import ArtefactUnavailableError
from synapsed.ledger import examiner as examiner_module
from synapsed.ledger.examiner import Examiner
from synapsed.transfer.limits import Room
from synapsed.upgrades.modules import MAX_FETCH, MixedUpError
from synapsed.upgrades.soundness import MOST_TIMES, Soundness, UnsoundError
from tests.upgrade_book import way_back
from tests.upgrades_kit import ME, SLOT, Desk, constant, desk


class Check:
    """What the check says; it looks at nothing."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.findings: tuple[Finding, ...] = ()
        self.error: CheckFailedError | None = None

    async def __call__(self, question: Question) -> Checked:
        await trio.lowlevel.checkpoint()
        self.asked.append(question)
        if self.error is not None:
            raise self.error
        return Checked(question.slot, "", "", question.changed, "", self.findings)


def soundness(here: Desk, check: Check) -> Soundness:
    elsewhere: Any = here.elsewhere
    return Soundness(here.store, elsewhere, lambda: here.book.state, check)


def room() -> Room:
    return Room(MAX_FETCH)


async def test_the_check_is_asked_about_what_is_voted_on_and_what_it_replaces(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as here:
        check = Check()
        looks = soundness(here, check)
        first = await here.offer(constant(3))
        await looks.look(first, room())
        assert check.asked[0].module == here.others[first.manifest][1]
        assert (check.asked[0].slot, check.asked[0].incumbent) == (SLOT, b"")
        limits = check.asked[0].limits
        assert (limits.fuel, limits.memory_pages) == (first.limits.fuel, first.limits.memory_pages)
        await here.adopt(constant(3))
        await looks.look(await here.offer(constant(7)), room())
        assert check.asked[1].incumbent == here.others[first.manifest][1]
        await looks.look(way_back(here.book), room())
        assert len(check.asked) == 2


async def test_what_the_check_finds_is_told_and_time_decides_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        check = Check()
        what = await here.offer(constant(3))
        check.findings = (Finding("slow", "it is slow", decides=False),)
        await soundness(here, check).look(what, room())
        check.findings += (Finding("wrong", "it is wrong on one row"),)
        with pytest.raises(UnsoundError, match=r"^it is wrong on one row$"):
            await soundness(here, check).look(what, room())


@pytest.mark.parametrize("how", ["previous", "source", "size", "text"])
async def test_parts_that_do_not_belong_together_are_unsound(tmp_path: Path, how: str) -> None:
    async with desk(tmp_path) as here:
        check = Check()
        what = await here.offer(constant(3))
        if how == "previous":
            what = msgspec.structs.replace(what, previous=b"p" * 32)
        elif how == "source":
            what = msgspec.structs.replace(what, source=b"s" * 32)
        elif how == "size":
            what = msgspec.structs.replace(what, size=what.size - 1)
        else:  # the manifest's file is another text than the hash that is ratified
            module = await here.module(constant(3))
            cid, _ = here.elsewhere.publish(module, b"another text", source_hash=what.source)
            what = msgspec.structs.replace(what, manifest=cid)
        with pytest.raises((MixedUpError, UnsoundError)):
            await soundness(here, check).look(what, room())
        assert check.asked == []


@pytest.mark.parametrize("name", MOST_TIMES)
async def test_limits_far_above_the_slots_own_are_unsound(tmp_path: Path, name: str) -> None:
    async with desk(tmp_path) as here:
        what, check = await here.offer(constant(3)), Check()
        looks = soundness(here, check)
        most = MOST_TIMES[name] * getattr(SLOTS[SLOT].limits, name)

        async def look(value: int) -> None:
            limits = msgspec.structs.replace(what.limits, **{name: value})
            await looks.look(msgspec.structs.replace(what, limits=limits), room())

        await look(most)
        with pytest.raises(UnsoundError, match=f"limits.{name}"):
            await look(most + 1)
        assert len(check.asked) == 1


async def test_the_verdict_is_no_only_where_the_check_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        check = Check()
        found: list[tuple[bytes, bool]] = []
        elsewhere: Any = here.elsewhere
        examiner = Examiner(
            cast(Any, elsewhere),
            lambda *said: found.append(said),
            soundness(here, check),
            here.emit,
        )
        change = await here.offer(constant(3))
        proposal = ProposalManifest(
            title="t", description="", author=ME.identity, depends_on=(), change=change
        )
        here.nursery.start_soon(examiner.run)
        examiner.ask(Examine(cid_of(b"good"), proposal))
        await here.until(lambda: found == [(cid_of(b"good"), True)])
        check.findings = (Finding("wrong", "it is wrong"),)
        examiner.ask(Examine(cid_of(b"bad"), proposal))
        await here.until(lambda: found[1:] == [(cid_of(b"bad"), False)])
        check.error = CheckFailedError("no end")
        examiner.ask(Examine(cid_of(b"open"), proposal))
        await here.until(lambda: len(check.asked) == 3)
        await trio.sleep(0.05)
        assert len(found) == 2  # it looks again later
        told = [(it["holds"], it["why"]) for it in here.named("proposal.examined")]
        assert told == [(True, ""), (False, "it is wrong")]
        await examiner.look(proposal)  # as for a proposer: fetched, and not checked
        assert len(check.asked) == 3
        here.elsewhere.away.add(change.manifest)
        with pytest.raises(ArtefactUnavailableError):
            await examiner.look(proposal)
        here.nursery.cancel_scope.cancel()


async def test_a_check_that_comes_to_no_end_is_never_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examiner_module, "AGAIN_S", 0.0)
    async with desk(tmp_path) as here:
        check, found = Check(), list[tuple[bytes, bool]]()
        check.error = CheckFailedError("the machine is busy")
        examiner = Examiner(
            cast(Any, here.elsewhere), lambda *said: found.append(said), soundness(here, check)
        )
        proposal = ProposalManifest(
            title="t",
            description="",
            author=ME.identity,
            depends_on=(),
            change=await here.offer(constant(3)),
        )
        here.nursery.start_soon(examiner.run)
        examiner.ask(Examine(cid_of(b"busy"), proposal))
        await here.until(lambda: len(check.asked) == examiner_module.TRIES_OPEN)
        check.error = None
        examiner.ask(Examine(cid_of(b"idle"), proposal))
        await here.until(lambda: bool(found))
        assert found == [(cid_of(b"idle"), True)]
        here.nursery.cancel_scope.cancel()
