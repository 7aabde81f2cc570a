"""Followers through loss, delay, copies, flipped bits and crashes: one seed is one run."""

import random
from functools import partial

import pytest

from protocols.ledger.council import Certificate
from tests.follow_kit import DELAY, Node, Town
from tests.ledger_world import Branch

SEEDS = range(40)
Grown = tuple[Branch, list[Certificate]]


@pytest.fixture(scope="module")
def grown() -> Grown:
    """Three epochs with checkpoints, and a certificate now and then."""
    branch = Branch(council__epoch_ms=60_000, council__checkpoint_entries=40)
    certificates = []
    for epoch in range(3):
        for _ in range(6):
            for _ in range(8):
                branch.append(branch.note())
                branch.append(*branch.ledger.due(None))
            certificates.append(branch.certify())
        if epoch < 2:
            branch.end_epoch()
            certificates.append(branch.certify())
    return branch, certificates


class Storm(Town):
    """A town whose net and disks misbehave until `calm`."""

    def __init__(self, branch: Branch, seed: int) -> None:
        super().__init__(branch)
        self.rng = random.Random(seed)
        self.calm = False
        self.happened: dict[str, int] = {}

    def happens(self, what: str, chance: float) -> bool:
        if self.calm or self.rng.random() >= chance:
            return False
        self.happened[what] = self.happened.get(what, 0) + 1
        return True

    def carry(self, sender: bytes, to: bytes, data: bytes) -> None:
        if self.happens("lost", 0.2):
            return
        if self.happens("flipped", 0.05):
            at = self.rng.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << self.rng.randrange(8),)) + data[at + 1 :]
        for _ in range(2 if self.happens("copied", 0.2) else 1):
            late = self.rng.expovariate(2.0) if self.happens("late", 0.3) else 0.0
            self.at(self.now + DELAY + late, partial(self.arrive, sender, to, data))

    def crash(self, node: Node) -> None:
        """Now, or after a few more effects; and it comes back with what its disk kept."""
        node.crash_after = self.rng.randrange(20) if self.happens("between", 0.5) else 0
        self.at(self.now + 1.0, partial(self.restart, node))

    def restart(self, node: Node) -> None:
        if self.happens("rot", 0.5) and node.disk.rows:
            key = self.rng.choice(sorted(node.disk.rows))
            record = node.disk.rows[key]
            node.disk.rows[key] = record[: self.rng.randrange(len(record) + 1)]
        node.up, node.crash_after, node.alarm = False, None, None
        node.start()
        node.meet(*[other for other in self.nodes.values() if other is not node and other.up])


@pytest.mark.parametrize("seed", SEEDS)
def test_all_have_the_same_ledger_in_the_end(grown: Grown, seed: int) -> None:
    branch, certificates = grown
    storm = Storm(branch, seed)
    settings = [{}, {"snapshot_gap": 50}, {"prune": True}, {}, {"keep_snapshots": False}]
    nodes = [storm.node(f"node {n}", **chosen) for n, chosen in enumerate(settings)]
    for node in nodes:
        node.meet(*[other for other in nodes if other.name > node.name])
    start = 1
    for certificate in certificates:
        if nodes[0].up:
            nodes[0].learn(branch, certificate, start)
            start = certificate.said.index + 1
        storm.run(storm.rng.uniform(0.1, 2.0))
        if storm.happens("crash", 0.3):
            storm.crash(storm.rng.choice(nodes[1:]))
    storm.run(5)
    storm.calm = True
    for node in nodes:
        if not node.up:
            storm.restart(node)
    head = branch.ledger.head.index
    assert storm.run(400, lambda: all(node.head == head for node in nodes)), [
        (node.head, node.follower.halted) for node in nodes
    ]
    assert {node.follower.ledger.digest() for node in nodes} == {branch.ledger.digest()}
    assert all(node.follower.halted is None for node in nodes)
    assert {"lost", "flipped", "copied", "late"} <= set(storm.happened)
