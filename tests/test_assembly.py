"""What an owner asks of the ledger, answered by services that ratify for real."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from protocols.cid import parse_cid
from protocols.errors import MalformedError
from protocols.follow.archive import verify_archive
from protocols.follow.inclusion import check_inclusion
from protocols.ledger.entries import MAX_NOTE
from protocols.ledger.errors import NoChangeError, NotOpenError, OutOfRangeError
from protocols.ledger.signing import approval_message
from protocols.peerid import parse_peer_id, peer_id_text
from synapsed.config.inforce import InForce
from synapsed.config.load import load
from synapsed.control import ledgermodels as said
from synapsed.control.models import Progress
from synapsed.control.problems import ArtefactUnavailableError, NoGenesisError, UnknownError
from synapsed.keys import Key, verify
from synapsed.ledger import silence
from synapsed.owner.assembly import Assembly
from tests.ledger_kit import NETWORK, Daemon, world

SECOND = 1000
UPLOAD = "limits.upload"
WINDOWS = {
    "vote__window_ms": 5 * SECOND,
    "approval__window_ms": 2 * SECOND,
    "execute__delay_ms": SECOND,
}


class Artefacts:
    """An examiner that has nothing of what is in `missing`."""

    def __init__(self, missing: set[bytes]) -> None:
        self.missing = missing

    async def look(self, manifest: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self.missing & set(manifest.depends_on):
            raise ArtefactUnavailableError("nobody has it")


def owner(daemon: Daemon, missing: set[bytes] | None = None) -> Assembly:
    """The owner's side of a daemon."""
    in_force = InForce(load(None, {}), lambda _name, _value: None)
    daemon.service.on_changed.append(lambda: in_force.advanced(daemon.service.ledger))
    parts = SimpleNamespace(
        ledger=daemon.service,
        identity=daemon.identity,
        bus=daemon.bus,
        in_force=in_force,
        liveness=SimpleNamespace(is_alive=lambda _peer: True),
        examiner=Artefacts(missing or set()),
    )
    return Assembly(cast(Any, parts))


def unwatched(_progress: Progress) -> None:
    """Nobody looks."""


def change(value: int) -> said.ParameterProposal:
    return said.ParameterProposal(
        title="slower uploads", changes=[said.ParameterChange(name=UPLOAD, value=value)]
    )


async def test_a_note_is_waited_for_shown_and_proven(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, others=1) as made:
        mine, stages = owner(made.daemons[4]), list[str]()
        with trio.fail_after(100):
            sent = await mine.note("kept", True, lambda progress: stages.append(progress.stage))
        assert stages == ["submitting", "waiting for ratification"]
        assert sent.index is not None
        assert sent.certificate is not None
        assert sent.certificate.index >= sent.index
        assert len(sent.certificate.signers) >= 3
        detail = await mine.ledger_entry(sent.index)
        assert (detail.entry.kind, detail.entry.summary) == ("note", "kept")
        assert detail.entry.author == made.daemons[4].identity.text
        proof = await mine.ledger_proof(sent.index)
        found = check_inclusion(proof, NETWORK, made.payload, verify)
        assert (found.index, found.payload.hex()) == (sent.index, detail.payload)
        with pytest.raises(MalformedError):
            check_inclusion(proof[:-1] + bytes((proof[-1] ^ 1,)), NETWORK, made.payload, verify)
        with pytest.raises(UnknownError):
            await mine.ledger_entry(10_000)
        info = await mine.ledger()
        assert (info.network, info.role, info.first) == (NETWORK, "follower", 0)
        assert info.certificate is not None
        shown = await mine.ledger_entries(-3, 3)
        assert [entry.index for entry in shown.entries] == [
            info.index - 2,
            info.index - 1,
            info.index,
        ]


async def test_an_export_verifies_without_any_daemon(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        mine = owner(made.daemons[0])
        with trio.fail_after(100):
            await mine.note("kept", True, unwatched)
            parts = [part async for part in mine.ledger_export()]
            head = await mine.ledger()
        report = verify_archive(parts, verify, network=NETWORK, genesis=made.payload)
        assert report.index == len(made.daemons[0].ratified) <= head.index
        assert report.hash.hex() == made.daemons[0].service.history.log.hash(report.index).hex()


async def test_a_parameter_is_proposed_voted_on_and_in_force(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, others=1, **WINDOWS) as made:
        owners = [owner(daemon) for daemon in made.daemons]
        with trio.fail_after(600):
            opened = await owners[4].propose(change(1_000_000), True, unwatched)
            assert opened.subject is not None
            cid = parse_cid(opened.subject)
            for mine, daemon in zip(owners[:3], made.daemons[:3], strict=True):
                await daemon.reaches(opened.index or 0)
                await mine.vote(cid, "no", False, unwatched)  # and thinks better of it
                voted = await mine.vote(cid, "yes", True, unwatched)
                assert voted.subject == opened.subject
            (info,) = await owners[0].proposals("open")
            assert (info.yes, info.no, info.our_vote, info.risk) == (3000, 0, "yes", "medium")
            for daemon in made.daemons:
                while UPLOAD not in daemon.service.ledger.origins:
                    await daemon.news.wait()
        ratified = set()
        for mine in owners:
            (param,) = [each for each in await mine.params() if each.name == UPLOAD]
            assert (param.value, param.origin, param.local) == (1_000_000, "ledger", None)
            assert param.proposal == opened.subject
            assert param.certificate is not None
            ratified.add(param.index)
            assert mine._parts.in_force.value(UPLOAD) == 1_000_000
        assert len(ratified) == 1
        (ended,) = await owners[0].proposals("accepted")
        assert ended.cid == opened.subject
        detail = await owners[4].proposal(cid)
        assert detail.outcome is not None
        assert detail.outcome.accepted
        with pytest.raises(NotOpenError):
            await owners[3].vote(cid, "yes", False, unwatched)
        with pytest.raises(UnknownError):
            await owners[3].vote(cid[:-1] + b"x", "yes", False, unwatched)


async def test_what_is_risky_needs_a_persons_key(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ada = Key(b"a" * 32)
    windows = WINDOWS | {"approval__window_ms": 20 * SECOND}
    async with world(tmp_path, humans={"ada": ada.public_key}, **windows) as made:
        owners = [owner(daemon) for daemon in made.daemons]
        request = said.ParameterProposal(
            title="more", changes=[said.ParameterChange(name="quota.trusted", value=1 << 31)]
        )
        with trio.fail_after(600):
            opened = await owners[0].propose(request, True, unwatched)
            cid = parse_cid(opened.subject or "")
            for mine, daemon in zip(owners, made.daemons, strict=True):
                await daemon.reaches(opened.index or 0)
                await mine.vote(cid, "yes", False, unwatched)
            realm = made.daemons[0].service.ledger.realm
            signature = ada.sign(approval_message(realm, cid))
            await owners[1].approve(cid, ada.public_key, signature, True, unwatched)
            while "quota.trusted" not in made.daemons[0].service.ledger.origins:
                await made.daemons[0].news.wait()
        (approved,) = [ev for ev in made.daemons[2].events if ev.kind == "proposal.approved"]
        assert approved.fields["name"] == "ada"


async def test_a_proposal_whose_artefact_nobody_has_is_not_submitted(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        link = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
        mine = owner(made.daemons[0], {parse_cid(link)})
        with pytest.raises(ArtefactUnavailableError):
            await mine.propose(said.TextProposal(title="adopt it", links=[link]), False, unwatched)
        assert await mine.proposals(None) == []
        assert all(event.kind != "ledger.submitted" for event in made.daemons[0].events)


async def test_what_the_ledger_would_refuse_is_not_fetched_first(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    stages: list[str] = []
    async with world(tmp_path) as made:
        mine = owner(made.daemons[0])
        with trio.fail_after(100):
            await made.daemons[0].reaches(1)
        unchanged = change(made.daemons[0].service.ledger.params[UPLOAD])
        for request, error in (
            (unchanged, NoChangeError),
            (change(-1), OutOfRangeError),
        ):
            with pytest.raises(error):
                await mine.propose(request, True, lambda progress: stages.append(progress.stage))
    assert stages == []


async def test_a_newcomer_works_for_its_note(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, others=1, work__bits=10) as made:
        member, newcomer = owner(made.daemons[0]), owner(made.daemons[4])
        stages: list[str] = []
        with trio.fail_after(100):
            sent = await newcomer.note("hard", True, lambda progress: stages.append(progress.stage))
            easy = await member.note("easy", True, unwatched)
        assert "proof of work" in stages
        assert sent.work_seconds > 0
        assert easy.work_seconds == 0
        (shown,) = (await newcomer.reputations(made.daemons[4].identity.peer_id, 1)).reputations
        assert (shown.reputation, shown.work_bits, shown.own) == (0, 10, True)


async def test_submissions_that_were_signed_elsewhere_are_judged_one_by_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        mine = owner(made.daemons[1])
        good = [made.daemons[2].note(f"note {n}") for n in range(3)]
        bad = good[0][:-1] + bytes((good[0][-1] ^ 1,))
        with trio.fail_after(100):
            found = await mine.submit([good[0], b"junk", bad, good[1], good[1], good[2]])
            for note in good:
                await made.daemons[3].has(note)
        assert len(found.accepted) >= 3
        assert [each.position for each in found.refused][:2] == [1, 2]
        assert [each.status for each in found.refused][:2] == [400, 400]
        assert {each.error for each in found.refused} <= {
            "malformed-entry",
            "bad-signature",
            "replayed",
        }


async def test_the_council_is_shown_as_it_is(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        mine = owner(made.daemons[0])
        with trio.fail_after(100):
            await made.daemons[0].reaches(5)
        info = await mine.council()
        assert (info.epoch, info.quorum, info.liars, info.down, info.role) == (1, 3, 1, 1, "member")
        assert {seat.peer_id for seat in info.seats} == {d.identity.text for d in made.daemons}
        (leads,) = [seat.peer_id for seat in info.seats if seat.leads]
        assert info.leader == leads == peer_id_text(parse_peer_id(leads))
        assert sum(seat.last_signed is not None for seat in info.seats) >= 3
        assert (await mine.reputations(None, 2)).total == 4


async def test_a_council_that_ratifies_nothing_is_told_of(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, others=1, council__time_out_ms=2000) as made:
        follower, up = made.daemons[4], {each.identity.peer_id for each in made.daemons}
        alive = up.__contains__
        with trio.fail_after(100):
            await follower.reaches(40)
        assert silence.warnings(follower.service, alive) == []
        for gone in made.daemons[2:4]:
            up.remove(gone.identity.peer_id)
            await gone.stop()
        await trio.sleep(5)
        head = follower.head
        await trio.sleep(5)
        assert follower.head == head
        (line,) = silence.warnings(follower.service, alive)
        assert f"(index {head}): 2 of the 3 seats that must sign seem up; seat " in line
        assert line.count("is down") == 2
        assert (await owner(follower).council()).warnings != []
        assert (await owner(follower).ledger()).warnings != []
        for back in made.daemons[2:4]:
            await back.start()
        with trio.fail_after(100):
            await follower.reaches(head + 5)
        assert silence.warnings(follower.service, alive) == []


async def test_a_note_that_is_too_long_is_refused(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with pytest.raises(MalformedError):
            await owner(made.daemons[0]).note("x" * (MAX_NOTE + 1), False, unwatched)


async def test_without_a_genesis_each_question_says_what_to_do() -> None:
    parts = SimpleNamespace(ledger=None, identity=Key(b"k" * 32))
    mine = Assembly(cast(Any, parts))
    with pytest.raises(NoGenesisError, match="init --genesis"):
        await mine.ledger()
    with pytest.raises(NoGenesisError):
        await mine.note("x", False, unwatched)
    with pytest.raises(NoGenesisError):
        await mine.propose(change(1), False, unwatched)
