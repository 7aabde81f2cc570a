"""What an owner is told: who is banned and until when, and why a vote or approval is refused."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from protocols.cid import parse_cid
from protocols.gossip.peerscore import BAN_SECONDS, Fault
from protocols.ledger.errors import NotAHumanKeyError, NotOpenError, NoWeightError, ReplayedError
from protocols.ledger.signing import approval_message
from protocols.peerid import peer_id_text
from synapsed.control import ledgermodels as said
from synapsed.control import models
from synapsed.control.problems import UnknownError
from synapsed.keys import Key
from synapsed.net import PeerBook
from synapsed.net.peers import MemoryTable
from synapsed.owner.overview import Overview
from tests.control_fixtures import Daemon, daemon_fixture, origin_fixture  # noqa: F401
from tests.ledger_book import Person
from tests.ledger_kit import world
from tests.test_assembly import WINDOWS, change, owner, unwatched

LIAR, HONEST = Person("liar").identity, Person("honest").identity


async def test_who_is_banned_is_listed_with_all_and_until_when() -> None:
    book = PeerBook(MemoryTable())
    for peer in (LIAR, HONEST):
        book.connected(peer, None, "inbound")
    while not book.fault(LIAR, Fault.LIED):
        pass
    parts = SimpleNamespace(
        net=SimpleNamespace(book=book, peers=list),
        liveness=SimpleNamespace(
            alive=lambda: [HONEST], liveness=SimpleNamespace(peer=lambda _peer: None)
        ),
        identity=SimpleNamespace(peer_id=Person("me").identity),
    )
    overview = Overview(cast(Any, parts))
    listed = {each.peer_id: each.banned_until for each in await overview.peers("all")}
    assert listed.keys() == {peer_id_text(LIAR), peer_id_text(HONEST)}
    assert listed[peer_id_text(HONEST)] is None
    assert listed[peer_id_text(LIAR)] == pytest.approx(time.time() + BAN_SECONDS, abs=60)
    assert peer_id_text(LIAR) not in [each.peer_id for each in await overview.peers("live")]


async def test_a_ban_is_shown_with_the_time_that_is_left(daemon: Daemon) -> None:
    daemon.node.friends.append(
        models.PeerInfo(
            peer_id=peer_id_text(LIAR),
            connected=False,
            live=False,
            addrs=[],
            banned_until=time.time() + 300.4,
        )
    )
    shown = (await daemon.run("peers", "--all")).out
    assert "banned, 5 min 0 s left" in shown or "banned, 4 min" in shown


async def test_who_may_not_vote_or_approve_is_told_why_and_what_to_do(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, others=1, **WINDOWS) as made:
        members = [owner(daemon) for daemon in made.daemons[:3]]
        newcomer, stranger = owner(made.daemons[4]), Key(b"s" * 32)
        with trio.fail_after(600):
            opened = await members[0].propose(change(1_000_000), True, unwatched)
            cid = parse_cid(opened.subject or "")
            for daemon in made.daemons:
                await daemon.reaches(opened.index or 0)
            with pytest.raises(NoWeightError) as weightless:
                await newcomer.vote(cid, "yes", True, unwatched)
            assert f"at index {opened.index}" in weightless.value.message
            assert "reputation --own" in weightless.value.remedy
            signature = stranger.sign(approval_message(made.daemons[0].service.ledger.realm, cid))
            with pytest.raises(NotAHumanKeyError) as unnamed:
                await newcomer.approve(cid, stranger.public_key, signature, True, unwatched)
            assert "--add-human" in unnamed.value.remedy
            with pytest.raises(UnknownError):
                await newcomer.approve(
                    b"\x01\x71\x12\x20" + bytes(32), b"k" * 32, b"", True, unwatched
                )
            for member in members:
                await member.vote(cid, "yes", True, unwatched)
            while made.daemons[0].service.ledger.open:
                await made.daemons[0].news.wait()
            with pytest.raises(NotOpenError) as decided:
                await members[0].vote(cid, "no", True, unwatched)
            assert "is decided already: accepted, at index " in decided.value.message
            assert "proposal show" in decided.value.remedy
            assert isinstance(await members[0].proposal(cid), said.ProposalDetail)


async def test_a_second_approval_says_where_the_first_one_is(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ada = Key(b"a" * 32)
    async with world(tmp_path, humans={"ada": ada.public_key}, **WINDOWS) as made:
        mine, service = owner(made.daemons[0]), made.daemons[0].service
        with trio.fail_after(600):
            asked = said.ParameterProposal(
                title="x", changes=[said.ParameterChange(name="work.bits", value=3)]
            )
            opened = await mine.propose(asked, True, unwatched)
            cid = parse_cid(opened.subject or "")
            signature = ada.sign(approval_message(service.ledger.realm, cid))
            first = await mine.approve(cid, ada.public_key, signature, True, unwatched)
            with pytest.raises(ReplayedError, match=f"at index {first.index}"):
                await mine.approve(cid, ada.public_key, signature, True, unwatched)
