"""Following from peers: who tells the truth, who lies, and who says nothing."""

import msgspec
import pytest

from protocols.follow import serve as followserve
from protocols.follow.follower import Received
from protocols.follow.messages import (
    MAX_RANGE,
    Entries,
    GetEntries,
    Refused,
    Said,
    Status,
    Why,
    frame,
)
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.ledger.council import Certificate
from tests.follow_kit import Node, Town, peer, resaid, said
from tests.ledger_world import Branch, fork_of

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def branch() -> Branch:
    """600 entries; do not append."""
    made = Branch()
    made.notes(600)
    return made


@pytest.fixture(scope="module")
def certificate(branch: Branch) -> Certificate:
    return branch.certify()


@pytest.fixture
def town(branch: Branch) -> Town:
    return Town(branch)


def holder(town: Town, name: str, certificate: Certificate) -> Node:
    return town.node(name).learn(town.branch, certificate)


def test_a_newcomer_has_the_same_ledger_as_its_peer(town: Town, certificate: Certificate) -> None:
    server = holder(town, "server", certificate)
    newcomer = town.node("newcomer").meet(server)
    assert town.until(newcomer, 600)
    assert newcomer.follower.ledger.digest() == town.branch.ledger.digest()
    assert newcomer.follower.certificate == certificate
    assert newcomer.checks >= 600 + 3  # each submission, and the certificate's three
    assert [payload for one in newcomer.advanced for payload in one.payloads] == (
        town.branch.payloads[1:]
    )


def test_ranges_come_from_several_peers_at_once(town: Town, certificate: Certificate) -> None:
    servers = [holder(town, f"server {number}", certificate) for number in range(3)]
    newcomer = town.node("newcomer")
    newcomer.follower._fetcher._expected = 5000  # as after large entries: ranges of 40
    newcomer.meet(*servers)
    assert town.until(newcomer, 600)
    gave = {sender for sender, _, data in town.traffic if isinstance(said(data)[0], Entries)}
    assert gave == {server.peer for server in servers}


def test_news_is_gossiped_once_and_followed_by_all() -> None:
    branch = Branch()
    town = Town(branch)
    nodes = [town.node(f"node {number}") for number in range(4)]
    for node in nodes:
        node.meet(*[other for other in nodes if other.name > node.name])
    town.run(2)
    for _ in range(5):
        branch.notes(3)
        nodes[0].learn(branch, branch.certify(), start=nodes[0].head + 1)
        town.run(0.1)
    assert all(town.until(node, 15, 5) for node in nodes)
    assert town.verdicts
    assert Verdict.REJECT not in dict(town.verdicts).values()
    announced = [data for _, _, data in town.traffic if isinstance(said(data)[0], Status)]
    assert len(announced) < 60


def test_who_missed_the_gossip_asks_now_and_then(town: Town, certificate: Certificate) -> None:
    server = town.node("server")
    newcomer = town.node("newcomer").meet(server)
    town.run(1)
    town.gossip = lambda *_: None  # type: ignore[method-assign]
    server.learn(town.branch, certificate)
    town.run(5)
    assert newcomer.head == 0
    assert town.until(newcomer, 600, 60)


def lying(town: Town, certificate: Certificate, lie: str) -> tuple[Node, Node, Node]:
    """A liar, an honest peer that is met later, and a newcomer."""
    liar, honest = (holder(town, name, certificate) for name in ("liar", "honest"))
    other = fork_of(town.branch, 300, [town.branch.note() for _ in range(300)])

    def change(message: Said, raw: bytes) -> bytes | None:
        if not isinstance(message, Entries):
            return resaid(message, raw)
        match lie:
            case "silent":
                return None
            case "flipped":
                return resaid(message, bytes((raw[0] ^ 1,)) + raw[1:])
            case "cut":
                return resaid(message, raw[:-1])
            case "stingy":
                one = replace(message, lengths=message.lengths[:1])
                return resaid(one, raw[: message.lengths[0]])
            case "elsewhere":
                return resaid(replace(message, start=message.start + 1), raw)
            case "unasked":
                return resaid(replace(message, number=message.number + 1), raw)
            case "endless":
                many = (2 * MAX_RANGE // len(raw) + 1) * message.lengths
                return resaid(replace(message, lengths=many[:4096]), raw * 9)
            case "other council":
                strangers = Branch(seats=5)
                strangers.notes(3)
                proof = replace(message.proof, certificate=strangers.certify(seats=range(4)))
                return resaid(replace(message, proof=proof), raw)
            case "few seats":
                forged = Certificate(
                    certificate.said, certificate.seats[:2], certificate.signatures[:2]
                )
                proof = replace(message.proof, certificate=forged)
                return resaid(replace(message, proof=proof), raw)
            case "another branch":
                payloads = other.payloads[message.start : message.start + len(message.lengths)]
                lengths = [len(payload) for payload in payloads]
                return frame(replace(message, lengths=lengths), payloads)
            case "noise":
                return b"\x00\x00\x00\x04nois"
        raise AssertionError(lie)

    town.lie(liar, change)
    town.run(2)  # what they gossip is over
    return liar, honest, town.node("newcomer")


FAULTS = {
    "silent": {Fault.TIMEOUT},
    "flipped": {Fault.MISMATCH},
    "cut": {Fault.MALFORMED},
    "stingy": {Fault.MALFORMED},
    "elsewhere": {Fault.MALFORMED},
    "unasked": {Fault.MALFORMED, Fault.TIMEOUT},
    "endless": {Fault.MALFORMED},
    "other council": {Fault.MISMATCH},
    "few seats": {Fault.MISMATCH},
    "another branch": {Fault.MISMATCH},
    "noise": {Fault.MALFORMED, Fault.TIMEOUT},
}


@pytest.mark.parametrize("lie", FAULTS)
def test_a_liar_is_blamed_believed_nothing_and_others_are_asked(
    town: Town, certificate: Certificate, lie: str
) -> None:
    liar, honest, newcomer = lying(town, certificate, lie)
    newcomer.meet(liar)
    town.run(30)
    assert newcomer.head == 0
    assert set(newcomer.faults(liar)) <= FAULTS[lie]
    assert newcomer.faults(liar)
    newcomer.meet(honest)
    assert town.until(newcomer, 600)
    assert newcomer.follower.ledger.digest() == town.branch.ledger.digest()
    assert not newcomer.faults(honest)
    assert newcomer.follower.halted is None


def silent(message: Said, raw: bytes) -> bytes | None:
    """Says everything but entries."""
    return None if isinstance(message, Entries) else resaid(message, raw)


def test_a_liar_costs_seconds_among_honest_peers(town: Town, certificate: Certificate) -> None:
    for number in range(6):
        liar = holder(town, f"liar {number}", certificate)
        town.lie(liar, silent)
    holder(town, "honest", certificate)
    town.run(2)
    others = list(town.nodes.values())
    newcomer = town.node("newcomer").meet(*others)
    assert town.until(newcomer, 600, 15)


def test_who_claims_what_it_has_not_is_asked_ever_more_rarely(
    town: Town, certificate: Certificate
) -> None:
    liar, newcomer = town.node("liar"), town.node("newcomer")
    asked: list[float] = []

    def boast(message: Said, raw: bytes) -> bytes | None:
        if isinstance(message, Status):
            return frame(replace(message, certificate=certificate))
        if isinstance(message, Refused):
            return frame(replace(message, head=10**9))
        return resaid(message, raw)

    town.lie(liar, boast)
    newcomer.meet(liar)
    for _ in range(100):
        before = len(town.traffic)
        town.run(1)
        asked += [
            town.now
            for _, to, data in town.traffic[before:]
            if to == liar.peer and isinstance(said(data)[0], GetEntries)
        ]
    assert 2 <= len(asked) <= 20
    assert newcomer.head == 0


def test_a_request_for_news_waits_for_them(branch: Branch, certificate: Certificate) -> None:
    town = Town(branch)
    early = branch.certify(300)
    server = town.node("server").learn(branch, early)
    newcomer = town.node("newcomer").meet(server)
    assert town.until(newcomer, 300)
    town.hear(newcomer, server.peer, status_of(branch, certificate))
    town.run(0.5)
    assert newcomer.head == 300
    before = town.now
    server.learn(branch, certificate, start=301)
    assert town.until(newcomer, 600, 1.5)
    assert town.now - before < 0.5


def status_of(branch: Branch, certificate: Certificate) -> bytes:
    head = branch.heads[0].hash
    return frame(Status(network=branch.network, genesis=head, base=1, certificate=certificate))


def test_a_peer_that_asks_without_end_is_told_to_wait(town: Town, certificate: Certificate) -> None:
    server = holder(town, "server", certificate)
    greedy = town.node("greedy")
    answers = []
    town.arrive = lambda sender, to, data: answers.append(said(data)[0])  # type: ignore
    for number in range(300):
        request = GetEntries(number=number, start=1, count=600)
        server.do(Received(greedy.peer, frame(request)))
    town.run(0.05)
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert {answer.why for answer in refused} == {Why.BUSY}
    served = [data for sender, to, data in town.traffic if to == greedy.peer and len(data) > 1000]
    assert 10 < len(served) < 200
    assert sum(map(len, served)) < 9 << 20


def test_what_a_neighbour_passes_on_says_nothing_of_what_it_has_pruned(
    town: Town, certificate: Certificate
) -> None:
    server = holder(town, "server", certificate)
    newcomer = town.node("newcomer")
    later = frame(
        Status(
            network=town.branch.network,
            genesis=town.branch.heads[0].hash,
            base=500,
            certificate=certificate,
        )
    )
    assert town.hear(newcomer, server.peer, later) is Verdict.ACCEPT
    assert not newcomer.follower._fetcher.pruned(1)
    town.arrive(server.peer, newcomer.peer, later)
    assert newcomer.follower._fetcher.pruned(1)


def test_many_that_ask_without_end_share_what_we_give(
    town: Town, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followserve, "ALL_BURST", 10 << 20)
    server = holder(town, "server", certificate)
    for crowd in range(40):
        for number in range(20):
            request = GetEntries(number=number, start=1, count=600)
            server.do(Received(peer(f"greedy {crowd}"), frame(request)))
    served = sum(len(data) for _, _, data in town.traffic)
    assert 9 << 20 < served < 12 << 20
