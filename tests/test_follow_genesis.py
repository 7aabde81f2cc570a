"""Two ledgers under one network's name: neither side can know whose file is the wrong one."""

import msgspec
import pytest

from protocols.follow.fetch import MAX_PEERS
from protocols.follow.follower import Received
from protocols.follow.messages import Entries, GetEntries, Prove, Said, Status, frame
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.ledger.council import Certificate
from protocols.peerid import peer_id_text
from tests.follow_kit import Node, Town, peer, resaid, said
from tests.ledger_world import Branch

OTHER = bytes(range(32))


@pytest.fixture
def branch() -> Branch:
    made = Branch()
    made.notes(20)
    return made


@pytest.fixture
def certificate(branch: Branch) -> Certificate:
    return branch.certify()


@pytest.fixture
def town(branch: Branch) -> Town:
    return Town(branch)


def other_branch() -> Branch:
    made = Branch(limits__upload=1_000_000)
    made.notes(30)
    return made


def misled(town: Town, name: str, branch: Branch) -> Node:
    """A follower that was given another genesis."""
    node = town.nodes[peer(name)] = Node(town, name, town.settings)
    return node.start(branch)


def test_who_follows_another_genesis_is_let_be_on_both_sides(
    town: Town, certificate: Certificate
) -> None:
    other = other_branch()
    assert other.heads[0] != town.branch.heads[0]
    ours = [town.node(f"ours {number}") for number in range(3)]
    ours[0].learn(town.branch, certificate)
    theirs = misled(town, "theirs", other).learn(other, other.certify())
    for number, node in enumerate(ours):
        node.meet(*ours[number + 1 :], theirs)
    town.run(120)
    other.notes(5)
    theirs.learn(other, other.certify(), start=31)  # and its gossip
    town.branch.notes(5)
    ours[0].learn(town.branch, town.branch.certify(), start=21)
    town.run(120)
    assert [node.head for node in (*ours, theirs)] == [25, 25, 25, 35]
    assert not any(node.blamed for node in (*ours, theirs))
    assert Verdict.REJECT not in [verdict for _, verdict in town.verdicts]
    names = [one.heads[0].hash for one in (town.branch, other)]
    for node in ours:
        assert node.follower.strangers == {theirs.peer: names[1]}
        assert node.follower.companions == 2
        (told,) = node.told("ledger.wrong-genesis")
        assert told.fields == {
            "peer": peer_id_text(theirs.peer),
            "theirs": names[1].hex(),
            "ours": names[0].hex(),
        }
    assert theirs.follower.strangers == {node.peer: names[0] for node in ours}
    assert theirs.follower.companions == 0
    assert len(theirs.told("ledger.wrong-genesis")) == 3
    across = [said(data)[0] for sender, to, data in town.traffic if theirs.peer in (sender, to)]
    assert all(isinstance(message, Status) for message in across)
    assert len(across) == 6  # on connecting, and never again


def test_who_was_mended_is_followed_again(town: Town, certificate: Certificate) -> None:
    node = town.node("node")
    wrong = misled(town, "peer", other_branch()).meet(node)
    town.run(1)
    assert node.follower.strangers
    wrong.leave(node)
    assert not node.follower.strangers
    mended = town.node("peer").learn(town.branch, certificate).meet(node)
    assert town.until(node, 20)
    assert not node.blamed
    assert not mended.blamed
    assert node.follower.companions == 1


def test_a_stranger_is_not_answered_nor_asked_whatever_it_says(
    town: Town, certificate: Certificate
) -> None:
    node = town.node("node").learn(town.branch, certificate)
    liar = misled(town, "liar", other_branch()).meet(node)
    town.run(1)
    sent = len(town.traffic)
    for said_ in (GetEntries(number=1, start=1, count=5), Prove(number=2, index=3)):
        node.do(Received(liar.peer, frame(said_)))
    town.branch.notes(3)
    news = Status(
        network=town.branch.network,
        genesis=town.branch.heads[0].hash,
        base=1,
        certificate=town.branch.certify(),
    )
    town.hear(node, liar.peer, frame(news))  # gossip of our ledger: good news, and no source
    town.run(30)
    assert len(town.traffic) == sent
    assert node.follower.behind == 3
    assert not node.blamed


def test_a_forged_genesis_after_ours_is_a_fault_and_no_crash(
    town: Town, certificate: Certificate
) -> None:
    liar = town.node("liar").learn(town.branch, certificate)

    def lie(said_: Said, raw: bytes) -> bytes:
        if isinstance(said_, Entries):  # instead of an answer, and it is asked no more
            status = Status(
                network=town.branch.network, genesis=OTHER, base=1, certificate=certificate
            )
            return frame(status)
        return resaid(said_, raw)

    town.lie(liar, lie)
    node = town.node("node").meet(liar)
    town.run(10)
    assert node.head == 0
    assert node.faults(liar) == [Fault.CLOSED]
    assert node.follower.strangers == {liar.peer: OTHER}
    honest = town.node("honest").learn(town.branch, certificate)
    node.meet(honest)
    assert town.until(node, 20)
    assert not node.faults(honest)


def test_who_says_now_this_now_that_is_blamed_each_time_and_told_of_once(
    town: Town, certificate: Certificate
) -> None:
    node = town.node("node")
    liar = peer("liar")
    ours = Status(
        network=town.branch.network,
        genesis=town.branch.heads[0].hash,
        base=1,
        certificate=certificate,
    )
    for number in range(10):
        node.do(Received(liar, frame(ours)))
        assert not node.follower.strangers
        forged = msgspec.structs.replace(ours, genesis=bytes((number,)) * 32)
        node.do(Received(liar, frame(forged)))
        assert node.follower.strangers == {liar: bytes((number,)) * 32}
        assert node.follower.companions == 0
    assert [blame.fault for blame in node.blamed] == [Fault.CLOSED] * 10
    assert len(node.told("ledger.wrong-genesis")) == 1


def test_strangers_are_bounded(town: Town) -> None:
    node = town.node("node")
    status = Status(network=town.branch.network, genesis=OTHER, base=1, certificate=None)
    for number in range(MAX_PEERS + 10):
        node.do(Received(number.to_bytes(38, "big"), frame(status)))
    assert len(node.follower.strangers) == MAX_PEERS
    assert not node.blamed
