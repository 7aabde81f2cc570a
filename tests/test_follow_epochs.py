"""Following through changes of council, and what a follower does when a council lied."""

import msgspec
import pytest

from protocols.follow.follower import Alarm
from protocols.follow.messages import (
    Entries,
    GetEntries,
    Prove,
    Proven,
    Refused,
    Said,
    Status,
    frame,
)
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.ledger.chain import Header, chain_hash, path, payload_hash
from protocols.ledger.council import Certificate, Fork, Kind, check_guilt
from protocols.ledger.proof import ForkError, Proof
from protocols.ledger.state import PAST_COUNCILS
from tests.follow_kit import Node, Town, peer, resaid, said
from tests.gossip_kit import mac_verify
from tests.ledger_world import NETWORK, Branch, at, fork_of

replace = msgspec.structs.replace


def grown(epochs: int = 3, notes: int = 20) -> tuple[Branch, list[Certificate]]:
    """A ledger of some epochs, the last one not ended, with each epoch's certificate."""
    branch = Branch(council__epoch_ms=60_000)
    certificates = []
    for _ in range(epochs - 1):
        branch.notes(notes)
        branch.end_epoch()
        certificates.append(branch.certify())
    branch.notes(notes)
    certificates.append(branch.certify())
    return branch, certificates


def holder(town: Town, name: str, branch: Branch, certificates: list[Certificate]) -> Node:
    """A follower that has all of it."""
    node, start = town.node(name), 1
    for certificate in certificates:
        node.learn(branch, certificate, start)
        start = certificate.said.index + 1
    return node


def status(branch: Branch, certificate: Certificate | None, **changes: object) -> bytes:
    """A frame that tells of a head."""
    genesis = branch.heads[0].hash
    told = Status(network=branch.network, genesis=genesis, base=1, certificate=certificate)
    return frame(replace(told, **changes))


def test_a_newcomer_follows_through_every_council() -> None:
    branch, certificates = grown()
    town = Town(branch)
    server = holder(town, "server", branch, certificates)
    newcomer = town.node("newcomer").meet(server)
    assert town.until(newcomer, len(branch.heads) - 1)
    assert newcomer.follower.ledger.digest() == branch.ledger.digest()
    assert newcomer.follower.ledger.epoch == 3
    ended = newcomer.follower.chain.history.ended
    assert [epoch.link.certificate for epoch in ended] == certificates[:2]
    ranges = [said(data)[0] for sender, _, data in town.traffic if sender == server.peer]
    epochs = [
        message.proof.certificate.said.epoch for message in ranges if isinstance(message, Entries)
    ]
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize("use", ["the old council", "an ack", "the new council too early"])
def test_only_the_entries_own_council_ratifies_them(use: str) -> None:
    branch, certificates = grown(2)
    town = Town(branch)
    liar = holder(town, "liar", branch, certificates)
    end = certificates[0].said.index
    forged = {
        "the old council": certificates[0],
        "an ack": branch.certify(end, kind=Kind.ACK),
        "the new council too early": certificates[1],
    }[use]
    first = 1 if use != "the old council" else end + 1

    def lie(message: Said, raw: bytes) -> bytes:
        if isinstance(message, Entries) and message.start >= first:
            return resaid(replace(message, proof=replace(message.proof, certificate=forged)), raw)
        return resaid(message, raw)

    town.run(2)
    town.lie(liar, lie)
    newcomer = town.node("newcomer").meet(liar)
    town.run(10)
    assert newcomer.head == (end if use == "the old council" else 0)
    assert newcomer.faults(liar)
    assert newcomer.follower.halted is None


def test_a_certificate_from_beyond_its_epochs_end_is_refused() -> None:
    """Rule 6: e+1 by the council whose last entry was e."""
    branch, certificates = grown(2)
    node = holder(Town(branch), "node", branch, certificates[:1])
    said_ = replace(certificates[1].said, epoch=1)
    beyond = replace(certificates[1], said=said_)
    verdict, effects = node.follower.hear(peer("liar"), status(branch, beyond), at(1))
    assert verdict is Verdict.REJECT
    assert not effects


def test_heads_of_others_are_rejected_by_name() -> None:
    branch, certificates = grown(1)
    town = Town(branch)
    node = town.node("node")
    cases = {
        "another network": status(branch, certificates[0], network="elsewhere"),
        "few signatures": status(
            branch, Certificate(certificates[0].said, [0, 1], certificates[0].signatures[:2])
        ),
        "noise": b"\x00\x00\x00\x02hi",
        "long": status(branch, certificates[0]) + bytes(9000),
        "a request": frame(Prove(number=0, index=1)),
    }
    for name, data in cases.items():
        verdict, _ = node.follower.hear(peer("liar"), data, at(1))
        assert verdict is Verdict.REJECT, name
    other = status(branch, certificates[0], genesis=bytes(32))
    assert node.follower.hear(peer("misled"), other, at(1)) == (Verdict.IGNORE, [])
    assert node.follower.behind == 0
    verdict, _ = node.follower.hear(peer("friend"), status(branch, certificates[0]), at(1))
    assert verdict is Verdict.ACCEPT
    assert node.follower.behind == 20
    again, _ = node.follower.hear(peer("friend"), status(branch, None), at(1))
    assert again is Verdict.IGNORE


def test_a_status_of_another_network_is_blamed() -> None:
    branch, certificates = grown(1)
    town = Town(branch)
    node = town.node("node")
    town.node("stranger")
    town.arrive(peer("stranger"), node.peer, status(branch, certificates[0], network="elsewhere"))
    assert [blame.fault for blame in node.blamed] == [Fault.MISMATCH]
    assert "network 'elsewhere'" in node.blamed[0].why


def forked(same_term: bool = True) -> tuple[Branch, Branch, Certificate, Certificate]:
    """Two ledgers by one council, which differ from entry 11 on, both ratified."""
    ours = Branch()
    ours.notes(20)
    theirs = fork_of(ours, 10)
    theirs.notes(30)
    term = 1 if same_term else 2
    return ours, theirs, ours.certify(seats=[0, 1, 2]), theirs.certify(seats=[1, 2, 3], term=term)


def halted(node: Node) -> bool:
    error = node.follower.halted
    return isinstance(error, ForkError) and bool(node.told("ledger.fork"))


def test_a_certificate_of_another_entry_at_our_head_stops_us_and_names_the_guilty() -> None:
    ours, theirs, mine, _ = forked()
    node = Town(ours).node("node").learn(ours, mine)
    other = theirs.certify(20, seats=[1, 2, 3])
    verdict, effects = node.follower.hear(peer("messenger"), status(theirs, other), at(1))
    node.perform(effects)
    assert halted(node)
    guilty = [accused.guilt for accused in node.accused]
    assert [guilt.seat for guilt in guilty] == [1, 2]
    council = ours.ledger.council
    for guilt in guilty:
        assert (
            check_guilt(ours.ledger.realm, council, guilt, mac_verify) == council.seats[guilt.seat]
        )
    assert node.follower.handle(Alarm(), at(2)) == []
    assert node.follower.wake_at() is None
    assert verdict is Verdict.ACCEPT


def test_a_fork_is_told_to_everybody() -> None:
    ours, theirs, mine, _ = forked()
    town = Town(ours)
    nodes = [town.node(f"node {number}").learn(ours, mine) for number in range(3)]
    town.run(2)
    other = theirs.certify(15, seats=[1, 2, 3])
    town.arrive(peer("messenger"), nodes[0].peer, status(theirs, other))
    town.run(1)
    assert all(halted(node) for node in nodes)


def test_a_fork_is_remembered_across_a_restart() -> None:
    ours, theirs, mine, _ = forked()
    town = Town(ours)
    node = town.node("node").learn(ours, mine)
    _, effects = node.follower.hear(
        peer("messenger"), status(theirs, theirs.certify(20, seats=[1, 2, 3])), at(1)
    )
    node.perform(effects)
    again = town.node("again", node.disk)
    assert isinstance(again.follower.halted, ForkError)


def hidden(message: Said) -> bytes | None:
    """A status that says nothing, so that only one side can see the fork."""
    if not isinstance(message, Status):
        return None
    return frame(replace(message, certificate=None))


@pytest.mark.parametrize("same_term", [True, False])
def test_entries_on_another_branch_with_a_valid_certificate_are_looked_into(
    same_term: bool,
) -> None:
    """Who follows the other branch serves ranges that do not fit ours: it is asked for proof."""
    ours, theirs, mine, yours = forked(same_term)
    town = Town(ours)
    node = town.node("node").learn(ours, mine)
    other = town.node("other").learn(theirs, yours)
    town.lie(node, lambda message, raw: hidden(message) or resaid(message, raw))
    node.meet(other)
    town.run(10)
    assert halted(node)
    expected = [1, 2] if same_term else []
    guilty = [one.guilt for one in node.accused]
    assert [guilt.seat for guilt in guilty] == expected
    for guilt in guilty:
        assert isinstance(guilt, Fork)
        check_guilt(ours.ledger.realm, ours.ledger.council, guilt, mac_verify)


def test_a_lying_proof_of_a_fork_stops_nobody() -> None:
    """Another branch without its council's signatures is a lie, not a fork."""
    ours, theirs, mine, yours = forked()
    town = Town(ours)
    liar = town.node("liar").learn(theirs, yours)
    town.run(2)
    node = town.node("node").learn(ours, mine)
    ours.notes(30)
    later = ours.certify()

    def lie(message: Said, raw: bytes) -> bytes:
        if isinstance(message, Proven):
            forged = replace(yours, said=replace(yours.said, term=7))
            return resaid(replace(message, proof=replace(message.proof, certificate=forged)), raw)
        if isinstance(message, Entries):
            return resaid(replace(message, proof=replace(message.proof, certificate=later)), raw)
        if isinstance(message, Status):
            return frame(replace(message, certificate=later))
        return resaid(message, raw)

    town.lie(liar, lie)
    node.meet(liar)
    town.run(10)
    assert node.follower.halted is None
    assert not node.told("ledger.fork")
    assert node.faults(liar)


def test_what_was_ratified_and_is_not_valid_stops_us() -> None:
    """A council with two thirds of liars may sign anything; we act on nothing of it."""
    branch = Branch()
    branch.notes(5)
    good = branch.ledger
    bad = branch.payloads[3]  # a replay
    header = good.spine.next_header(1, bad)
    branch.payloads.append(bad)
    branch.epochs.append(1)
    branch.heads.append(good.spine.extended(NETWORK, header).head)
    certificate = branch.certify()
    town = Town(branch)
    liar, node = town.node("liar"), town.node("node")
    payloads = branch.payloads[1:]

    def serve(message: Said, raw: bytes) -> bytes:
        del raw
        if isinstance(message, Refused):
            lengths = [len(payload) for payload in payloads]
            proof = Proof(certificate, [])
            answer = Entries(number=message.number, start=1, lengths=lengths, proof=proof)
            return frame(answer, payloads)
        return status(branch, certificate)

    town.lie(liar, serve)
    node.meet(liar)
    town.run(5)
    assert node.head == 5
    assert node.follower.halted is not None
    assert node.follower.halted.code == "replayed"
    assert node.told("ledger.stopped")


def test_proofs_lead_through_the_skip_links() -> None:
    branch = Branch()
    branch.notes(300)
    node = Town(branch).node("node").learn(branch, branch.certify())
    history = node.follower.chain.history
    proof = history.prove(7)
    assert proof.headers == path(history.header_at, 300, 7)
    assert len(proof.headers) < 40


def test_a_forged_head_of_an_unknown_council_silences_nobody() -> None:
    """It cannot be checked, so it is a claim of who told it, and nothing else."""
    branch, certificates = grown(2)
    town = Town(branch)
    node = holder(town, "node", branch, certificates)
    liar = town.node("liar")
    told = replace(certificates[1].said, epoch=9, index=1 << 60)
    forged = Certificate(told, [], [])
    town.run(2)
    published: list[bytes] = []
    town.gossip = lambda sender, kind, data: published.append(data)  # type: ignore[method-assign]
    assert town.hear(node, liar.peer, status(branch, forged)) is Verdict.IGNORE
    for _ in range(3):
        branch.notes(2)
        node.learn(branch, branch.certify(), start=node.head + 1)
        town.run(2)
    assert len(published) == 3
    asked = [said(data)[0] for sender, _, data in town.traffic if sender == node.peer]
    assert len([one for one in asked if isinstance(one, GetEntries)]) <= 3


def test_keys_of_a_council_that_is_long_gone_stop_nobody() -> None:
    branch = Branch(council__epoch_ms=60_000)
    branch.notes(3)
    theirs = fork_of(branch, 2)
    theirs.notes(2)
    forged = theirs.certify(3, seats=[1, 2, 3])
    certificates = []
    for _ in range(PAST_COUNCILS + 2):
        branch.end_epoch()
        certificates.append(branch.certify())
    node = holder(Town(branch), "node", branch, certificates)
    for _ in range(2):
        verdict, effects = node.follower.hear(peer("thief"), status(branch, forged), at(1))
        assert verdict is Verdict.IGNORE
        node.perform(effects)
    assert node.follower.halted is None
    assert len(node.told("ledger.old-fork")) == 1
    recent = holder(Town(branch), "recent", branch, certificates[:PAST_COUNCILS])
    recent.perform(recent.follower.hear(peer("thief"), status(branch, forged), at(1))[1])
    assert halted(recent)


def test_a_proof_of_an_epoch_that_nobody_knows_is_that_peers_failure() -> None:
    """It answers what it was really asked, well formed, about a council of the future."""
    branch = Branch()
    branch.notes(6)
    town = Town(branch)
    certificate = branch.certify()
    liar = town.node("liar").learn(branch, certificate)
    honest = town.node("honest").learn(branch, certificate)
    town.run(2)

    def lie(message: Said, raw: bytes) -> bytes:
        if isinstance(message, Entries):
            return resaid(message, raw[:-1] + bytes((raw[-1] ^ 1,)))
        if isinstance(message, Refused):  # we ask about index 0, which nobody serves
            header = Header(99, 0, bytes(32), bytes(32), payload_hash(b"x"))
            said_ = replace(certificate.said, epoch=99, index=0, hash=chain_hash(NETWORK, header))
            proof = Proof(replace(certificate, said=said_), [])
            proven = Proven(number=message.number, header=header, proof=proof, length=1)
            return frame(proven, [b"x"])
        return resaid(message, raw)

    town.lie(liar, lie)
    node = town.node("node").meet(liar)
    town.run(5)
    assert node.head == 0
    assert node.faults(liar)
    node.meet(honest)
    assert town.until(node, 6)
    assert node.follower.halted is None
