"""Repair with nobody asking: R copies come back, without a stampede, and liars do not count."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.effects import Blame
from protocols.gossip.peerscore import Fault
from protocols.gossip.shelf import Holding
from protocols.transfer.audit import RECHECK
from protocols.transfer.replication import (
    MAX_REPAIRS,
    PROBE_BURST,
    PROBE_RATE,
    RANKED_PER_TICK,
    AliveChanged,
    Forget,
    HoldersChanged,
    Learn,
    LearnFailed,
    ModelKnown,
    ProbeResult,
    RepairEnded,
    Replication,
    Settings,
    StartProbe,
    StartRepair,
    Tick,
)
from protocols.transfer.watch import MAX_LEARNS, MAX_MODELS, STRANGE_TILES
from tests.gossip_kit import MacIdentity, cid, identity
from tests.replication_world import MODEL, TILE_SECONDS, World
from tests.steps import at_most

R = 3


def full(world: World) -> set[int]:
    return set(range(world.tiles))


def spread(members: int, seed: int, holders: int = R, tiles: int = 100) -> World:
    """A swarm in which the first few hold the whole model, at rest."""
    world = World(members, seed, tiles=tiles)
    for member in list(world.members.values())[:holders]:
        world.hold(member, full(world))
    world.run(120)
    return world


def test_one_holder_becomes_r() -> None:
    world = World(8, seed=1)
    origin = next(iter(world.members.values()))
    world.hold(origin, full(world))
    world.run(90)
    assert world.copies() == R
    # Two copies were missing: two took each group, and nobody fetched a tile in vain.
    assert [len(world.repairers(group)) for group in range(world.groups())] == [R - 1] * 2
    assert world.fetched == (R - 1) * world.tiles


@settings(max_examples=20)
@given(members=st.integers(5, 12), seed=st.integers(0, 1 << 30), killed=st.integers(1, R - 1))
def test_killing_fewer_than_r_holders_loses_nothing_and_is_repaired(
    members: int, seed: int, killed: int
) -> None:
    world = spread(members, seed)
    assert world.repairs == []
    holders = [member for member in world.members.values() if member.tiles]
    when = world.now
    for member in random.Random(seed).sample(holders, killed):
        world.kill(member)
    room = min(R, len(world.members))
    # Missed after 20 s, a delay of 5, two groups of 64 tiles one after another, announcements.
    world.run(20 + 5 + 2 * 64 * TILE_SECONDS + 60)
    assert world.copies() >= room
    for group in range(world.groups()):
        # No stampede: as many as copies are missing, and at most one more.
        assert len(world.repairers(group, when)) <= killed + 1
    assert world.fetched <= (killed + 1) * world.tiles
    repairs = len(world.repairs)
    world.run(200)
    assert len(world.repairs) == repairs  # and then there is rest


@settings(max_examples=10)
@given(seed=st.integers(0, 1 << 30))
def test_deaths_one_after_another(seed: int) -> None:
    """Every four minutes somebody goes for good and somebody comes; nothing is ever lost."""
    world = spread(7, seed)
    for n in range(6):
        world.kill(world.rng.choice(list(world.members.values())))
        world.join(f"{seed} newcomer {n}")
        world.run(240)
        assert world.copies() >= R


def test_who_is_to_repair_and_does_not_is_replaced() -> None:
    """The first in the ranking are frozen: they are alive and never begin."""
    world = spread(8, seed=4)
    idle = [member for member in world.members.values() if not member.tiles]
    for member in idle[:3]:
        member.machine = Replication(member.peer, Settings(hold=False), random.Random(0).randrange)
    holder = next(member for member in world.members.values() if member.tiles)
    world.kill(holder)
    world.run(20 + 5 + 3 * 30 + 60)
    assert world.copies() >= R


def test_a_repairer_that_dies_at_work_is_replaced() -> None:
    world = spread(8, seed=5)
    world.kill(next(member for member in world.members.values() if member.tiles))
    while not world.repairs:
        world.run(1)
    world.run(3)
    world.kill(world.members[world.repairs[0][1]])
    world.run(200)
    assert world.copies() >= R


def test_with_too_few_daemons_all_hold_it() -> None:
    world = World(2, seed=6)
    world.hold(next(iter(world.members.values())), full(world))
    world.run(120)
    assert world.copies() == 2
    repairs = len(world.repairs)
    world.run(300)
    assert len(world.repairs) == repairs


def test_who_has_no_room_is_not_asked_to() -> None:
    big, small = 1 << 40, 100 << 20
    world = World(6, seed=7, rooms=[big, small, small, small, big, big])
    members = list(world.members.values())
    world.hold(members[0], full(world))
    world.run(200)
    assert world.copies() == 3
    assert all(not member.tiles for member in members[1:4])


def test_who_has_more_room_is_chosen_more_often() -> None:
    chosen = []
    for seed in range(40):
        world = World(5, seed, rooms=[1 << 40] + [1 << 36] * 3 + [1 << 40], tiles=4)
        members = list(world.members.values())
        world.hold(members[0], full(world))
        world.run(60)
        chosen += [members.index(world.members[peer]) for peer in world.repairers(0)]
    # 16 to 1 against each of three, and two are chosen.
    assert chosen.count(4) >= 36
    assert len(chosen) == 2 * 40


def test_who_claims_what_it_lacks_is_found_blamed_and_not_counted() -> None:
    world = World(8, seed=8)
    members = list(world.members.values())
    world.hold(members[0], full(world))
    for liar in members[1:3]:
        world.hold(liar, set(), claims=full(world))
    world.run(300)
    honest = [member for member in members[3:] if member.tiles]
    assert world.copies() == R
    assert len(honest) >= R - 1
    liars = {member.peer for member in members[1:3]}
    assert {peer for _, peer in world.blamed} == liars
    assert {blamer for blamer, _ in world.blamed} >= {member.peer for member in honest}


def test_who_lost_part_of_it_is_found_in_a_while() -> None:
    world = spread(8, seed=9)
    holder = next(member for member in world.members.values() if member.tiles)
    holder.tiles = set(range(50))  # the disk lost half
    world.run(1800)
    assert world.copies() >= R
    assert holder.peer in {peer for _, peer in world.blamed}


def test_partial_holders_add_up() -> None:
    """Six daemons with half each make three copies: nothing to repair."""
    world = World(8, seed=10, tiles=128)
    for n, member in enumerate(list(world.members.values())[:6]):
        world.hold(member, set(range(64)) if n % 2 else set(range(64, 128)))
    world.run(200)
    assert world.repairs == []
    assert world.copies() == R


def test_only_what_is_lacking_is_fetched() -> None:
    world = World(6, seed=11, tiles=128)
    members = list(world.members.values())
    for member in members[:2]:
        world.hold(member, full(world))
    world.hold(members[2], set(range(0, 128)) - {5, 6, 7, 100})
    world.run(120)
    assert world.copies() == R
    assert world.fetched == 4
    assert sorted(size for *_, size in world.repairs) == [1, 3]


def test_probes_are_paced() -> None:
    world = spread(6, seed=12)
    start = world.now
    world.run(600)
    for asker in world.members:
        for asked in world.members:
            number = sum(at >= start and (a, b) == (asker, asked) for at, a, b in world.probes)
            assert number <= 600 / 60 + 1


def test_not_everybody_takes_the_groups_in_one_order() -> None:
    orders = set()
    for seed in range(6):
        world = World(2, seed, tiles=64 * 6)
        world.hold(next(iter(world.members.values())), full(world))
        world.run(300)
        orders.add(tuple(group for _, _, group, _ in world.repairs))
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len(orders) > 3


# -- the machine alone ----------------------------------------------------------------------------

ME, THEM = identity(1).peer_id, identity(2).peer_id
EVERY = ((0, 64),)


def machine(**changes: float | bool) -> Replication:
    return Replication(ME, Settings(**{"copies": 2, "delay": 0.0, **changes}), lambda n: n - 1)


def of(effects: list[object], kind: type) -> list[object]:
    return [effect for effect in effects if isinstance(effect, kind)]


def ready(**changes: float | bool) -> Replication:
    """One other daemon holds all of a small model, and we have room (or none, with `hold`)."""
    ours = machine(**(changes | {"hold": True}))
    room = 1 << 40 if changes.get("hold", True) else 0
    ours.handle(AliveChanged({ME: room, THEM: 1 << 40}), 0)
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, EVERY),)), 0)
    ours.handle(ModelKnown(MODEL, 64, 64 << 22), 0)
    return ours


def test_a_manifest_is_asked_for_now_and_then_and_of_the_living() -> None:
    ours = machine()
    gone = identity(3).peer_id
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, EVERY), Holding(gone, EVERY))), 0)
    assert ours.handle(Tick(), 0) == []
    ours.handle(AliveChanged({ME: 1 << 40, THEM: 0}), 0)
    asked = []
    for second in range(1, 1200):
        for effect in ours.handle(Tick(), second):
            assert effect == Learn(MODEL, (THEM,))
            asked.append(second)
            ours.handle(LearnFailed(MODEL), second)
    assert asked == [1, 31, 91, 211, 451, 931]  # ever more rarely
    assert ours.handle(HoldersChanged(MODEL, ()), 1200) == [Forget(MODEL)]
    assert ours.models() == []


def test_a_repair_is_started_once_and_its_failure_backs_off() -> None:
    ours = ready()
    effects = ours.handle(Tick(), 0)
    assert of(effects, StartRepair) == [StartRepair(MODEL, 0, EVERY)]
    assert ours.standing(MODEL).repairing == (0,)
    assert of(ours.handle(Tick(), 10), StartRepair) == []
    started = [11.0]
    for _ in range(4):
        ours.handle(RepairEnded(MODEL, 0, False), started[-1])
        now = started[-1]
        while not of(ours.handle(Tick(), now), StartRepair):
            ours.handle(ProbeResult(MODEL, THEM, True), now)
            now += 1
        started.append(now)
    waits = [after - before for before, after in pairwise(started)]
    assert waits == [60, 120, 240, 480]


def test_probes_name_a_tile_that_is_announced_and_a_random_leaf() -> None:
    ours = machine()
    ours.handle(AliveChanged({ME: 0, THEM: 0}), 0)
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, ((3, 2), (9, 1))),)), 0)
    ours.handle(ModelKnown(MODEL, 64, 64 << 22), 0)
    probes = of(ours.handle(Tick(), 0), StartProbe)
    assert probes == [StartProbe(THEM, MODEL, 9, (1 << 32) - 1)]


def test_silence_is_no_lie_but_does_not_prove() -> None:
    ours = ready(hold=False)
    for second in range(100):
        for _ in of(ours.handle(Tick(), second), StartProbe):
            assert ours.handle(ProbeResult(MODEL, THEM, None), second) == []
        assert ours.standing(MODEL).copies == (1 if second < 30 else 0)


def test_who_proves_himself_again_counts_again_and_is_not_blamed() -> None:
    ours = ready()
    ours.handle(Tick(), 0)
    assert ours.handle(ProbeResult(MODEL, THEM, False), 1) == []
    ours.handle(Tick(), 2)
    assert ours.standing(MODEL).copies == 0
    assert of(ours.handle(Tick(), RECHECK - 0.1), StartProbe) == []
    (probe,) = of(ours.handle(Tick(), RECHECK), StartProbe)
    ours.handle(ProbeResult(MODEL, THEM, True), RECHECK + 1)
    ours.handle(Tick(), RECHECK + 2)
    assert ours.standing(MODEL).copies == 1
    assert probe


def test_who_fails_twice_has_lied_unless_it_said_otherwise_in_between() -> None:
    """An honest daemon whose model was just removed is asked before we hear of it."""
    ours = ready()
    ours.handle(Tick(), 0)
    ours.handle(ProbeResult(MODEL, THEM, False), 1)
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, ((0, 63),)),)), 3)
    assert of(ours.handle(Tick(), RECHECK), StartProbe)
    assert ours.handle(ProbeResult(MODEL, THEM, False), RECHECK + 1) == []
    assert of(ours.handle(Tick(), 2 * RECHECK), StartProbe)
    (blame,) = ours.handle(ProbeResult(MODEL, THEM, False), 2 * RECHECK + 1)
    assert isinstance(blame, Blame)
    assert (blame.peer, blame.fault) == (THEM, Fault.LIED)


def test_a_probe_that_is_never_answered_is_repeated() -> None:
    ours = ready(hold=False)
    asked = [second for second in range(200) if of(ours.handle(Tick(), second), StartProbe)]
    assert asked == [0, 60, 120, 180]


def test_with_many_holders_probes_keep_to_their_rate_and_nobody_loses_trust_for_it() -> None:
    ours = machine()
    ours.handle(AliveChanged({ME: 0, THEM: 0}), 0)
    models = [cid(f"model {n}") for n in range(300)]
    for model in models:
        ours.handle(HoldersChanged(model, (Holding(THEM, EVERY),)), 0)
        ours.handle(ModelKnown(model, 64, 64 << 22), 0)
    asked: list[bytes] = []
    for second in range(1200):
        for probe in of(ours.handle(Tick(), second), StartProbe):
            assert isinstance(probe, StartProbe)
            asked.append(probe.model)
            ours.handle(ProbeResult(probe.model, THEM, True), second)
        assert all(ours.standing(model).copies == 1 for model in models[::50])
    assert len(asked) <= PROBE_RATE * 1200 + PROBE_BURST
    assert all(3 <= asked.count(model) <= 5 for model in models)


def test_repairs_at_a_time_are_bounded() -> None:
    ours = machine()
    ours.handle(AliveChanged({ME: 1 << 50, THEM: 0}), 0)
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, ((0, 6400),)),)), 0)
    ours.handle(ModelKnown(MODEL, 6400, 6400 << 22), 0)
    started: list[object] = []
    for second in range(100):
        started += of(ours.handle(Tick(), second), StartRepair)
    assert len(started) == MAX_REPAIRS


def test_who_took_it_back_is_not_waited_for() -> None:
    """It ranks as it did when it was the first to repair, and its owner does not want it."""
    them = [identity(n).peer_id for n in range(30, 36)]
    begun = {}
    for took_back in (False, True):
        ours = machine(step=30.0)
        ours.handle(AliveChanged(dict.fromkeys([ME, THEM, *them], 1 << 40)), 0)
        holdings = (Holding(THEM, EVERY), *(Holding(peer, EVERY) for peer in them))
        ours.handle(HoldersChanged(MODEL, holdings if took_back else holdings[:1]), 0)
        ours.handle(ModelKnown(MODEL, 64, 64 << 22), 0)
        ours.handle(Tick(), 0)
        ours.handle(HoldersChanged(MODEL, holdings[:1]), 1)
        now = 1.0
        while not of(ours.handle(Tick(), now), StartRepair):
            ours.handle(ProbeResult(MODEL, THEM, True), now)
            now += 1
        begun[took_back] = now
    assert begun[True] <= 2 < 30 <= begun[False]


def test_a_change_for_the_worse_is_told_once_and_so_is_the_better() -> None:
    ours = ready(hold=False)
    told = [e.kind for s in range(5) for e in ours.handle(Tick(), s) if hasattr(e, "fields")]
    assert told == ["replication.short"]
    both = (Holding(THEM, EVERY), Holding(ME, EVERY))
    ours.handle(HoldersChanged(MODEL, both), 5)
    told = [e.kind for s in range(5, 9) for e in ours.handle(Tick(), s) if hasattr(e, "fields")]
    assert told == ["replication.restored"]
    assert ours.standing(MODEL).copies == ours.standing(MODEL).most == 2
    assert ours.standing(cid("another")).tiles == 0


# -- strangers who announce what there is not ------------------------------------------------------


def junk(ours: Replication, number: int, holder: bytes = THEM, tiles: int = 64) -> list[bytes]:
    """So many models that somebody announces, known to us as far as we want to."""
    models = [cid(f"junk {holder.hex()} {n}") for n in range(number)]
    for model in models:
        ours.handle(HoldersChanged(model, (Holding(holder, ((0, tiles),)),)), 0)
        ours.handle(ModelKnown(model, tiles, tiles << 22), 0)
    return models


def test_a_manifest_that_claims_a_world_of_tiles_costs_nothing() -> None:
    """4,096 flat files of 4 TiB fit a manifest of a megabyte: 4 billion tiles."""
    ours = machine()
    ours.handle(AliveChanged({ME: 1 << 40, THEM: 0}), 0)
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, ((0, 1),)),)), 0)
    assert of(ours.handle(Tick(), 0), Learn) == [Learn(MODEL, (THEM,))]
    with at_most(lines=100_000):
        assert ours.handle(ModelKnown(MODEL, 1 << 32, 1 << 54), 1) == [Forget(MODEL)]
        for second in range(1, 4000, 7):
            assert ours.handle(Tick(), second) == []
    assert ours.standing(MODEL).tiles == 0


def test_of_too_many_strange_models_each_daemon_watches_others_and_its_own_always() -> None:
    watched: list[set[bytes]] = []
    for who in range(3):
        ours = Replication(identity(10 + who).peer_id, Settings(), lambda n: n - 1)
        ours.handle(AliveChanged({identity(10 + who).peer_id: 0, THEM: 0}), 0)
        models = junk(ours, MAX_MODELS + 200)
        mine = cid("mine")
        own = Holding(identity(10 + who).peer_id, EVERY)
        ours.handle(HoldersChanged(mine, (own, Holding(THEM, EVERY))), 0)
        gone = of(ours.handle(Tick(), 0), Forget)
        assert len(gone) == 200
        assert len(ours.models()) == MAX_MODELS + 1
        assert mine in ours.models()
        watched.append(set(ours.models()) & set(models))
    assert len(set.intersection(*watched)) < MAX_MODELS - 100
    assert len(set.union(*watched)) > len(models) - 30


def test_the_tiles_of_strange_models_are_bounded_in_all() -> None:
    ours = machine()
    ours.handle(AliveChanged({ME: 1 << 40, THEM: 0}), 0)
    tiles = STRANGE_TILES // 10
    junk(ours, 40, tiles=tiles)
    gone = of(ours.handle(Tick(), 0), Forget)
    assert len(gone) == 30
    assert sum(ours.standing(model).tiles for model in ours.models()) <= STRANGE_TILES


def test_a_thousand_announced_by_one_do_not_keep_out_one_announced_by_another() -> None:
    ours = machine()
    honest = identity(5).peer_id
    ours.handle(AliveChanged({ME: 1 << 40, THEM: 0, honest: 0}), 0)
    for n in range(1000):
        ours.handle(HoldersChanged(cid(f"junk {n}"), (Holding(THEM, EVERY),)), 0)
    learning = of(ours.handle(Tick(), 0), Learn)
    assert len(learning) == MAX_LEARNS
    ours.handle(HoldersChanged(MODEL, (Holding(honest, EVERY),)), 1)
    assert of(ours.handle(Tick(), 1), Learn) == []  # all places are taken
    ours.handle(LearnFailed(learning[0].model), 15)
    assert of(ours.handle(Tick(), 15), Learn) == [Learn(MODEL, (honest,))]


def test_a_tick_ranks_few_however_much_is_short_of_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = machine()
    ranking, rankings = ours._turns._ranking, 0

    def ranked(*args: Any) -> Any:
        nonlocal rankings
        rankings += 1
        return ranking(*args)

    monkeypatch.setattr(ours._turns, "_ranking", ranked)
    crowd = {identity(20 + n).peer_id: 1 << 40 for n in range(200)}
    ours.handle(AliveChanged({ME: 1 << 40, THEM: 0, **crowd}), 0)
    models = junk(ours, 800)
    looked: set[bytes] = set()
    for second in range(60):
        rankings = 0
        ours.handle(Tick(), second)
        # Four times as many, 60,000 daemons, where all models are looked at in every tick.
        assert rankings * len(crowd) <= 2 * RANKED_PER_TICK
        looked |= {model for model in models if ours.standing(model).tiles}
    assert len(looked) == len(models)  # and all have their turn


def test_strangers_who_claim_room_and_never_repair_delay_it_by_minutes_and_not_by_hours() -> None:
    settings = Settings()
    ours = Replication(ME, settings, lambda n: n - 1)
    crowd = [MacIdentity(f"sybil {n}").peer_id for n in range(1000)]
    ours.handle(AliveChanged({ME: 1 << 34, THEM: 0, **dict.fromkeys(crowd, 1 << 48)}), 0)
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, EVERY),)), 0)
    ours.handle(ModelKnown(MODEL, 64, 64 << 22), 0)
    now = 0.0
    while not of(ours.handle(Tick(), now), StartRepair):
        ours.handle(ProbeResult(MODEL, THEM, True), now)
        now += 1
    assert 60 < now < 10 * settings.step + 10


def test_who_holds_nothing_for_others_learns_nothing_of_others() -> None:
    ours = machine(hold=False)
    ours.handle(AliveChanged({ME: 0, THEM: 0}), 0)
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, EVERY),)), 0)
    assert ours.handle(Tick(), 0) == []
    ours.handle(HoldersChanged(MODEL, (Holding(THEM, EVERY), Holding(ME, EVERY))), 1)
    assert of(ours.handle(Tick(), 1), Learn) == [Learn(MODEL, (THEM, ME))]


@pytest.mark.parametrize("wrong", [{"copies": 0}, {"step": 0.0}, {"grace": -1.0}])
def test_settings_that_cannot_be_meant_are_our_bug(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        machine(**wrong)
