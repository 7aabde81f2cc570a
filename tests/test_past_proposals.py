"""A proposal that is over: who voted, by which rules, and what certificate covers its end."""

import re

import trio

from protocols.cid import parse_cid
from protocols.ledger.entries import NO, YES, encode_entry
from protocols.ledger.signing import batch
from protocols.peerid import peer_id_text
from synapsed.control import ledgermodels as said
from synapsed.control import pastview
from tests.control_fixtures import Daemon, daemon_fixture, origin_fixture  # noqa: F401
from tests.ledger_book import HUMAN, MEMBERS, OTHER_HUMAN


def decide(daemon: Daemon) -> None:
    """What is open is closed, and then what was accepted is put in force."""
    daemon.node.later(11_000)
    daemon.node.later(6_000)


async def detail(daemon: Daemon, cid: str) -> said.ProposalDetail:
    return await daemon.node.proposal(parse_cid(cid))


async def opened(daemon: Daemon, **values: int) -> str:
    changes = [said.ParameterChange(name.replace("__", "."), v) for name, v in values.items()]
    asked = said.ParameterProposal(title="a change", changes=changes)
    done = await daemon.node.propose(asked, True, lambda _progress: None)
    assert done.subject is not None
    return done.subject


def vote(daemon: Daemon, cid: str, choices: dict[int, int], number: int = 1) -> None:
    book, proposal = daemon.node.there, parse_cid(cid)
    votes = [book.ballot(MEMBERS[n], proposal, choice, number) for n, choice in choices.items()]
    daemon.node.ratify(encode_entry(batch(votes)))


async def test_single_votes_rules_and_what_it_was_before_stay_known(daemon: Daemon) -> None:
    cid = await opened(daemon, limits__upload=1000)
    vote(daemon, cid, {0: NO, 1: YES, 2: YES})
    vote(daemon, cid, {0: YES}, number=2)
    decide(daemon)
    found = await detail(daemon, cid)
    info = found.proposal
    assert (info.reason, info.quorum, info.threshold) == ("accepted", 0.4, 0.5)
    assert (info.our_vote, info.our_weight) == ("yes", 1000)
    assert [(each.voter, each.choice, each.weight) for each in found.votes] == [
        (peer_id_text(member.identity), "yes", 1000) for member in MEMBERS[:3]
    ]
    assert [each.own for each in found.votes] == [True, False, False]
    assert [(each.name, each.before) for each in found.changes] == [("limits.upload", 0)]
    again = await opened(daemon, limits__upload=2000)
    assert (await detail(daemon, again)).changes[0].before == 1000
    vote(daemon, again, {0: YES, 1: YES})
    decide(daemon)
    assert (await detail(daemon, again)).changes[0].before == 1000
    assert (await detail(daemon, cid)).changes[0].before == 0
    shown = (await daemon.run("proposal", "show", cid)).out
    assert re.search(r"sets +limits.upload to 8 kbit/s, from 0 B/s\n", shown)
    assert "a quorum is 40 %" in shown
    assert "it passes with 50 %" in shown
    assert re.search(r"our vote +yes, weight 1000\n", shown)
    index = daemon.node.history.certificate.said.index
    assert f"3 of 4 signed in epoch 1, term 3, at index {index}, which covers it" in shown
    listed = (await daemon.run("proposal", "ls")).out
    assert f"in force {info.in_force}" not in listed  # others replaced it
    assert re.search(r"medium +in force \d+", listed)


async def test_weights_and_rules_are_those_of_the_opening(daemon: Daemon) -> None:
    """Reputation that was earned and rules that were changed since do not count for it."""
    first = await opened(daemon, limits__upload=1000)
    vote(daemon, first, dict.fromkeys(range(4), YES))
    rules = await opened(daemon, quorum__medium=500)
    vote(daemon, rules, dict.fromkeys(range(4), YES))
    for human in (HUMAN, OTHER_HUMAN):
        daemon.node.there  # noqa: B018
        await _approve(daemon, rules, human)
    decide(daemon)
    daemon.node.later(1_000)
    state = daemon.node.there.state
    assert state.params["quorum.medium"] == 500
    assert state.reputation_of(MEMBERS[0].identity) > 1000, "its author earned nothing"
    found = await detail(daemon, first)
    assert found.proposal.quorum == 0.4
    assert {each.weight for each in found.votes} == {1000}
    approved = (await detail(daemon, rules)).approvals
    assert sorted(each.name for each in approved) == ["alice", "bob"]


async def _approve(daemon: Daemon, cid: str, human) -> None:
    from protocols.ledger.signing import approve

    book = daemon.node.there
    daemon.node.ratify(
        encode_entry(approve(book.state.realm, parse_cid(cid), human.key, human.sign))
    )
    await trio.lowlevel.checkpoint()


async def test_what_would_take_too_long_to_find_is_not_guessed(daemon: Daemon, monkeypatch) -> None:
    cid = await opened(daemon, limits__upload=1000)
    vote(daemon, cid, dict.fromkeys(range(4), YES))
    decide(daemon)
    assert (await detail(daemon, cid)).votes[0].weight == 1000
    monkeypatch.setattr(pastview, "MAX_LOOK", 0)
    found = await detail(daemon, cid)
    assert (found.votes, found.proposal.voters) == ([], 4)
    assert "and 4 more" not in (await daemon.run("proposal", "show", cid)).out


async def test_why_one_was_rejected_stands_in_the_list(daemon: Daemon) -> None:
    cid = await opened(daemon, limits__upload=1000)
    vote(daemon, cid, {0: YES})
    decide(daemon)
    assert re.search(rf"{cid[:16]} .* no-quorum ", (await daemon.run("proposal", "ls")).out)


async def test_votes_are_looked_for_with_pauses(daemon: Daemon, monkeypatch) -> None:
    """Whoever asks for an old proposal stops nobody else."""
    monkeypatch.setattr(pastview, "STEP", 2)
    cid = await opened(daemon, limits__upload=1000)
    for _ in range(8):
        daemon.node.later(1000)
    vote(daemon, cid, {0: YES, 1: YES})
    decide(daemon)
    past = daemon.node.view.past(parse_cid(cid))
    assert past is not None
    assert sum(1 for _ in past.steps()) >= 3
    assert len(past.votes) == 2
