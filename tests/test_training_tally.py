"""What the metrics say of training: counted from the daemon's events, and shown as they are."""

from typing import Any

import pytest

from synapsed.process.events import EventBus
from synapsed.training.exchange import Traffic
from synapsed.training.tally import WINDOW_S, TrainingTally


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> TrainingTally:
    return TrainingTally(clock)


def tell(tally: TrainingTally, *events: tuple[str, dict[str, Any]]) -> None:
    bus = EventBus()
    bus.observe(tally.heard)
    for kind, fields in events:
        bus.emit(kind, **fields)


def test_rounds_and_deltas_are_counted_by_what_we_are_of_them(tally: TrainingTally) -> None:
    tell(
        tally,
        ("training.round", {"own": True}),
        ("training.round", {"own": False}),
        ("training.round", {"own": False}),
        ("training.taken", {}),
        ("training.refused", {"reason": "base"}),
        ("training.refused", {"reason": "base"}),
        ("training.refused", {"reason": "malformed"}),
        ("training.acked", {}),
        ("training.given-back", {"group": 1}),
        ("training.summed", {}),
        ("peer.connected", {"peer": "x"}),
    )
    assert tally.rounds == {"primary": 1, "replica": 2}
    assert tally.deltas == {"taken": 1, "refused": 3}
    assert tally.refused == {"base": 2, "malformed": 1}
    assert tally.ours == {"acknowledged": 1, "refused": 1}
    assert tally.done == {"summed": 1}


def test_audits_checkpoints_and_workers(tally: TrainingTally) -> None:
    tell(
        tally,
        *(("training.audited", {"same": same}) for same in (True, True, False, None)),
        ("training.caught", {"proven": True, "why": "it summed wrongly"}),
        ("training.caught", {"aggregator": "12D3"}),
        ("checkpoint.judged", {"holds": True}),
        ("checkpoint.judged", {"holds": False}),
        ("checkpoint.ratified", {}),
        ("training.checkpoint", {}),
        ("compute.started", {"pid": 1}),
        ("compute.died", {"hung": False}),
        ("compute.started", {"pid": 2}),
        ("compute.died", {"hung": True}),
    )
    assert tally.audits == {"same": 2, "other": 1, "unknown": 1}
    assert tally.caught == 1  # once, although two events tell of it
    assert tally.checkpoints == {"holds": 1, "does-not-hold": 1, "ratified": 1, "proposed": 1}
    assert tally.workers == {"started": 2, "died": 1, "hung": 1}


def test_the_share_in_torch_is_of_the_last_minute(tally: TrainingTally, clock: Clock) -> None:
    def train(seconds: float, loss: float) -> None:
        fields = {"model": "m", "steps": 15, "loss": loss, "seconds": seconds}
        tell(tally, ("training.trained", fields))

    assert tally.torch_share == 0
    clock.now += 10
    train(9.0, 3.5)
    assert tally.torch_share == pytest.approx(0.9)  # of the ten seconds that there were
    clock.now += WINDOW_S
    train(30.0, 3.25)
    assert tally.torch_share == pytest.approx((9.0 + 30.0) / WINDOW_S)
    clock.now += 1
    assert tally.torch_share == pytest.approx(30.0 / WINDOW_S)
    clock.now += WINDOW_S
    assert tally.torch_share == 0
    assert (tally.steps, tally.torch_s, tally.loss) == (30, 39.0, {"m": 3.25})
    tell(tally, ("training.left", {"model": "m"}))
    assert tally.loss == {}


def test_bytes_are_counted_by_kind_and_by_role() -> None:
    traffic = Traffic()
    traffic.count(b"a", "out", "blob", 100, "learner")
    traffic.count(b"a", "out", "blob", 50, "replica")
    traffic.count(b"b", "in", "/synapse/learn/1.0.0", 7)
    traffic.roles["in", "aggregator"] += 7
    assert traffic.total("out") == 150
    assert traffic.roles == {
        ("out", "learner"): 100,
        ("out", "replica"): 50,
        ("in", "aggregator"): 7,
    }


def test_nothing_fails_because_it_is_told_of(tally: TrainingTally) -> None:
    for kind in tally._counts:
        tell(tally, (kind, {}))
    assert tally.rounds == {}
    assert tally.torch_s == 0
