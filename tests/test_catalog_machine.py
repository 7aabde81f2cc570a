"""The catalog: what it keeps, forgets, says, and in which order it asks for it to be done."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.codec import encode
from protocols.effects import Blame, Emit, Publish, Save
from protocols.errors import LimitError, NotHeldError
from protocols.gossip.announcement import Body, announcement_id
from protocols.gossip.catalog import (
    MAX_PASSED,
    PASSED_FOR,
    SUBJECT_SPACING,
    TABLE,
    Announce,
    Catalog,
    CatalogLimits,
    Changed,
    Heard,
    Restored,
    Tick,
    Withdraw,
)
from protocols.gossip.peerscore import Fault
from protocols.gossip.shelf import Holding
from protocols.gossip.validation import Verdict
from tests.gossip_kit import (
    HOUR,
    NOW,
    NOW_MS,
    MacIdentity,
    announce,
    bodies,
    catalog,
    cid,
    identity,
    sealed,
    shard,
)

US, THEM, OTHER = identity(1), identity(2), identity(3)
RELAY = identity(9).peer_id


def hear(
    into: Catalog, data: bytes, topic: str | None = "shard", at: float = NOW
) -> tuple[Verdict, str, list[Any]]:
    judgement, effects = into.hear(Heard(RELAY, data, topic), at)
    return judgement.verdict, judgement.row, effects


def kinds(effects: list[Any]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def emitted(effects: list[Any]) -> list[str]:
    return [effect.kind for effect in effects if isinstance(effect, Emit)]


def test_what_is_accepted_is_saved_told_and_found() -> None:
    ours = catalog(US)
    body = shard(tiles=((0, 4), (9, 2)))
    verdict, _, effects = hear(ours, sealed(THEM, body))
    assert verdict is Verdict.ACCEPT
    assert kinds(effects) == ["Save", "Emit", "Changed"]
    assert effects[0].table == TABLE
    assert effects[0].value == sealed(THEM, body)
    assert emitted(effects) == ["announcement.accepted"]
    assert ours.holders(cid("model")) == [Holding(THEM.peer_id, ((0, 4), (9, 2)))]
    assert [ours.holders_of_tile(cid("model"), tile) for tile in (3, 4, 8, 9, 10, 11)] == [
        [THEM.peer_id],
        [],
        [],
        [THEM.peer_id],
        [THEM.peer_id],
        [],
    ]
    assert ours.models() == [cid("model")]
    assert [entry.announcement for entry in ours.entries()] == [announce(THEM, body)]


def test_all_kinds_are_kept_apart() -> None:
    ours = catalog(US)
    for body in bodies():
        hear(ours, sealed(THEM, body), None)
    assert [entry.kind for entry in ours.entries()] == [
        "shard", "adapter", "kernel", "upgrade", "dataset", "proposal",
    ]  # fmt: skip
    assert [entry.announcement.body for entry in ours.entries("kernel")] == [bodies()[2]]


def test_a_newer_one_takes_the_place_of_an_older() -> None:
    ours = catalog(US)
    old, new = sealed(THEM), sealed(THEM, shard(tiles=((0, 9),)), seq=NOW_MS + 1)
    hear(ours, old)
    assert hear(ours, new)[0] is Verdict.ACCEPT
    assert hear(ours, old)[:2] == (Verdict.IGNORE, "older")
    assert hear(ours, new)[:2] == (Verdict.IGNORE, "held")
    assert ours.holders(cid("model")) == [Holding(THEM.peer_id, ((0, 9),))]
    assert len(ours) == len(ours.ids()) == 1
    assert not ours.wants(announcement_id(encode(announce(THEM))))


def test_two_of_one_number_end_the_same_everywhere_and_are_held_against_the_issuer() -> None:
    one, other = sealed(THEM), sealed(THEM, shard(tiles=((0, 9),)))
    results = []
    for order in ((one, other), (other, one)):
        ours = catalog(US)
        effects = [effect for data in order for effect in hear(ours, data)[2]]
        blamed = [effect for effect in effects if isinstance(effect, Blame)]
        assert [(blame.peer, blame.fault) for blame in blamed] == [(THEM.peer_id, Fault.LIED)]
        results.append(ours.ids())
    assert results[0] == results[1]
    assert len(results[0]) == 1


def test_one_contradiction_is_held_against_its_issuer_once_however_often_it_is_repeated() -> None:
    ours = catalog(US)
    one, other = sealed(THEM), sealed(THEM, shard(tiles=((0, 9),)))
    blamed = [
        effect
        for data in (one, other) * 5
        for effect in hear(ours, data)[2]
        if isinstance(effect, Blame)
    ]
    assert len(blamed) == 1


def test_withdrawn_is_a_tombstone_until_it_expires() -> None:
    ours = catalog(US)
    hear(ours, sealed(THEM))
    _, _, effects = hear(ours, sealed(THEM, seq=NOW_MS + 1, withdrawn=True))
    assert emitted(effects) == ["announcement.withdrawn"]
    assert ours.holders(cid("model")) == []
    assert ours.entries() == []
    assert ours.models() == []
    assert len(ours.ids()) == 1
    assert hear(ours, sealed(THEM))[:2] == (Verdict.IGNORE, "older")
    effects = ours.handle(Tick(), NOW + HOUR / 1000)
    assert kinds(effects) == ["Save", "Changed"]
    assert len(ours) == 0


def test_what_expires_is_forgotten_here_and_on_disk() -> None:
    ours = catalog(US)
    key = hear(ours, sealed(THEM))[2][0].key
    assert ours.handle(Tick(), NOW + HOUR / 1000 - 1) == []
    effects = ours.handle(Tick(), NOW + HOUR / 1000)
    assert effects[0] == Save(TABLE, key, None)
    assert emitted(effects) == ["announcement.expired"]
    assert Changed("shard", cid("model")) in effects
    assert ours.entries() == []
    assert ours.ids() == []


def test_a_refused_one_is_blamed_on_whom_we_asked_and_left_to_gossips_verdict_else() -> None:
    ours = catalog(US)
    forged = sealed(THEM)[:-1] + b"\x00"
    verdict, row, effects = hear(ours, forged, None)
    assert (verdict, row) == (Verdict.REJECT, "bad-signature")
    assert [(blame.peer, blame.fault) for blame in effects] == [(RELAY, Fault.REJECTED)]
    assert hear(ours, forged)[2] == []
    assert len(ours) == 0


def test_an_issuers_rate_holds_for_gossip_alone() -> None:
    ours = catalog(US, CatalogLimits(rate=1, burst=3))
    rows = [hear(ours, sealed(THEM, shard(f"m{n}")))[1] for n in range(4)]
    assert rows == ["", "", "", "over-rate"]
    assert hear(ours, sealed(OTHER))[1] == ""
    late = announcement_id(encode(announce(THEM, shard("m3"))))
    assert not ours.wants(late)  # not at once ...
    ours.handle(Tick(), NOW + PASSED_FOR)
    assert ours.wants(late)  # ... but soon
    assert hear(ours, sealed(THEM, shard("m3")), None)[1] == ""
    assert hear(ours, sealed(THEM, shard("m4")), at=NOW + 2)[1] == ""


def test_an_issuer_has_a_cap() -> None:
    ours = catalog(US, CatalogLimits(per_issuer=3))
    for n in range(3):
        assert hear(ours, sealed(THEM, shard(f"m{n}")), None)[1] == ""
    assert hear(ours, sealed(THEM, shard("m3")), None)[1] == "over-cap"
    assert hear(ours, sealed(THEM, shard("m0"), seq=NOW_MS + 1), None)[1] == ""
    assert hear(ours, sealed(OTHER, shard("m3")), None)[1] == ""
    assert not ours.wants(announcement_id(encode(announce(THEM, shard("m3")))))


def test_a_full_catalog_forgets_of_the_fullest_issuer_and_nothing_of_ours() -> None:
    ours = catalog(US, CatalogLimits(capacity=6, per_issuer=6))
    for n in range(2):
        ours.handle(Announce(shard(f"ours{n}")), NOW)
    hear(ours, sealed(OTHER, shard("single")), None)
    for n in range(6):
        _, _, effects = hear(ours, sealed(THEM, shard(f"m{n}"), expires=NOW_MS + HOUR + n), None)
    assert emitted(effects) == ["announcement.accepted", "announcement.crowded-out"]
    by_issuer = [entry.issuer for entry in ours.entries()]
    assert by_issuer.count(US.peer_id) == 2
    assert by_issuer.count(OTHER.peer_id) == 1
    assert by_issuer.count(THEM.peer_id) == 3
    # Those with the least time left went, and are not fetched again.
    assert not ours.wants(announcement_id(encode(announce(THEM, shard("m0")))))
    assert {cid(f"m{n}") for n in (3, 4, 5)} <= set(ours.models())


def test_room_is_counted_in_memory_and_not_only_in_announcements() -> None:
    """512 runs of a tile take 70 KB: 16,384 of those would be a gigabyte."""
    ours = catalog(US, CatalogLimits(memory=1 << 20))
    ours.handle(Announce(shard("ours")), NOW)
    hear(ours, sealed(OTHER, shard("small")), None)
    runs = tuple((2 * n, 1) for n in range(512))
    crowded = 0
    for n in range(40):
        effects = hear(ours, sealed(THEM, shard(f"m{n}", runs)), None)[2]
        crowded += "announcement.crowded-out" in emitted(effects)
    assert crowded > 20
    assert sum(1 for entry in ours.entries() if entry.issuer == THEM.peer_id) < 20
    assert ours.own("shard", cid("ours")) is not None
    assert [holding.peer for holding in ours.holders(cid("small"))] == [OTHER.peer_id]


def test_who_offers_a_thing_is_found_whatever_its_kind() -> None:
    ours = catalog(US)
    for body in bodies():
        hear(ours, sealed(THEM, body), None)
    hear(ours, sealed(OTHER, bodies()[1]), None)
    assert ours.offering(bodies()[1].subject) == sorted([THEM.peer_id, OTHER.peer_id])
    assert ours.offering(cid("model")) == [THEM.peer_id]
    assert ours.offering(cid("nothing")) == []
    assert ours.counts() == {
        "shard": 1, "adapter": 2, "kernel": 1, "upgrade": 1, "dataset": 1, "proposal": 1,
    }  # fmt: skip


# -- our own ------------------------------------------------------------------------------------


def test_ours_are_saved_before_they_are_published_and_accepted_by_others() -> None:
    ours, theirs = catalog(US), catalog(THEM)
    for body in bodies():
        effects = ours.handle(Announce(body), NOW)
        assert kinds(effects) == ["Save", "Publish", "Emit", "Changed"]
        assert effects[0].value == effects[1].data
        assert hear(theirs, effects[1].data, effects[1].kind)[0] is Verdict.ACCEPT
    assert ours.ids() == theirs.ids()
    assert ours.own("shard", cid("model")) is not None


def test_saying_the_same_again_says_nothing() -> None:
    ours = catalog(US)
    ours.handle(Announce(shard()), NOW)
    assert ours.handle(Announce(shard()), NOW + 10) == []
    assert ours.handle(Tick(), NOW + 11) == []


def test_progress_is_announced_with_pauses_and_ends_with_the_newest() -> None:
    ours = catalog(US)
    published = []
    for step in range(40):
        now = NOW + step * 0.25
        effects = ours.handle(Announce(shard(tiles=((0, step + 1),))), now)
        effects += ours.handle(Tick(), now)
        published += [effect for effect in effects if isinstance(effect, Publish)]
    published += [e for e in ours.handle(Tick(), NOW + 60) if isinstance(e, Publish)]
    assert len(published) == 10 / SUBJECT_SPACING + 1
    assert ours.holders(cid("model")) == [Holding(US.peer_id, ((0, 40),))]
    theirs = catalog(THEM)
    for effect in published:
        assert hear(theirs, effect.data)[0] is Verdict.ACCEPT
    assert theirs.ids() == ours.ids()


def test_many_at_once_are_paced_to_what_others_accept() -> None:
    limits = CatalogLimits(rate=2, burst=10)
    ours, theirs = catalog(US, limits), catalog(THEM, limits)
    effects: list[Any] = []
    for n in range(20):
        effects += ours.handle(Announce(shard(f"m{n}")), NOW)
    for second in range(1, 20):
        for effect in effects:
            if isinstance(effect, Publish):
                assert hear(theirs, effect.data, at=NOW + second)[0] is Verdict.ACCEPT
        effects = ours.handle(Tick(), NOW + second)
    assert theirs.ids() == ours.ids()
    assert len(theirs) == 20


def test_ours_are_renewed_before_they_expire_and_not_all_at_once() -> None:
    ours, theirs = catalog(US, CatalogLimits(rate=1000, burst=1000)), catalog(THEM)
    effects: list[Any] = []
    for n in range(40):
        effects += ours.handle(Announce(shard(f"m{n}")), NOW)
    minutes = []
    for minute in range(240):
        now = NOW + 60 * minute
        effects += ours.handle(Tick(), now)
        for effect in effects:
            if isinstance(effect, Publish):
                minutes.append(minute)
                assert hear(theirs, effect.data, None, now)[0] is Verdict.ACCEPT
        effects = []
        theirs.handle(Tick(), now)
        assert len(ours.models()) == len(theirs.models()) == 40
    assert 40 * 2 < len(minutes) <= 40 * 5  # once, and then every 60 to 90 minutes
    assert max(minutes.count(minute) for minute in set(minutes) - {0}) <= 8


def test_what_was_said_by_a_clock_that_ran_ahead_is_said_again() -> None:
    """Others ignore what comes from their future, so it has reached nobody."""
    ours, theirs = catalog(US), catalog(THEM)
    early = ours.handle(Announce(shard()), NOW + 86_400)[1]
    assert hear(theirs, early.data)[1] == "from-the-future"
    effects = ours.handle(Tick(), NOW)  # the clock was set right
    (again,) = (effect for effect in effects if isinstance(effect, Publish))
    assert hear(theirs, again.data)[0] is Verdict.ACCEPT
    assert theirs.ids() == ours.ids()


def test_taking_back() -> None:
    ours, theirs = catalog(US), catalog(THEM)
    hear(theirs, ours.handle(Announce(shard()), NOW)[1].data)
    ours.handle(Withdraw("shard", cid("model")), NOW + 1)
    effects = ours.handle(Tick(), NOW + SUBJECT_SPACING)
    assert kinds(effects) == ["Save", "Publish", "Emit", "Changed"]
    hear(theirs, effects[1].data, at=NOW + 3)
    assert ours.entries() == theirs.entries() == []
    with pytest.raises(NotHeldError):
        ours.handle(Withdraw("shard", cid("model")), NOW + 4)
    ours.handle(Announce(shard()), NOW + 10)
    assert len(ours.entries()) == 1


def test_what_was_not_yet_said_is_just_not_said() -> None:
    ours = catalog(US, CatalogLimits(rate=0.001, burst=1.25))
    ours.handle(Announce(shard("a")), NOW)
    assert ours.handle(Announce(shard("b")), NOW) == []
    assert ours.handle(Withdraw("shard", cid("b")), NOW) == []
    assert len(ours) == 1


def test_our_cap_is_told_to_us() -> None:
    ours = catalog(US, CatalogLimits(per_issuer=2))
    for n in range(2):
        ours.handle(Announce(shard(f"m{n}")), NOW)
    with pytest.raises(LimitError):
        ours.handle(Announce(shard("m2")), NOW)
    ours.handle(Announce(shard("m0", ((0, 9),))), NOW + 5)
    assert Holding(US.peer_id, ((0, 9),)) in ours.holders(cid("m0"))


def test_a_daemon_that_lost_its_disk_goes_on_from_what_others_remember() -> None:
    ours = catalog(US)
    ahead = NOW_MS + 60_000  # our clock ran fast then
    assert hear(ours, sealed(US, seq=ahead))[1] == "ours"
    said = ours.handle(Announce(shard(tiles=((0, 1),))), NOW)
    theirs = catalog(THEM)
    hear(theirs, sealed(US, seq=ahead))
    assert hear(theirs, said[1].data)[0] is Verdict.ACCEPT


# -- restarts -----------------------------------------------------------------------------------


def stored(effects: list[Any], into: dict[bytes, bytes]) -> None:
    for effect in effects:
        if isinstance(effect, Save):
            if effect.value is None:
                into.pop(effect.key, None)
            else:
                into[effect.key] = effect.value


def restored(who: Any, disk: dict[bytes, bytes], now: float) -> tuple[Catalog, list[Any]]:
    again = catalog(who)
    effects = []
    for key, value in sorted(disk.items()):
        effects += again.handle(Restored(key, value), now)
    return again, effects


def test_a_catalog_survives_a_restart_verified_anew() -> None:
    disk: dict[bytes, bytes] = {}
    ours = catalog(US)
    stored(ours.handle(Announce(shard("ours")), NOW), disk)
    for body in bodies():
        stored(hear(ours, sealed(THEM, body), None)[2], disk)
    stored(hear(ours, sealed(THEM, seq=NOW_MS + 1), None)[2], disk)
    again, effects = restored(US, disk, NOW + 5)
    assert again.ids() == ours.ids()
    assert kinds(effects) == ["Changed"] * (1 + len(bodies()))
    assert again.own("shard", cid("ours")) is not None
    newer = again.handle(Announce(shard("ours", ((0, 9),))), NOW + 5)
    assert isinstance(newer[1], Publish)
    assert hear(ours, newer[1].data)[1] == "ours"

    disk[b"key"] = b"junk"
    tampered = next(iter(sorted(disk)))
    disk[tampered] = disk[tampered][:-1] + b"\x00"
    again, effects = restored(US, disk, NOW + 5)
    assert len(again) == len(bodies())
    assert [e.key for e in effects if isinstance(e, Save)] == sorted([b"key", tampered])


def test_what_expired_while_we_were_away_is_forgotten() -> None:
    disk: dict[bytes, bytes] = {}
    stored(hear(catalog(US), sealed(THEM))[2], disk)
    again, effects = restored(US, disk, NOW + HOUR / 1000)
    assert len(again) == 0
    stored(effects, disk)
    assert disk == {}


def test_a_record_read_after_something_newer_was_heard_is_left_alone() -> None:
    disk: dict[bytes, bytes] = {}
    stored(hear(catalog(US), sealed(THEM))[2], disk)
    ours = catalog(US)
    _, _, heard = hear(ours, sealed(THEM, seq=NOW_MS + 1))
    (record,) = disk.items()
    assert ours.handle(Restored(*record), NOW) == []
    stored(heard, disk)
    assert restored(US, disk, NOW)[0].ids() == ours.ids()


# -- whatever the order -------------------------------------------------------------------------

ISSUERS = [MacIdentity(f"issuer {n}") for n in range(3)]
statements = st.tuples(
    st.integers(0, 2),  # who
    st.integers(0, 2),  # about what
    st.integers(0, 3),  # seq
    st.integers(1, 3),  # what of it
    st.booleans(),
)


def statement(who: int, about: int, seq: int, tiles: int, withdrawn: bool) -> bytes:
    body: Body = shard(f"m{about}", ((0, tiles),))
    return sealed(ISSUERS[who], body, seq=NOW_MS + seq, withdrawn=withdrawn)


@given(st.lists(statements, max_size=25), st.randoms(use_true_random=False))
def test_what_is_kept_does_not_depend_on_the_order(said: list[Any], rng: Any) -> None:
    envelopes = [statement(*what) for what in said]
    results = []
    for _ in range(2):
        ours = catalog(MacIdentity("us"))
        disk: dict[bytes, bytes] = {}
        for envelope in envelopes:
            stored(hear(ours, envelope, None)[2], disk)
        results.append((ours.ids(), sorted(disk.items())))
        # What is on disk is what is in memory.
        again = catalog(MacIdentity("us"))
        for key, value in disk.items():
            again.handle(Restored(key, value), NOW)
        assert again.ids() == ours.ids()
        rng.shuffle(envelopes)
    assert results[0] == results[1]


def test_memories_are_bounded() -> None:
    ours = catalog(MacIdentity("us"), CatalogLimits(rate=0, burst=1))
    for n in range(MAX_PASSED + 10):
        hear(ours, sealed(ISSUERS[0], shard(f"m{n}")))
    # The oldest are forgotten first.
    first, last = (
        announcement_id(encode(announce(ISSUERS[0], shard(f"m{n}")))) for n in (1, MAX_PASSED)
    )
    assert ours.wants(first)
    assert not ours.wants(last)
