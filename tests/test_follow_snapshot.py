"""Beginning at a ratified checkpoint: serving, installing, pruning, and states that lie."""

from typing import Any

import msgspec
import pytest

from protocols.follow import chain as followchain
from protocols.follow import log as followlog
from protocols.follow import serve as followserve
from protocols.follow import snapshot as followsnapshot
from protocols.follow.archive import export, verify_archive
from protocols.follow.load import PRUNED_KEY
from protocols.follow.log import entry_key
from protocols.follow.messages import (
    MAX_PART,
    Entries,
    GetEntries,
    GetSnapshot,
    Links,
    Said,
    Snapshot,
    Status,
    frame,
)
from protocols.follow.prune import read_pruned
from protocols.follow.snapshot import is_checkpoint, snapshot_key
from protocols.ledger.council import Certificate
from tests.follow_kit import Node, Town, resaid, said
from tests.gossip_kit import mac_verify
from tests.ledger_world import Branch

replace = msgspec.structs.replace
Grown = tuple[Branch, list[Certificate]]


def grow(branch: Branch, count: int) -> Certificate:
    """Notes, with checkpoints where they are due."""
    for _ in range(count):
        branch.append(branch.note())
        branch.append(*branch.ledger.due(None))
    return branch.certify()


@pytest.fixture(scope="module")
def grown() -> Grown:
    """Three epochs with a checkpoint every 20 entries; do not append."""
    branch = Branch(council__epoch_ms=60_000, council__checkpoint_entries=20)
    certificates = []
    for _ in range(2):
        certificates.append(grow(branch, 50))
        branch.end_epoch()
        certificates.append(branch.certify())
    certificates.append(grow(branch, 70))
    return branch, certificates


def full(town: Town, name: str, certificates: list[Certificate], **settings: Any) -> Node:
    node, start = town.node(name, **settings), 1
    for certificate in certificates:
        node.learn(town.branch, certificate, start)
        start = certificate.said.index + 1
    return node


def checkpoints(branch: Branch) -> list[int]:
    return [index for index, one in enumerate(branch.payloads) if is_checkpoint(one)]


def answers(town: Town, to: Node) -> list[Said]:
    return [said(data)[0] for _, receiver, data in town.traffic if receiver == to.peer]


def test_a_newcomer_begins_at_the_newest_checkpoint(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    newcomer = town.node("newcomer", snapshot_gap=100).meet(server)
    assert town.until(newcomer, branch.ledger.head.index)
    assert newcomer.follower.ledger.digest() == branch.ledger.digest()
    last = checkpoints(branch)[-1]
    assert newcomer.follower.chain.history.log.base == last
    assert newcomer.advanced[0].first == last
    fetched = [one for one in answers(town, newcomer) if isinstance(one, Entries)]
    assert sum(len(one.lengths) for one in fetched) == branch.ledger.head.index - last
    assert newcomer.follower.chain.history.ended == server.follower.chain.history.ended


def test_a_short_ledger_is_followed_from_the_genesis(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    newcomer = town.node("newcomer", snapshot_gap=10_000).meet(server)
    assert town.until(newcomer, branch.ledger.head.index)
    assert not any(isinstance(one, Snapshot) for one in answers(town, newcomer))


def test_who_keeps_no_states_leaves_newcomers_the_entries(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates, keep_snapshots=False)
    newcomer = town.node("newcomer", snapshot_gap=100).meet(server)
    assert town.until(newcomer, branch.ledger.head.index)
    assert newcomer.advanced[0].first == 1


def test_where_all_have_pruned_even_the_unwilling_begin_at_a_checkpoint(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates, prune=True)
    server.settle()
    newcomer = town.node("newcomer").meet(server)
    assert town.until(newcomer, branch.ledger.head.index)
    assert newcomer.follower.ledger.digest() == branch.ledger.digest()


def test_pruning_forgets_below_the_checkpoint_before_the_newest(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    node = full(town, "node", certificates, prune=True)
    node.settle()
    base = checkpoints(branch)[-2]
    assert node.follower.chain.history.log.base == base
    held = [index for index in range(1, len(branch.heads)) if entry_key(index) in node.disk.rows]
    assert held == list(range(base, len(branch.heads)))
    assert [key for key, _ in node.disk.items(b"s")] == [snapshot_key(checkpoints(branch)[-1])]
    pruned = read_pruned(node.disk)
    assert (pruned.base, pruned.gone) == (base, base)


def test_a_pruned_ledger_is_loaded_from_its_state(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    node = full(town, "node", certificates, prune=True)
    node.settle()
    again = town.node("again", node.disk, prune=True)
    again.settle()
    assert again.follower.whole
    assert again.follower.ledger.digest() == branch.ledger.digest()
    assert again.follower.certificate == certificates[-1]
    newcomer = town.node("newcomer", snapshot_gap=1).meet(again)
    assert town.until(newcomer, branch.ledger.head.index)


@pytest.mark.parametrize("damage", ["flipped", "gone", "edited"])
def test_a_damaged_state_on_disk_is_named_and_fetched(grown: Grown, damage: str) -> None:
    from protocols.follow.log import TABLE
    from protocols.records import guarded, unguarded

    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    node = full(town, "node", certificates, prune=True)
    node.settle()
    town.run(2)
    ((key, record),) = node.disk.items(b"s")
    match damage:
        case "flipped":
            node.disk.rows[key] = record[:-1] + bytes((record[-1] ^ 1,))
        case "gone":
            del node.disk.rows[key]
        case "edited":
            value = bytearray(unguarded(TABLE, key, record))
            value[-40] ^= 1
            node.disk.rows[key] = guarded(TABLE, key, bytes(value))
    again = town.node("again", node.disk)
    again.settle()
    assert again.told("ledger.damaged")
    assert not again.follower.whole
    again.meet(server)
    assert town.run(60, lambda: again.follower.whole)
    assert again.follower.ledger.digest() == branch.ledger.digest()


def test_a_crash_while_pruning_leaves_nothing_and_loses_nothing(grown: Grown) -> None:
    branch, certificates = grown
    for steps in range(300, 620, 11):
        town = Town(branch)
        node = town.node("node", prune=True)
        node.crash_after = steps
        start = 1
        for certificate in certificates:
            if node.up:
                node.learn(branch, certificate, start)
            start = certificate.said.index + 1
        node.settle()
        again = town.node("again", node.disk, prune=True)
        again.settle()
        assert again.follower.whole
        assert again.follower.halted is None
        shown = node.advanced[-1].certificate.said.index if node.advanced else 0
        assert again.head >= shown
        if PRUNED_KEY in node.disk.rows:
            pruned = read_pruned(node.disk)
            assert not any(entry_key(index) in node.disk.rows for index in range(1, pruned.gone))


LIES = ("a flipped state", "a longer state", "no parts", "another checkpoint", "a forged link")


@pytest.mark.parametrize("lie", LIES)
def test_a_state_that_lies_is_refused_and_others_are_asked(grown: Grown, lie: str) -> None:
    branch, certificates = grown
    town = Town(branch)
    liar = full(town, "liar", certificates)
    honest = full(town, "honest", certificates)

    def change(message: Said, raw: bytes) -> bytes | None:
        match lie, message:
            case "a flipped state", Snapshot():
                return resaid(message, raw[:-1] + bytes((raw[-1] ^ 1,)))
            case "a longer state", Snapshot():
                return resaid(replace(message, size=message.size + MAX_PART), raw)
            case "no parts", Snapshot():
                return None
            case "another checkpoint", Snapshot():
                header = replace(message.header, payload=bytes(32))
                return resaid(replace(message, header=header), raw)
            case "a forged link", Links():
                links = list(message.links)
                certificate = links[0].certificate
                two = replace(
                    certificate,
                    seats=certificate.seats[:2],
                    signatures=certificate.signatures[:2],
                )
                links[0] = replace(links[0], certificate=two)
                return resaid(replace(message, links=links), raw)
            case _, Entries():
                return None
        return resaid(message, raw)

    town.run(2)
    town.lie(liar, change)
    newcomer = town.node("newcomer", snapshot_gap=100).meet(liar)
    town.run(20)
    assert newcomer.head == 0
    assert newcomer.faults(liar)
    newcomer.meet(honest)
    assert town.until(newcomer, branch.ledger.head.index, 90)
    assert newcomer.follower.ledger.digest() == branch.ledger.digest()
    assert newcomer.follower.halted is None
    assert not newcomer.faults(honest)


def test_a_state_in_many_parts(monkeypatch: pytest.MonkeyPatch, grown: Grown) -> None:

    monkeypatch.setattr(followserve, "MAX_PART", 300)
    monkeypatch.setattr(followsnapshot, "MAX_PART", 300)
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    newcomer = town.node("newcomer", snapshot_gap=100).meet(server)
    assert town.until(newcomer, branch.ledger.head.index)
    asked = [one for one in answers(town, server) if isinstance(one, GetSnapshot)]
    assert len(asked) > 5
    assert not any(isinstance(one, GetEntries) and one.start < 100 for one in asked)
    status = [one for one in answers(town, newcomer) if isinstance(one, Status)]
    assert status
    assert frame(status[0])


def test_who_has_a_history_skips_a_part_of_it_only_when_nobody_has_it_for_long(
    grown: Grown,
) -> None:
    branch, certificates = grown
    town = Town(branch)
    pruned = full(town, "pruned", certificates, prune=True)
    pruned.settle()
    town.run(2)
    late = town.node("late").learn(branch, certificates[0])
    had = late.head
    rows = {key for key in late.disk.rows if key[:1] == b"e"}
    late.meet(pruned)
    town.run(20)
    assert late.head == had
    assert town.until(late, branch.ledger.head.index, 90)
    assert late.follower.ledger.digest() == branch.ledger.digest()
    (skipped,) = late.told("ledger.skipped")
    assert skipped.fields["from"] == had + 1
    assert rows <= set(late.disk.rows)
    whole = full(town, "whole", certificates)
    again = town.node("again", late.disk)
    again.meet(whole)
    assert town.run(90, lambda: again.follower.whole)
    assert again.follower.chain.history.log.base == 1
    assert again.follower.ledger.digest() == branch.ledger.digest()


def test_a_restart_begins_at_the_newest_state_and_serves_all_before_it(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followlog, "KEEP_HASHES", 16)
    branch, certificates = grown
    town = Town(branch)
    node = full(town, "node", certificates)
    log = node.follower.chain.history.log
    assert isinstance(log, followlog.MemoryLog)
    assert len(log._hashes) < 2 * 16 * 32 + 32
    town.run(2)
    again = town.node("again", node.disk)
    again.settle()
    assert again.follower.whole
    assert again.advanced[0].first == checkpoints(branch)[-1]
    assert again.follower.ledger.digest() == branch.ledger.digest()
    history = again.follower.chain.history
    assert history.log.base == 1
    assert [history.log.hash(head.index) for head in branch.heads] == [
        head.hash for head in branch.heads
    ]
    newcomer = town.node("newcomer").meet(again)
    assert town.until(newcomer, branch.ledger.head.index)
    assert newcomer.advanced[0].first == 1
    report = verify_archive(export(branch.network, branch.genesis, history), mac_verify)
    assert report.digest == branch.ledger.digest()


def test_proofs_that_are_kept_go_when_a_state_makes_them_needless(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followchain, "POINT_EVERY", 5)
    branch, certificates = grown
    town = Town(branch)
    node = full(town, "node", certificates)
    last = checkpoints(branch)[-1]
    kept = [int.from_bytes(key[1:], "big") for key, _ in node.disk.items(b"p")]
    assert all(index > last for index in kept)
    again = town.node("again", node.disk)
    again.settle()
    assert again.follower.whole


def test_an_entry_below_the_state_that_the_disk_lost_is_fetched_when_it_is_asked_for(
    grown: Grown,
) -> None:
    branch, certificates = grown
    town = Town(branch)
    healthy = full(town, "healthy", certificates)
    node = full(town, "node", certificates)
    town.run(2)
    key = entry_key(20)
    good = node.disk.rows[key]
    node.disk.rows[key] = good[:-1] + bytes((good[-1] ^ 1,))
    again = town.node("again", node.disk)
    again.settle()
    assert again.follower.whole
    newcomer = town.node("newcomer").meet(again)
    town.run(3)
    assert again.told("ledger.damaged")
    assert newcomer.head < 20
    again.meet(healthy)
    assert town.until(newcomer, branch.ledger.head.index, 120)
    assert node.disk.rows[key] == good


@pytest.mark.parametrize("garbage", ["the whole", "a part"])
def test_a_late_answer_lands_in_nobody_elses_download(
    grown: Grown, monkeypatch: pytest.MonkeyPatch, garbage: str
) -> None:
    """A liar lets its time run out, and answers while somebody else is being asked."""
    size = 1 << 18 if garbage == "the whole" else 300
    monkeypatch.setattr(followserve, "MAX_PART", size)
    monkeypatch.setattr(followsnapshot, "MAX_PART", size)
    branch, certificates = grown
    town = Town(branch)
    liar = full(town, "liar", certificates)
    town.run(2)
    kept: list[bytes] = []

    def late(message: Said, raw: bytes) -> bytes | None:
        if isinstance(message, Snapshot):
            kept.append(resaid(message, raw[:-1] + bytes((raw[-1] ^ 1,))))
            return None
        return resaid(message, raw) if not isinstance(message, Entries) else None

    town.lie(liar, late)
    newcomer = town.node("newcomer", snapshot_gap=100).meet(liar)
    assert town.run(20, lambda: len(kept) > 0)
    honest = full(town, "honest", certificates)
    newcomer.meet(honest)
    asked = lambda: any(isinstance(one, GetSnapshot) for one in answers(town, honest))  # noqa: E731
    assert town.run(30, asked)
    town.arrive(liar.peer, newcomer.peer, kept[0])
    assert town.until(newcomer, branch.ledger.head.index, 60)
    assert not newcomer.faults(honest)
    assert newcomer.follower.ledger.digest() == branch.ledger.digest()


def test_a_state_that_comes_too_late_does_not_set_the_ledger_back(grown: Grown) -> None:
    branch, certificates = grown
    town = Town(branch)
    server = full(town, "server", certificates)
    town.run(2)
    newcomer = town.node("newcomer", snapshot_gap=100).meet(server)
    held: list[tuple[bytes, bytes, bytes]] = []
    arrive = town.arrive

    def hold_back(sender: bytes, to: bytes, data: bytes) -> None:
        if isinstance(said(data)[0], Snapshot):
            held.append((sender, to, data))
        else:
            arrive(sender, to, data)

    town.arrive = hold_back  # type: ignore[method-assign]
    assert town.run(4, lambda: len(held) > 0)
    start = 1
    for certificate in certificates:  # as if other peers had brought the entries
        newcomer.learn(branch, certificate, start)
        start = certificate.said.index + 1
    head = newcomer.head
    for frame_ in held:
        arrive(*frame_)
    assert newcomer.head == head == branch.ledger.head.index
