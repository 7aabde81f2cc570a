"""Inference first: what else computes stands still between two layers. contract H10."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synapsed.compute import wire
from synapsed.computeworker.device import Device
from synapsed.computeworker.files import ModelFiles
from synapsed.computeworker.gate import CancelledError, Gate, Task
from synapsed.computeworker.generate import Sampling, generate
from synapsed.computeworker.mapped import open_model
from synapsed.computeworker.train import Training
from tests.compute_kit import PLAN, small_moe, text_file

STEPS = PLAN.phases[-1]


def _until(true: Callable[[], bool]) -> None:
    """Give other threads their turn until something is true; the test's time-out is the limit."""
    while not true():
        os.sched_yield()


class Clock:
    """Moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_whoever_is_at_the_gate_stands_still_until_all_wishes_are_fulfilled() -> None:
    gate = Gate()
    passed: list[int] = []
    go_on = threading.Semaphore(0)

    def work() -> None:
        passage = gate.passage(Task())
        for at in range(3):
            go_on.acquire()
            passage()
            passed.append(at)

    thread = threading.Thread(target=work)
    thread.start()
    go_on.release()
    _until(lambda: passed == [0])
    gate.wish()
    gate.wish()
    go_on.release()
    _until(lambda: gate.yields == 1)
    gate.fulfilled()
    assert gate.closed
    assert passed == [0]
    gate.fulfilled()
    _until(lambda: passed == [0, 1])
    go_on.release()
    thread.join()
    assert gate.yields == 1


def test_who_is_cancelled_leaves_even_while_standing_still() -> None:
    gate, task = Gate(), Task()
    passage = gate.passage(task)
    passage()
    task.cancelled = True
    with pytest.raises(CancelledError):
        passage()
    left = threading.Event()
    other = Task()

    def work() -> None:
        with pytest.raises(CancelledError):
            gate.passage(other)()
        left.set()

    with gate.wished():
        thread = threading.Thread(target=work)
        thread.start()
        _until(lambda: gate.yields == 1)
        other.cancelled = True
        assert left.wait(60)
    thread.join()


def test_it_measures_the_longest_wait_and_the_longest_stretch() -> None:
    clock = Clock()
    gate = Gate(clock)
    passage = gate.passage(Task())
    for pause in (0.003, 0.040, 0.001):
        clock.now += pause
        passage()
    assert gate.stretch_s == pytest.approx(0.040)
    assert gate.yield_s == 0
    gate.wish()
    clock.now += 0.025
    thread = threading.Thread(target=passage)
    thread.start()
    _until(lambda: gate.yields == 1)
    clock.now += 7
    gate.fulfilled()
    thread.join()
    assert gate.yield_s == pytest.approx(0.025)
    assert gate.still_s == pytest.approx(7)


def test_training_begins_no_layer_while_somebody_generates(tmp_path: Path) -> None:
    """The order of events: at most the layer that runs is ended, then tokens alone, then layers."""
    given = tuple(wire.ModelFile(name, str(path)) for name, path in small_moe(tmp_path / "m"))
    gate, device = Gate(), Device("cpu", 0, 1)
    model = open_model(ModelFiles(given), device)
    asked = wire.LoadTraining(1, b"t", given, {}, str(text_file(tmp_path)), PLAN, 1, 0, "")
    training = Training(asked, device, gate, Task())
    order: list[str] = []

    def begun(*_: Any) -> None:
        order.append("layer")

    def behind(_module: Any, _given: Any, made: Any) -> None:
        (made[0] if isinstance(made, tuple) else made).register_hook(begun)

    for layer in training.module.model.layers:
        for half in (layer.self_attn, layer.mlp):
            half.register_forward_pre_hook(begun)  # behind the gate's own
            half.register_forward_hook(behind)
    thread = threading.Thread(
        target=training.train, args=(wire.Train(2, b"t", 40, STEPS), Task()), daemon=True
    )
    thread.start()
    _until(lambda: len(order) > 10)
    with gate.wished():
        wished = len(order)
        _until(lambda: gate.yields == 1)
        assert len(order) <= wished + 2  # the one that had passed, and one in that moment
        for _ in generate(model, "It was", 5, Sampling(0, 0), Task()):
            order.append("token")
        still = order[wished + 2 :]
    thread.join()
    tokens = order.count("token")
    assert tokens >= 4
    assert still.count("token") >= tokens - 2
    assert "layer" not in still
    assert order[-1] == "layer"  # it went on
    assert gate.yields >= 1
