"""What a follower keeps on disk: after crashes, and when the disk changes it."""

from collections.abc import Callable

import pytest

from protocols.follow.follower import Follower, Received
from protocols.follow.load import GENESIS_KEY, HEAD_KEYS, link_key
from protocols.follow.log import TABLE, entry_key
from protocols.follow.messages import Entries, GetEntries
from protocols.ledger.council import Certificate
from protocols.ledger.errors import WrongGenesisError
from protocols.records import guarded, unguarded
from tests.follow_kit import Node, Town, peer, said
from tests.gossip_kit import mac_verify
from tests.ledger_world import NETWORK, Branch
from tests.participant_world import Disk


@pytest.fixture(scope="module")
def grown() -> tuple[Branch, list[Certificate]]:
    """Two epochs and the beginning of a third, with certificates in between; do not append."""
    branch = Branch(council__epoch_ms=60_000)
    certificates = []
    for _ in range(2):
        for _ in range(4):
            branch.notes(10)
            certificates.append(branch.certify())
        branch.end_epoch()
        certificates.append(branch.certify())
    branch.notes(30)
    certificates.append(branch.certify())
    return branch, certificates


Grown = tuple[Branch, list[Certificate]]


def full(town: Town, name: str, certificates: list[Certificate]) -> Node:
    node, start = town.node(name), 1
    for certificate in certificates:
        node.learn(town.branch, certificate, start)
        start = certificate.said.index + 1
    return node


def test_a_restart_has_everything_again_and_checks_no_signature_twice(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    node = full(town, "node", certificates)
    again = town.node("again", node.disk)
    assert not again.follower.whole
    again.settle()
    assert again.follower.whole
    assert again.follower.ledger.digest() == branch.ledger.digest()
    assert again.follower.certificate == certificates[-1]
    assert [one.link.certificate.said.epoch for one in again.follower.chain.history.ended] == [1, 2]
    assert again.checks == 3 * 3  # the certificates of two epochs' ends and the newest
    assert again.saves == 2  # the ends of epochs, in case their records were damaged
    assert len(again.told("ledger.loaded")) == 1


def flip(record: bytes) -> bytes:
    return record[:-1] + bytes((record[-1] ^ 1,))


DAMAGE: dict[str, Callable[[Disk, int], None]] = {
    "a flipped bit": lambda disk, at: disk.rows.update(
        {entry_key(at): flip(disk.rows[entry_key(at)])}
    ),
    "a torn record": lambda disk, at: disk.rows.update(
        {entry_key(at): disk.rows[entry_key(at)][:20]}
    ),
    "an empty record": lambda disk, at: disk.rows.update({entry_key(at): b""}),
    "a missing record": lambda disk, at: disk.rows.pop(entry_key(at)) and None,
    "a misdirected record": lambda disk, at: disk.rows.update(
        {entry_key(at): disk.rows[entry_key(at - 1)]}
    ),
    "an edited record": lambda disk, at: disk.rows.update({entry_key(at): edited(disk, at)}),
    "many missing": lambda disk, at: (
        [disk.rows.pop(entry_key(index)) for index in range(at - 3, at + 3)] and None
    ),
}


def edited(disk: Disk, at: int) -> bytes:
    """Changed by somebody who mends the checksum, too."""
    key = entry_key(at)
    payload = unguarded(TABLE, key, disk.rows[key])
    return guarded(TABLE, key, payload.replace(b"note", b"mote"))


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("place", [5, 40, 60, 100])
def test_damage_is_named_fetched_again_and_nothing_is_cut(
    grown: Grown, what: str, place: int
) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    node = full(town, "node", certificates)
    town.run(2)
    del town.nodes[node.peer]
    before = dict(node.disk.rows)
    DAMAGE[what](node.disk, place)
    assert node.disk.rows != before
    again = town.node("again", node.disk)
    again.settle()
    assert not again.follower.whole
    assert again.told("ledger.damaged")
    assert again.head < place
    again.meet(server)
    assert town.run(60, lambda: again.follower.whole)
    assert again.follower.ledger.digest() == branch.ledger.digest()
    assert {key: node.disk.rows[key] for key in before if key[:1] == b"e"} == {
        key: record for key, record in before.items() if key[:1] == b"e"
    }
    third = town.node("third", node.disk)
    third.settle()
    assert third.follower.whole
    assert not third.told("ledger.damaged")


def test_only_what_lacks_is_fetched(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    node = full(town, "node", certificates)
    town.run(2)
    DAMAGE["a flipped bit"](node.disk, 70)
    again = town.node("again", node.disk)
    again.settle()
    again.meet(server)
    assert town.run(60, lambda: again.follower.whole)
    answers = [said(data)[0] for _, to, data in town.traffic if to == again.peer]
    brought = [len(one.lengths) for one in answers if isinstance(one, Entries)]
    assert brought == [1]


@pytest.mark.parametrize("which", ["the newest", "both heads", "an epoch's end", "all proofs"])
def test_damaged_proofs_cost_at_most_what_they_proved(grown: Grown, which: str) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    node = full(town, "node", certificates)
    town.run(2)
    rows = node.disk.rows
    keys = {
        "the newest": [max(HEAD_KEYS, key=lambda key: len(rows[key]))],
        "both heads": list(HEAD_KEYS),
        "an epoch's end": [link_key(1)],
        "all proofs": [*HEAD_KEYS, link_key(1), link_key(2)],
    }[which]
    for key in keys:
        rows[key] = flip(rows[key])
    again = town.node("again", node.disk)
    again.settle()
    assert again.told("ledger.damaged")
    again.meet(server)
    assert town.until(again, branch.ledger.head.index)
    assert again.follower.ledger.digest() == branch.ledger.digest()
    assert again.follower.halted is None


def test_a_crash_between_any_two_effects_loses_no_proof(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    reached = 0
    for steps in range(0, 400, 7):
        quiet = Town(branch)
        node = quiet.node("node")
        node.crash_after = steps
        start = 1
        for certificate in certificates:
            if node.up:
                node.learn(branch, certificate, start)
            start = certificate.said.index + 1
        shown = node.advanced[-1].certificate.said.index if node.advanced else 0
        again = quiet.node("again", node.disk)
        again.settle()
        assert again.follower.whole
        assert again.head >= shown  # what was told is there
        assert again.follower.halted is None
        reached = max(reached, again.head)
        if steps % 70 == 0:
            quiet.nodes[server.peer] = server
            server.town = quiet
            again.meet(server)
            assert quiet.until(again, branch.ledger.head.index)
            server.leave(again)
    assert reached == branch.ledger.head.index


def test_the_ledger_of_another_genesis_on_disk_is_refused(grown: Grown) -> None:
    branch, certificates = grown
    node = full(Town(branch), "node", certificates)
    other = Branch(seats=5)
    with pytest.raises(WrongGenesisError):
        Follower(NETWORK, other.genesis, peer("node"), mac_verify, read=node.disk)
    assert GENESIS_KEY in node.disk.rows


def test_a_member_waits_for_its_seat_before_it_asks(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    town.run(2)
    member = town.node("member")
    member.follower.seated = True
    member.meet(server)
    town.run(0.2)
    assert not any(isinstance(said(data)[0], GetEntries) for _, _, data in town.traffic)
    assert town.until(member, branch.ledger.head.index)


def test_entries_are_read_from_disk_when_memory_forgets_them(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    node = town.node("node")
    node.follower.chain.history.log._keep = 2000  # type: ignore[attr-defined]
    node.follower.chain.history.log._room = 2000  # type: ignore[attr-defined]
    start = 1
    for certificate in certificates:
        node.learn(branch, certificate, start)
        start = certificate.said.index + 1
    log = node.follower.chain.history.log
    assert len(log._payloads) < 12  # type: ignore[attr-defined]
    newcomer = town.node("newcomer").meet(node)
    assert town.until(newcomer, branch.ledger.head.index)
    assert newcomer.follower.ledger.digest() == branch.ledger.digest()


def test_an_entry_that_the_disk_lost_meanwhile_is_fetched_when_it_is_asked_for(
    grown: Grown,
) -> None:
    branch, certificates = grown
    town = Town(branch)
    healthy = full(town, "healthy", certificates)
    node = full(town, "node", certificates)
    node.follower.chain.history.log._payloads.clear()  # type: ignore[attr-defined]
    town.run(2)
    DAMAGE["a torn record"](node.disk, 50)
    newcomer = town.node("newcomer").meet(node)
    town.run(3)
    assert newcomer.head < 50
    assert [emitted.fields["what"] for emitted in node.told("ledger.damaged")] == ["entry 50"]
    assert not node.faults(newcomer)
    node.meet(healthy)
    assert town.until(newcomer, branch.ledger.head.index, 120)
    again = town.node("again", node.disk)
    again.settle()
    assert again.follower.whole


def test_a_slow_peer_is_used_and_not_banned(grown: Grown) -> None:
    """Answers that come later than they are waited for still count."""
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    town.run(2)
    carry = town.arrive

    def slowly(sender: bytes, to: bytes, data: bytes) -> None:
        town.at(town.now + 7.0, lambda: carry(sender, to, data))

    town.arrive = slowly  # type: ignore[method-assign]
    newcomer = town.node("newcomer").meet(server)
    assert town.until(newcomer, branch.ledger.head.index, 300)
    assert len(newcomer.faults(server)) <= 4
    assert newcomer.advanced


def test_a_damaged_name_of_the_genesis_is_mended(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    node = full(town, "node", certificates)
    good = node.disk.rows[GENESIS_KEY]
    node.disk.rows[GENESIS_KEY] = flip(good)
    again = town.node("again", node.disk)
    again.settle()
    assert [one.fields["what"] for one in again.told("ledger.damaged")] == [
        "the genesis entry's hash"
    ]
    assert again.follower.whole
    assert again.head == branch.ledger.head.index
    assert node.disk.rows[GENESIS_KEY] == good


def test_patience_ends_with_the_seat(grown: Grown) -> None:
    """Who loses its seat while it waits for it asks for no Alarm that would change nothing."""
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    town.run(2)
    member = town.node("member")
    member.follower.seated = True
    town.lie(server, lambda message, raw: None)
    member.do(Received(server.peer, server.follower._heads.status()))
    assert member.follower.wake_at() == pytest.approx(town.now + 0.25)
    member.follower.seated = False
    town.run(0.3)
    wake = member.follower.wake_at()
    assert wake is not None
    assert wake > town.now
