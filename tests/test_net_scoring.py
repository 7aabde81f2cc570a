"""Rounds of scoring on a real net, with the reference and with other implementations in force."""

from collections.abc import Callable

import pytest
from libp2p.peer.id import ID

from protocols.gossip.peerscore import Fault
from protocols.slots.abi import I64_MAX, I64_MIN, Batch, Run
from protocols.slots.peer_scoring import NAME, PEERS, SLOT
from synapsed.net import router as routing
from synapsed.net.peers import Score
from synapsed.net.pubsub import PROTOCOLS
from synapsed.net.router import BEST, DEGREE, DEGREE_LOW, Router
from synapsed.net.scoring import Scorer, useful_share
from synapsed.slots import NATIVE_SLOTS
from tests.netlab import TOPIC, Node, holds, join, node, nodes, until
from tests.slot_kit import OtherSlots, inverted

ROUND = 0.1
UPSIDE_DOWN = inverted(SLOT, "keep")


def scores_of(one: Node) -> dict[bytes, Score]:
    return one.book._scores


def mesh_of(one: Node) -> set[bytes]:
    return {peer.to_bytes() for peer in one.net._gossip._router.mesh[TOPIC]}


@pytest.mark.parametrize("upside_down", [False, True])
async def test_a_full_node_drops_whom_the_slot_scores_least(upside_down: bool) -> None:
    slots = OtherSlots(NAME, UPSIDE_DOWN if upside_down else SLOT.reference)
    async with (
        node(max_connections=2, slots=slots, score_seconds=ROUND) as hub,
        nodes(3) as (friend, sinner, third),
    ):
        for guest in (friend, sinner):
            await guest.net.connect(hub.addr)
        await until(lambda: len(hub.net.peers()) == 2)
        hub.book.transferred(friend.id, 1 << 30, 10.0)
        hub.net.blame(sinner.id, Fault.LIED, "for the test")
        hub.book.transferred(third.id, 1 << 16, 10.0)
        rounds = len(slots.operations)
        await until(lambda: len(slots.operations) >= rounds + 2)
        await third.net.connect(hub.addr)
        stays = sinner if upside_down else friend
        await until(lambda: {p.id for p in hub.net.peers()} == {stays.id, third.id})
        peer = hub.net.peer(stays.id)
        assert peer is not None
        assert peer.score == scores_of(hub)[stays.id].keep


async def test_everybody_in_the_book_is_scored_and_newcomers_by_the_reference() -> None:
    seen: list[Batch] = []

    def all_alike(batch: Batch) -> None:
        seen.append(batch.copy())
        batch.answered("keep", [5000] * batch.rows[0])
        batch.answered("gossip", [-7000] * batch.rows[0])

    async with (
        node(slots=OtherSlots(NAME, all_alike), score_seconds=ROUND) as one,
        nodes(2) as (other, dialled),
    ):
        await other.net.connect(one.addr)
        await one.net.connect(dialled.addr)
        async with node() as gone:  # the book also has peers that are not connected
            one.net.learned(gone.id, gone.net.addrs())
        await until(lambda: len(scores_of(one)) == 3)
        assert one.book.worth(other.id) == 5.0
        assert one.book.gossip_worth(gone.id) == -7.0
        async with node() as newcomer:
            one.book.transferred(newcomer.id, 3 << 20, 1.0)
            assert one.book.worth(newcomer.id) == pytest.approx(2.0, abs=0.01)
            assert one.book.gossip_worth(newcomer.id) == 0.0
    last = seen[-1]
    rows = sorted(
        zip(
            last.column(PEERS, "connected").tolist(),
            last.column(PEERS, "dialled").tolist(),
            strict=True,
        )
    )
    assert [pair for pair in rows if pair[0]] == [(1, 0), (1, 1)]
    assert (0, 0) in rows


async def test_a_favourite_is_above_all_scores() -> None:
    def against_those_who_serve(batch: Batch) -> None:
        serves = [useful > 0 for useful in batch.column(PEERS, "useful")]
        batch.answered("keep", [I64_MIN if each else I64_MAX for each in serves])
        batch.answered("gossip", [0] * len(serves))

    slots = OtherSlots(NAME, against_those_who_serve)
    async with node(slots=slots, score_seconds=ROUND) as hub, nodes(2) as (member, other):
        for guest in (member, other):
            await guest.net.connect(hub.addr)
        hub.book.favourites = frozenset({member.id})
        hub.book.transferred(member.id, 1 << 30, 1.0)
        await until(lambda: scores_of(hub).get(member.id, Score(0, 0)).keep < 0)
        assert scores_of(hub)[other.id].keep > 0
        assert hub.book.worth(member.id) > hub.book.worth(other.id)


@pytest.mark.parametrize(("run", "wanted"), [(SLOT.reference, 1_000_000), (UPSIDE_DOWN, 0)])
async def test_a_round_achieves_the_better_halfs_share_of_what_came(run: Run, wanted: int) -> None:
    slots = OtherSlots(NAME, run)
    async with node() as hub, nodes(2) as (busy, idle):
        hub.subscribe()
        for guest in (busy, idle):
            guest.subscribe()
            await join(hub, guest)
        hub.book.transferred(busy.id, 100 << 30, 1.0)
        scorer = Scorer(hub.net._switch, slots)
        await scorer.score()
        sent = [bytes([number]) for number in range(20)]
        for data in sent:
            await busy.net.publish(TOPIC, data)
        await hub.gets(sent)
        await scorer.score()
        await scorer.score()
        assert hub.book.service[busy.id].delivered == 20
        # Nothing came in the second round: nothing is known of it.
        assert [its.all_achieved for its in slots.operations] == [[wanted], [], []]


def test_the_share_of_the_better_half() -> None:
    a, b, c = b"a", b"b", b"c"
    assert useful_share([a, b], {a: 3, b: 1}) == 750_000
    assert useful_share([b, a], {a: 3, b: 1}) == 250_000
    assert useful_share([a, b, c], {a: 2, b: 2, c: 2}) == 500_000
    assert useful_share([a], {a: 2}) is None
    assert useful_share([a, b], {a: 0, b: 0}) is None
    assert useful_share([], {}) is None


# -- gossip ---------------------------------------------------------------------------------


async def test_a_mesh_that_is_too_large_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "HEARTBEAT", 0.1)
    async with node() as hub, nodes(10) as guests:
        for guest in guests:
            await guest.net.connect(hub.addr)
        scores = {guest.id: Score(0, float(at)) for at, guest in enumerate(guests)}
        hub.book.scored(scores)
        for one in (hub, *guests):
            one.subscribe()
        await until(lambda: TOPIC in hub.net._gossip._router.mesh)
        await until(lambda: len(mesh_of(hub)) >= DEGREE)
        await holds(lambda: len(mesh_of(hub)) >= DEGREE_LOW, 0.5)
        best = {guest.id for guest in guests[-BEST:]}
        await until(lambda: best <= mesh_of(hub))


def test_those_below_nothing_are_grafted_last_and_pruned_first() -> None:
    peers = [ID(bytes([number]) * 38) for number in range(12)]
    score = {peer: float(number - 4) for number, peer in enumerate(peers)}
    router = Router(PROTOCOLS, lambda *_, **__: None, score.__getitem__)
    drawn = [tuple(router._wanted_first(peers)) for _ in range(20)]
    assert all(set(each[-4:]) == set(peers[:4]) for each in drawn)
    assert len(set(drawn)) > 1, "by lot among those who are wanted alike"
    stayed = [frozenset(router._best_and_others(peers)) for _ in range(20)]
    assert all(len(each) == DEGREE and each > set(peers[-BEST:]) for each in stayed)
    assert len(set(stayed)) > 1


async def test_who_is_unwanted_leaves_the_mesh_for_another_and_a_mesh_is_never_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routing, "HEARTBEAT", 0.1)
    monkeypatch.setattr(routing, "PRUNE_BACKOFF", 1)
    async with node() as hub, nodes(10) as guests:
        hub.subscribe()
        for guest in guests:
            guest.subscribe()
            await join(hub, guest)
        await until(lambda: DEGREE <= len(mesh_of(hub)) < len(guests))

        def score_all(worth: Callable[[bytes], float]) -> None:
            hub.book.scored({guest.id: Score(0, worth(guest.id)) for guest in guests})

        unwanted = min(mesh_of(hub))
        score_all(lambda peer: -1.0 if peer == unwanted else 1.0)
        await until(lambda: unwanted not in mesh_of(hub))
        score_all(lambda _peer: -1e6)
        await holds(lambda: len(mesh_of(hub)) >= DEGREE_LOW, 1.0)
        hub.got.clear()
        await guests[0].net.publish(TOPIC, b"still")
        await hub.gets([b"still"])


async def test_the_reference_is_what_a_daemon_without_upgrades_uses() -> None:
    async with node(score_seconds=ROUND) as one, node() as other:
        await one.net.connect(other.addr)
        one.book.transferred(other.id, 3 << 20, 1.0)
        await until(lambda: other.id in scores_of(one))
        assert NATIVE_SLOTS.operation(NAME).version == 0
        await until(lambda: 1.9 < scores_of(one)[other.id].keep < 4.1)
