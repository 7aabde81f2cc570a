"""Heartbeats: the table row by row, and the machine that keeps the list of live peers."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.codec import encode
from protocols.effects import Blame, Emit, Send
from protocols.envelope import domain, seal
from protocols.gossip.heartbeat import (
    MAX_ADDRS,
    MAX_BATCH,
    MAX_FRAME,
    MAX_HEARTBEAT,
    MAX_SKEW,
    MAX_TTL,
    PAYLOAD_TYPE,
    PROTOCOL,
    TABLE,
    USE,
    Batch,
    Counters,
    Hearing,
    Heartbeat,
    Judgement,
    judge,
    pack_batch,
    unpack_batch,
)
from protocols.gossip.liveness import (
    ISSUER_BURST,
    NEIGHBOUR_BURST,
    TTL_INTERVALS,
    Flush,
    Hearsay,
    Learned,
    Leave,
    Liveness,
    NeighbourDown,
    NeighbourUp,
    Refresh,
    Tick,
    agreement_bound,
)
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.packing import pack
from protocols.peerid import peer_id_text
from synapsed.keys import Identity, verify
from tests.gossip_kit import NETWORK, NOW, NOW_MS, MacIdentity, identity, mac_verify

US, THEM, OTHER, RELAY = identity(1), identity(2), identity(3), identity(9)
TTL = 20_000
COUNTERS = Counters(held=5, free=1 << 30, upload=2_500_000)
ADDRS = ("/ip4/192.0.2.1/tcp/4817", "/dns/example.org/tcp/1")


def beat(who: Identity | MacIdentity = THEM, network: str = NETWORK, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "issuer": who.peer_id,
        "seq": NOW_MS,
        "issued": NOW_MS,
        "ttl": TTL,
        "addrs": ADDRS,
        "agent": "synapsed/0.1.0",
        "counters": COUNTERS,
    }
    payload = encode(Heartbeat(**(fields | changes)))
    return seal(domain(network, USE), PAYLOAD_TYPE, payload, who.public_key, who.sign)


def altered(**changes: Any) -> bytes:
    """A heartbeat signed with fields that no type allows; None leaves one out."""
    plain = {
        "issuer": THEM.peer_id,
        "seq": 1,
        "issued": NOW_MS,
        "ttl": TTL,
        "addrs": list(ADDRS),
        "agent": "a",
        "counters": msgspec.to_builtins(COUNTERS),
    }
    plain = {name: value for name, value in (plain | changes).items() if value is not None}
    return enveloped(encode(plain))


def enveloped(payload: bytes, payload_type: bytes = PAYLOAD_TYPE) -> bytes:
    return seal(domain(NETWORK, USE), payload_type, payload, THEM.public_key, THEM.sign)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


class FakeKnown:
    def __init__(self, newest: int | None, over_rate: bool, full: bool) -> None:
        self.me = US.peer_id
        self._newest, self._over_rate, self._full = newest, over_rate, full

    def newest(self, issuer: bytes) -> int | None:
        return self._newest

    def over_rate(self, issuer: bytes, now: float) -> bool:
        return self._over_rate

    def is_full(self, issuer: bytes) -> bool:
        return self._full


def judged(
    data: bytes,
    age: int = 0,
    newest: int | None = None,
    over_rate: bool = False,
    full: bool = False,
) -> Judgement:
    known = FakeKnown(newest, over_rate, full)
    return judge(Hearing(data, age=age, now=NOW, network=NETWORK, verify=verify, known=known))


CASES: dict[str, list[Callable[[], Judgement]]] = {
    "too-large": [lambda: judged(b"\x0a" * (MAX_HEARTBEAT + 1))],
    "not-an-envelope": [
        lambda: judged(b""),
        lambda: judged(beat()[:-1]),
        lambda: judged(enveloped(b"\xa0", payload_type=b"/other")),
    ],
    "not-canonical": [lambda: judged(enveloped(b"\xb8\x00"))],
    "not-dag-cbor": [lambda: judged(enveloped(b"\xff"))],
    "bad-fields": [
        lambda: judged(enveloped(encode([]))),
        lambda: judged(altered(seq=None)),
        lambda: judged(altered(extra=1)),
        lambda: judged(altered(ttl=-1)),
        lambda: judged(altered(ttl="1")),
        lambda: judged(altered(issuer=b"short")),
        lambda: judged(altered(addrs=["/ip4/192.0.2.1/tcp/1"] * (MAX_ADDRS + 1))),
        lambda: judged(altered(addrs=["/" + "a" * 128])),
        lambda: judged(altered(addrs=["192.0.2.1"])),
        lambda: judged(altered(addrs=["/ip4/\n"])),
        lambda: judged(altered(agent="a" * 65)),
        lambda: judged(altered(agent="\x1b[31m")),
        lambda: judged(altered(agent="a\n")),
        lambda: judged(altered(counters={"held": 1})),
    ],
    "wrong-issuer": [lambda: judged(beat(THEM, issuer=OTHER.peer_id))],
    "older": [lambda: judged(beat(), newest=NOW_MS), lambda: judged(beat(), newest=NOW_MS + 1)],
    "off-clock": [
        lambda: judged(beat(issued=NOW_MS + MAX_SKEW + 1)),
        lambda: judged(beat(issued=NOW_MS - MAX_SKEW - 1)),
        lambda: judged(beat(issued=NOW_MS + MAX_SKEW), age=1),
    ],
    "over": [
        lambda: judged(beat(issued=NOW_MS - TTL), age=TTL),
        lambda: judged(beat(issued=NOW_MS - MAX_SKEW, ttl=0), age=MAX_SKEW + 1),
    ],
    "bad-signature": [
        lambda: judged(flipped(beat())),
        lambda: judged(beat(network="another")),
        lambda: judged(flipped(beat()), over_rate=True, full=True),
    ],
    "ours": [lambda: judged(beat(US))],
    "over-rate": [lambda: judged(beat(), over_rate=True)],
    "full": [lambda: judged(beat(), full=True)],
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_row_decides_its_cases(row: Any) -> None:
    assert row.reason
    for case in CASES[row.name]:
        judgement = case()
        assert (judgement.row, judgement.verdict) == (row.name, row.verdict)
        assert judgement.heartbeat is None


def test_there_is_no_case_without_a_row() -> None:
    assert list(CASES) == [row.name for row in TABLE]


@pytest.mark.parametrize(
    "judgement",
    [
        judged(beat()),
        judged(beat(), newest=NOW_MS - 1),
        judged(beat(), age=TTL - 1),
        judged(beat(issued=NOW_MS - MAX_SKEW)),  # a clock that is just bearable
        judged(beat(issued=NOW_MS + MAX_SKEW)),
        judged(beat(ttl=0)),
        judged(beat(addrs=("/dns6/" + "a" * 122,) * MAX_ADDRS, agent="a" * 64)),
    ],
)
def test_what_is_just_within_the_limits_is_accepted(judgement: Judgement) -> None:
    assert judgement.verdict is Verdict.ACCEPT
    assert judgement.heartbeat is not None


# -- frames -------------------------------------------------------------------------------------


def test_a_batch_is_read_back_and_the_largest_fits_a_frame() -> None:
    entries = [(age, bytes([age]) * (512 - 4)) for age in range(MAX_BATCH)]
    frame = pack_batch(entries)
    assert unpack_batch(frame) == entries
    assert len(frame) <= MAX_FRAME


BAD_FRAMES = {
    "empty": b"",
    "cut off": pack_batch([(0, beat())])[:-1],
    "too long": pack_batch([(0, beat())]) + b"\x00",
    "nothing in it": pack(Batch(ages=(), lengths=()), []),
    "more ages": pack(Batch(ages=(1, 2), lengths=(1,)), [b"a"]),
    "too many": pack(
        Batch(ages=(0,) * (MAX_BATCH + 1), lengths=(1,) * (MAX_BATCH + 1)), [b"a"] * (MAX_BATCH + 1)
    ),
    "a huge message": b"\x7f\xff\xff\xff" + bytes(1000),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_a_bad_frame_is_blamed_on_the_neighbour(frame: bytes) -> None:
    (effect,) = liveness(US).handle(Hearsay(RELAY.peer_id, frame), NOW)
    assert isinstance(effect, Blame)
    assert (effect.peer, effect.fault) == (RELAY.peer_id, Fault.MALFORMED)


@given(st.binary(max_size=200))
def test_junk_raises_nothing(junk: bytes) -> None:
    for frame in (junk, len(junk).to_bytes(4, "big") + junk, pack_batch([(0, junk + b"a")])):
        (effect,) = liveness(US).handle(Hearsay(RELAY.peer_id, frame), NOW)
        assert isinstance(effect, Blame)


# -- the machine --------------------------------------------------------------------------------


def liveness(who: Identity | MacIdentity, interval: float = 5.0) -> Liveness:
    check = verify if isinstance(who, Identity) else mac_verify
    return Liveness(
        NETWORK, who.public_key, who.sign, check, agent="synapsed/0.1.0", interval=interval
    )


def hear(into: Liveness, *envelopes: bytes, at: float = NOW, age: int = 0, via: Any = RELAY) -> Any:
    frame = pack_batch([(age, envelope) for envelope in envelopes])
    return into.handle(Hearsay(via.peer_id, frame), at)


def flushed(machine: Liveness, neighbour: Any, at: float) -> list[tuple[int, bytes]]:
    """All that the neighbour is told now."""
    entries: list[tuple[int, bytes]] = []
    while effects := machine.handle(Flush(neighbour.peer_id), at):
        (send,) = effects
        assert isinstance(send, Send)
        assert (send.peer, send.protocol) == (neighbour.peer_id, PROTOCOL)
        assert len(send.data) <= MAX_FRAME
        entries += unpack_batch(send.data)
    return entries


def told(effects: list[Any]) -> list[tuple[str, str]]:
    return [
        (effect.kind, str(effect.fields["peer"])) for effect in effects if isinstance(effect, Emit)
    ]


def test_a_peer_is_up_while_it_beats_and_down_when_it_stops() -> None:
    ours = liveness(US)
    ours.handle(Tick(), NOW)
    effects = hear(ours, beat())
    assert told(effects) == [("liveness.up", peer_id_text(THEM.peer_id))]
    assert Learned(THEM.peer_id, ADDRS) in effects
    assert ours.alive(NOW) == sorted([US.peer_id, THEM.peer_id])
    assert hear(ours, beat(seq=NOW_MS + 5000, issued=NOW_MS + 5000), at=NOW + 5) == []
    assert ours.is_alive(THEM.peer_id, NOW + 24.9)
    assert told(ours.handle(Tick(), NOW + 24.9)) == []
    effects = ours.handle(Tick(), NOW + 25)
    assert told(effects) == [("liveness.down", peer_id_text(THEM.peer_id))]
    assert effects[0].fields["why"] == "silent"
    assert ours.alive(NOW + 25) == [US.peer_id]


def test_it_is_up_again_on_return() -> None:
    ours = liveness(US)
    hear(ours, beat())
    ours.handle(Tick(), NOW + 20)
    again = beat(seq=NOW_MS + 30_000, issued=NOW_MS + 30_000)
    assert told(hear(ours, again, at=NOW + 30)) == [("liveness.up", peer_id_text(THEM.peer_id))]


def test_old_heartbeats_cannot_raise_the_dead() -> None:
    ours = liveness(US)
    hear(ours, beat(seq=5))
    hear(ours, beat(seq=6))
    ours.handle(Tick(), NOW + 20)
    for seq in (5, 6):
        for age in (0, 19_999):
            assert hear(ours, beat(seq=seq), at=NOW + 20, age=age) == []
    # When the memory of it ends, its clock has long been off ours.
    for seconds in range(20, 600, 5):
        ours.handle(Tick(), NOW + seconds)
        assert hear(ours, beat(seq=6), at=NOW + seconds) == []
    assert THEM.peer_id not in ours.alive(NOW + 600)


def test_repeating_the_last_heartbeat_prolongs_no_life_beyond_the_skew() -> None:
    ours = liveness(US)
    hear(ours, beat())
    now = NOW
    while ours.is_alive(THEM.peer_id, now):
        now += 1
        ours.handle(Tick(), now)
        hear(ours, beat(), at=now, age=0)
        assert now < NOW + (MAX_SKEW + TTL) / 1000 + 2


def test_an_overstated_age_is_mended_by_an_honest_copy() -> None:
    ours = liveness(US)
    hear(ours, beat(), age=TTL - 1000)
    hear(ours, beat(), age=100, via=OTHER)
    assert ours.is_alive(THEM.peer_id, NOW + 19)
    hear(ours, beat(), age=TTL - 1000, via=OTHER)
    assert ours.is_alive(THEM.peer_id, NOW + 19)


@pytest.mark.parametrize("offset", [-100, 100])
def test_a_wrong_clock_changes_nothing(offset: int) -> None:
    """The issuer's clock is 100 s off; when it goes, it goes at the same time as all."""
    ours = liveness(US)
    hear(ours, beat(issued=NOW_MS + 1000 * offset), age=50)
    assert ours.is_alive(THEM.peer_id, NOW + 19.9)
    assert not ours.is_alive(THEM.peer_id, NOW + 20)


def test_a_forged_heartbeat_is_refused_and_the_rest_of_its_frame_not_read() -> None:
    ours = liveness(US)
    effects = hear(ours, flipped(beat(OTHER)), beat(THEM))
    (blame,) = effects
    assert (blame.peer, blame.fault) == (RELAY.peer_id, Fault.REJECTED)
    assert ours.alive(NOW) == []


def test_what_it_says_is_capped() -> None:
    ours = liveness(US)
    hear(ours, beat(ttl=1 << 50))
    assert ours.is_alive(THEM.peer_id, NOW + MAX_TTL / 1000 - 1)
    assert not ours.is_alive(THEM.peer_id, NOW + MAX_TTL / 1000)


def test_goodbye_takes_it_off_at_once_and_is_passed_on() -> None:
    ours = liveness(US)
    hear(ours, beat())
    ours.handle(NeighbourUp(OTHER.peer_id), NOW)
    flushed(ours, OTHER, NOW)
    goodbye = beat(seq=NOW_MS + 1, ttl=0)
    (down,) = hear(ours, goodbye, at=NOW + 1)
    assert down.fields["why"] == "left"
    assert flushed(ours, OTHER, NOW + 2) == [(1000, goodbye)]
    assert hear(ours, beat(), at=NOW + 2) == []
    assert ours.alive(NOW + 2) == []


# -- what neighbours are told ----------------------------------------------------------------------


def test_our_own_heartbeat_says_what_we_are() -> None:
    ours, theirs = liveness(US), liveness(THEM)
    ours.handle(Refresh(ADDRS, COUNTERS), NOW)
    ours.handle(NeighbourUp(THEM.peer_id), NOW)
    ours.handle(Tick(), NOW)
    entries = flushed(ours, THEM, NOW + 0.5)
    assert [age for age, _ in entries] == [500]
    hear(theirs, *(envelope for _, envelope in entries), via=US)
    (peer,) = theirs.peers(NOW)
    assert (peer.heartbeat.addrs, peer.heartbeat.counters) == (ADDRS, COUNTERS)
    assert peer.ttl == 5 * TTL_INTERVALS


def test_it_beats_once_an_interval_and_at_once_when_its_addresses_change() -> None:
    ours = liveness(US)
    ours.handle(NeighbourUp(THEM.peer_id), NOW)
    beats = []
    for tenth in range(200):
        ours.handle(Tick(), NOW + tenth / 10)
        beats += [tenth / 10 for _ in flushed(ours, THEM, NOW + tenth / 10)]
    assert beats == [0, 5, 10, 15]
    ours.handle(Refresh(ADDRS, COUNTERS), NOW + 21)
    ours.handle(Tick(), NOW + 21)
    assert len(flushed(ours, THEM, NOW + 21)) == 1
    ours.handle(Refresh(ADDRS, Counters(held=6, free=1, upload=0)), NOW + 22)
    ours.handle(Tick(), NOW + 22)
    assert flushed(ours, THEM, NOW + 22) == []


def test_each_neighbour_gets_what_it_has_not_shown_us() -> None:
    ours = liveness(US)
    third = identity(4)
    for neighbour in (RELAY, OTHER, third):
        ours.handle(NeighbourUp(neighbour.peer_id), NOW)
    one = beat()
    hear(ours, one, via=RELAY)
    hear(ours, one, via=third)  # shows it before we told it
    assert flushed(ours, OTHER, NOW) == [(0, one)]
    assert flushed(ours, RELAY, NOW) == []
    assert flushed(ours, third, NOW) == []
    assert flushed(ours, OTHER, NOW) == []
    ours.handle(NeighbourDown(OTHER.peer_id), NOW)
    ours.handle(NeighbourUp(OTHER.peer_id), NOW + 1)
    assert flushed(ours, OTHER, NOW + 1) == [(1000, one)]


def test_nobody_is_told_its_own_or_what_is_over() -> None:
    ours = liveness(US)
    ours.handle(NeighbourUp(THEM.peer_id), NOW)
    ours.handle(NeighbourUp(OTHER.peer_id), NOW)
    hear(ours, beat())
    assert flushed(ours, THEM, NOW) == []
    assert flushed(ours, OTHER, NOW + TTL / 1000) == []


def test_a_slow_neighbour_is_told_only_the_newest() -> None:
    ours = liveness(US)
    ours.handle(NeighbourUp(OTHER.peer_id), NOW)
    for n in range(5):
        hear(ours, beat(seq=NOW_MS + n, issued=NOW_MS + n))
    assert flushed(ours, OTHER, NOW) == [(0, beat(seq=NOW_MS + 4, issued=NOW_MS + 4))]


def test_a_new_neighbour_is_told_all_in_several_frames() -> None:
    ours = liveness(MacIdentity("us"))
    others = [MacIdentity(f"peer {n}") for n in range(300)]
    for at, other in enumerate(others):
        hear(ours, beat(other), via=others[at // 100])
    ours.handle(NeighbourUp(OTHER.peer_id), NOW)
    assert len(flushed(ours, OTHER, NOW)) == 300


def test_leaving_says_goodbye_and_then_nothing() -> None:
    ours, theirs = liveness(US), liveness(THEM)
    ours.handle(NeighbourUp(THEM.peer_id), NOW)
    ours.handle(Tick(), NOW)
    hear(theirs, *(envelope for _, envelope in flushed(ours, THEM, NOW)), via=US)
    assert theirs.alive(NOW) == [US.peer_id]
    ours.handle(Leave(), NOW + 1)
    hear(theirs, *(envelope for _, envelope in flushed(ours, THEM, NOW + 1)), via=US, at=NOW + 1)
    assert theirs.alive(NOW + 1) == []
    ours.handle(Tick(), NOW + 100)
    assert flushed(ours, THEM, NOW + 100) == []


# -- limits ---------------------------------------------------------------------------------------


def test_an_issuer_that_beats_too_often_is_ignored() -> None:
    ours = liveness(US)
    for n in range(30):
        hear(ours, beat(seq=NOW_MS + n))
    assert ours.newest(THEM.peer_id) == NOW_MS + ISSUER_BURST - 1
    hear(ours, beat(seq=NOW_MS + 100), at=NOW + 1)
    assert ours.newest(THEM.peer_id) == NOW_MS + 100


def test_one_neighbour_cannot_make_us_verify_without_end() -> None:
    calls = 0

    def counting(key: bytes, message: bytes, signature: bytes) -> bool:
        nonlocal calls
        calls += 1
        return mac_verify(key, message, signature)

    me = MacIdentity("us")
    ours = Liveness(NETWORK, me.public_key, me.sign, counting, agent="a")
    crowd = [beat(MacIdentity(f"sybil {n}")) for n in range(4500)]
    for envelope in crowd:
        hear(ours, envelope)
    assert calls == NEIGHBOUR_BURST
    assert len(ours.alive(NOW)) == NEIGHBOUR_BURST
    for envelope in crowd[:1000]:  # copies cost nothing
        hear(ours, envelope, via=OTHER)
    assert calls == NEIGHBOUR_BURST


def test_with_many_alive_each_beats_less_often() -> None:
    ours = liveness(MacIdentity("us"))
    ours.handle(NeighbourUp(OTHER.peer_id), NOW)
    for n in range(399):
        hear(ours, beat(MacIdentity(f"peer {n}")))
    flushed(ours, OTHER, NOW)
    ours.handle(Tick(), NOW)
    ((_, envelope),) = flushed(ours, OTHER, NOW)
    theirs = liveness(MacIdentity("them"))
    hear(theirs, envelope)
    (peer,) = theirs.peers(NOW)
    assert peer.ttl == pytest.approx(TTL_INTERVALS * 399 / 8)
    ours.handle(Tick(), NOW + 49)
    assert flushed(ours, OTHER, NOW + 49) == []
    ours.handle(Tick(), NOW + 51)
    assert len(flushed(ours, OTHER, NOW + 51)) == 1


def test_a_clock_that_is_set_back_neither_silences_us_nor_keeps_the_dead_alive() -> None:
    ours, theirs = liveness(US), liveness(OTHER)
    ours.handle(NeighbourUp(OTHER.peer_id), NOW)
    ours.handle(Tick(), NOW)
    hear(ours, beat(ttl=600_000))
    hear(theirs, *(envelope for _, envelope in flushed(ours, OTHER, NOW)), via=US)
    back = NOW - 60
    ours.handle(Tick(), back)
    assert flushed(ours, OTHER, back) == []
    ours.handle(Tick(), back + 5.1)
    ((_, next_one),) = flushed(ours, OTHER, back + 5.1)
    hear(theirs, next_one, at=NOW + 5.1, via=US)
    assert theirs.newest(US.peer_id) > NOW_MS  # newer than the one before, whatever the clock says
    # It was to be missed 600 s after it was heard, and is.
    assert ours.is_alive(THEM.peer_id, back + 599)
    assert told(ours.handle(Tick(), back + 601))[0][0] == "liveness.down"


def test_a_list_filled_by_strangers_still_takes_our_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("protocols.gossip.liveness.MAX_LIVE", 5)
    ours = liveness(MacIdentity("us"))
    ours.handle(Tick(), NOW)
    for n in range(10):
        hear(ours, beat(MacIdentity(f"sybil {n}")))
    friend, stranger = MacIdentity("friend"), MacIdentity("stranger")
    ours.handle(NeighbourUp(friend.peer_id), NOW)
    hear(ours, beat(friend), beat(stranger))
    assert ours.is_alive(friend.peer_id, NOW)
    assert not ours.is_alive(stranger.peer_id, NOW)


def test_the_stated_bound() -> None:
    assert agreement_bound(5, 20, hops=3, flush=1, delay=0.1) == pytest.approx((3.3, 24.3))
    assert agreement_bound(5, 400, hops=3, flush=1, delay=0.1)[1] == pytest.approx(204.3)
