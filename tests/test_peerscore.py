"""protocols.gossip.peerscore: the fold over what happened with a peer."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.gossip import peerscore
from protocols.gossip.peerscore import (
    BAN_AT,
    BAN_SECONDS,
    FAULT_HALF_LIFE,
    FAULT_POINTS,
    MAX_ADDRS,
    Fault,
    PeerRecord,
    banned,
    dial_again_at,
    fault_points,
    with_addrs,
    with_connection,
    with_failed_dial,
    with_fault,
    with_rtt,
    with_transfer,
    worth,
)

NOW = 1_000_000.0


def test_every_fault_has_its_points() -> None:
    assert set(FAULT_POINTS) == set(Fault)


def test_one_lie_does_not_ban_and_the_next_fault_does() -> None:
    record = with_fault(PeerRecord(), Fault.LIED, NOW)
    assert not banned(record, NOW)
    record = with_fault(record, Fault.CLOSED, NOW)
    assert banned(record, NOW)
    assert banned(record, NOW + BAN_SECONDS - 1)
    assert not banned(record, NOW + BAN_SECONDS + 1)
    assert record.fault_counts == {"lied": 1, "closed": 1}


def test_faults_are_forgiven_by_half_lives() -> None:
    record = with_fault(PeerRecord(), Fault.MISMATCH, NOW)
    assert fault_points(record, NOW + FAULT_HALF_LIFE) == pytest.approx(2.5)
    # Slow sinners are never banned.
    for n in range(100):
        record = with_fault(record, Fault.TIMEOUT, NOW + n * FAULT_HALF_LIFE)
    assert not banned(record, NOW + 100 * FAULT_HALF_LIFE)


def test_averages_move_by_an_eighth() -> None:
    record = with_rtt(PeerRecord(), 0.1, NOW)
    assert record.rtt == 0.1
    assert with_rtt(record, 0.9, NOW).rtt == pytest.approx(0.2)
    record = with_transfer(PeerRecord(), 1000, 1.0, NOW)
    assert record.throughput == 1000
    assert with_transfer(record, 9000, 1.0, NOW).throughput == pytest.approx(2000)


def test_worth_orders_as_we_would() -> None:
    stranger = PeerRecord()
    helper = with_transfer(stranger, 100 << 20, 10, NOW)
    near = with_rtt(stranger, 0.001, NOW)
    far = with_rtt(stranger, 0.5, NOW)
    sinner = with_fault(helper, Fault.LIED, NOW)
    assert worth(stranger, NOW) == 0
    assert worth(helper, NOW) > worth(near, NOW) > worth(far, NOW) > worth(sinner, NOW)
    # Help of long ago weighs less than help of today.
    assert worth(helper, NOW + 86400) < worth(with_transfer(helper, 1, 1, NOW + 86400), NOW) + 1
    assert worth(helper, NOW + 10 * 86400) < 0.5


def test_addresses_are_few_and_the_newest_stand_first() -> None:
    record = PeerRecord()
    for n in range(20):
        record = with_addrs(record, (f"/ip4/192.0.2.{n}/tcp/1",), "dht", NOW)
    assert len(record.addrs) == MAX_ADDRS
    assert record.addrs[0] == "/ip4/192.0.2.19/tcp/1"
    assert with_addrs(record, record.addrs[:1], "gossip", NOW) is record
    assert record.source == "dht"


def test_dialling_backs_off_and_starts_over() -> None:
    record = PeerRecord()
    waits = []
    for _ in range(12):
        record = with_failed_dial(record, NOW)
        waits.append(dial_again_at(record) - NOW)
    assert waits[0] == peerscore.DIAL_BACKOFF
    assert waits == sorted(waits)
    assert waits[-1] == peerscore.MAX_DIAL_BACKOFF
    assert dial_again_at(with_connection(record, None, "dial", NOW)) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Fault)), st.floats(0, 3600)),
        max_size=50,
    )
)
def test_points_never_exceed_their_sum_and_bans_need_enough(
    faults: list[tuple[Fault, float]],
) -> None:
    record, now, total = PeerRecord(), NOW, 0.0
    for fault, pause in faults:
        now += pause
        record = with_fault(record, fault, now)
        total += FAULT_POINTS[fault]
        assert fault_points(record, now) <= total + 1e-9
        if record.banned_until:
            assert total >= BAN_AT - 1e-9
    assert sum(record.fault_counts.values()) == len(faults)
    packed = msgspec.msgpack.encode(record)
    assert msgspec.msgpack.decode(packed, type=PeerRecord) == record
