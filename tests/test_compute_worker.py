"""The node's side and a real worker: requests, streams, faults, pauses. contract K17, M19, R7."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from synapsed.compute import keeper, watchdog, wire
from synapsed.compute.compute import Compute
from synapsed.compute.errors import (
    BadHeadError,
    BadModelError,
    ComputeError,
    DiedError,
    NotInstalledError,
    OutOfMemoryError,
    PausedError,
    RestingError,
    UnknownKindError,
    UnloadedError,
)
from synapsed.compute.keeper import ComputeSettings
from synapsed.compute.worker import Worker
from tests.compute_kit import (
    PLAN,
    Files,
    by_group,
    computing,
    files_of,
    moe_config,
    moe_tensors,
    small_moe,
    text_file,
    write_moe,
)

MODEL, CHILD, TRAINING = b"model", b"child", b"training"
LOCAL = PLAN.phases[-1]


async def _fresh(compute: Compute, folder: Path) -> Files:
    await compute.new_model("tiny-moe", folder, seed=7)
    return files_of(folder)


class HangingWorker:
    """Says that it is ready, and then what a test has it say; its process is another one's."""

    def __init__(self, listener: Any, *, beats: bool, still_s: float = 0.0) -> None:
        self._listener = listener
        self._beats = beats
        self._still_s = still_s
        self.beaten = trio.Event()
        self.processes: list[subprocess.Popen[bytes]] = []

    async def run(self, *, times: int = 1) -> None:
        for _ in range(times):
            stream, _ = await self._listener.accept()
            self.processes.append(subprocess.Popen(["sleep", "1000"]))
            with stream:
                await stream.send(wire.frame(wire.Ready(self.processes[-1].pid)))
                with suppress(BrokenPipeError, ConnectionResetError):
                    # It is ended by what it answers first, whatever else it was asked by then.
                    await self._hang(stream)

    async def _hang(self, stream: Any) -> None:
        data, beats = bytearray(), 0
        while part := await stream.recv(1 << 16):
            data += part
            while len(data) >= 4 and len(data) >= 4 + (size := wire.HEAD.unpack_from(data)[0]):
                request = wire.requests.decode(bytes(data[4 : 4 + size]))
                del data[: 4 + size]
                if isinstance(request, wire.Settings):
                    await stream.send(wire.frame(wire.Done(request.number)))
                elif isinstance(request, wire.Beat) and self._beats:
                    await stream.send(wire.frame(wire.Alive(request.number, self._still_s)))
                    beats += 1
                    if beats > 2 * watchdog.MISSED:
                        self.beaten.set()


def _ended(pid: int) -> bool:
    """Whether a process is gone; its parent, the server, may not have looked yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


async def _text(compute: Compute, key: bytes, **options: Any) -> str:
    async with compute.generate(key, "It was the ", **options) as pieces:
        return "".join([piece async for piece in pieces])


async def test_a_model_is_made_trained_certified_and_generated_with(tmp_path: Path) -> None:
    """The whole way, with one learner: every interface that the node uses."""
    text = text_file(tmp_path)
    async with computing() as compute:
        files = await _fresh(compute, tmp_path / "model")
        opened = await compute.open_model(MODEL, files)
        assert (opened.kind, opened.parameters, opened.copied) == ("mixtral", 262_976, 0)
        loaded = await compute.load_training(TRAINING, files, {}, text, PLAN, seed=1)
        groups = list(range(len(loaded.heads)))
        at = by_group(await compute.make_versions(files, PLAN.group_bytes, groups, tmp_path / "v"))
        assert [at[group].head for group in groups] == list(loaded.heads)
        states: dict[int, Path | None] = dict.fromkeys(groups)
        for number in range(6):
            phase = PLAN.phase_of(number)
            trained = await compute.train(TRAINING, phase.steps, phase)
            assert len(trained.losses) == phase.steps
            deltas = await compute.encode(TRAINING, groups, phase, tmp_path / "d")
            for group in groups:
                base, delta = Path(at[group].path), Path(deltas[group].path)
                await compute.check_delta(base, delta)
                done = await compute.aggregate(
                    PLAN,
                    number,
                    group,
                    base,
                    inputs=[(delta, 1)],
                    out=tmp_path / "r",
                    state=states[group],
                )
                result, head = Path(done.result.path), done.version.head
                after = await compute.advance(group, base, [(result, head)], tmp_path / "r")
                assert after == done.version
                await compute.apply(TRAINING, group, result, head)
                at[group], states[group] = after, Path(done.state.path) if done.state else None
        versions = {group: Path(at[group].path) for group in groups}
        await compute.write_model(files, PLAN.group_bytes, versions, tmp_path / "child")
        await compute.open_model(CHILD, files_of(tmp_path / "child"))
        before, after_, base_ = [
            (await compute.evaluate(key, text, 32, range(16))).losses
            for key in (MODEL, CHILD, TRAINING)
        ]
        assert sum(after_) < sum(before) - 16  # more than a nat per token
        assert after_ == base_  # what the checkpoint says is what was trained, to the last bit
        said = await _text(compute, CHILD, tokens=40, temperature=0)
        assert len(said) == 40
        assert said == await _text(compute, CHILD, tokens=40, temperature=0)
        assert said != await _text(compute, MODEL, tokens=40, temperature=0)


async def test_what_is_wrong_is_said_and_the_worker_goes_on(tmp_path: Path) -> None:
    files = small_moe(tmp_path / "m")
    text = text_file(tmp_path)
    async with computing() as compute:

        async def raises(kind: type[ComputeError], ask: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(kind) as caught:
                await ask()
            assert caught.value.code == kind.code
            assert caught.value.remedy

        await raises(UnknownKindError, lambda: compute.new_model("huge", tmp_path / "n", 1))
        await raises(BadModelError, lambda: compute.open_model(MODEL, files[1:]))
        await raises(UnloadedError, lambda: compute.evaluate(MODEL, text, 32, []))
        await raises(UnloadedError, lambda: compute.train(TRAINING, 1, LOCAL))
        await compute.open_model(MODEL, files)
        count = (await compute.evaluate(MODEL, text, 32, [])).windows
        assert count == (len(text.read_bytes()) - 1) // 32
        await compute.load_training(TRAINING, files, {}, text, PLAN, seed=1)
        await compute.train(TRAINING, 1, LOCAL)
        deltas = await compute.encode(TRAINING, [0], LOCAL, tmp_path / "d")
        await raises(
            BadHeadError, lambda: compute.apply(TRAINING, 0, Path(deltas[0].path), bytes(32))
        )
        pid = compute.status().pid
        assert compute.status().state == "running"
        await compute.train(TRAINING, 1, LOCAL)
        assert compute.status().pid == pid


async def test_pause_ends_the_process_and_whoever_waits_is_told(tmp_path: Path) -> None:
    text = text_file(tmp_path)
    events: list[tuple[str, dict[str, Any]]] = []
    async with computing(events) as compute:
        files = await _fresh(compute, tmp_path / "m")
        await compute.load_training(TRAINING, files, {}, text, PLAN, seed=1)
        pid = compute.status().pid
        told: list[str] = []

        async def train() -> None:
            with pytest.raises(PausedError):
                await compute.train(TRAINING, 500, LOCAL)
            told.append("paused")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(train)
            await trio.testing.wait_all_tasks_blocked()
            await compute.pause()
            assert _ended(pid)  # and all that it held is free
        assert told == ["paused"]
        with pytest.raises(PausedError):
            await compute.train(TRAINING, 1, LOCAL)
        assert compute.status().state == "paused"
        compute.resume()
        with pytest.raises(UnloadedError):
            await compute.train(TRAINING, 1, LOCAL)
        assert compute.status().pid not in (0, pid)
        assert [kind for kind, _ in events] == [
            "compute.started",
            "compute.paused",
            "compute.resumed",
            "compute.started",
        ]


async def test_a_worker_that_stands_still_is_killed_by_pause(tmp_path: Path) -> None:
    async with computing() as compute:
        await _fresh(compute, tmp_path / "m")
        pid = compute.status().pid
        os.kill(pid, signal.SIGSTOP)
        await compute.pause()
        assert _ended(pid)


async def test_a_dead_worker_is_replaced_and_one_that_dies_again_and_again_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "RESTS_S", (0.0, 600.0))
    text = text_file(tmp_path)
    events: list[tuple[str, dict[str, Any]]] = []
    async with computing(events) as compute:
        files = await _fresh(compute, tmp_path / "m")
        for _ in range(2):
            await compute.load_training(TRAINING, files, {}, text, PLAN, seed=1)
            async with trio.open_nursery() as nursery:

                async def train() -> None:
                    with pytest.raises(DiedError):
                        await compute.train(TRAINING, 500, LOCAL)

                nursery.start_soon(train)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(compute.status().pid, signal.SIGKILL)
        with pytest.raises(RestingError, match="2 compute workers died in a row"):
            await compute.train(TRAINING, 1, LOCAL)
        assert compute.status().state == "resting"
        assert [fields["deaths"] for kind, fields in events if kind == "compute.died"] == [1, 2]


async def test_a_request_that_nobody_waits_for_ends_between_two_layers(tmp_path: Path) -> None:
    text = text_file(tmp_path)
    async with computing() as compute:
        files = await _fresh(compute, tmp_path / "m")
        await compute.load_training(TRAINING, files, {}, text, PLAN, seed=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(compute.train, TRAINING, 500, LOCAL)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        # 500 steps take 4 s or more; this one waits behind them unless they were ended.
        trained = await compute.train(TRAINING, 1, LOCAL)
        assert trained.step < 400


async def test_generating_comes_before_training_and_both_end_well(tmp_path: Path) -> None:
    text = text_file(tmp_path)
    async with computing() as compute:
        files = await _fresh(compute, tmp_path / "m")
        await compute.open_model(MODEL, files)
        await compute.load_training(TRAINING, files, {}, text, PLAN, seed=1)
        order: list[str] = []

        async def train() -> None:
            await compute.train(TRAINING, 60, LOCAL)
            order.append("trained")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(train)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                await _text(compute, MODEL, tokens=5)
                order.append("generated")
        assert order[:2] == ["generated", "generated"]
        seen = await compute.look()
        assert seen is not None
        assert seen.yields >= 1
        assert seen.yield_ms > 0
        assert seen.busy_s > 0


async def test_pieces_of_text_come_while_others_are_still_made(tmp_path: Path) -> None:
    async with computing() as compute:
        files = await _fresh(compute, tmp_path / "m")
        await compute.open_model(MODEL, files)
        async with compute.generate(MODEL, "", tokens=5000, seed=3) as pieces:
            async for _ in pieces:
                break
        # The rest was cancelled: 5000 tokens take 2 s, and the lane is free at once.
        assert len(await _text(compute, MODEL, tokens=8, temperature=0)) > 0


async def test_more_than_the_limit_is_refused_and_the_worker_lives(tmp_path: Path) -> None:
    """Contract M19: within a cap, and said so where it is too small."""
    config = moe_config(hidden_size=256, intermediate_size=1024)
    files = write_moe(tmp_path / "m", config, moe_tensors(config))
    text = text_file(tmp_path)
    async with computing(memory=64 << 20) as compute:
        opened = await compute.open_model(MODEL, files)
        assert opened.bytes > 48 << 20  # mapped, which is not counted
        assert len((await compute.evaluate(MODEL, text, 32, [0])).losses) == 1
        with pytest.raises(OutOfMemoryError):  # a copy of it, its gradient and moments
            await compute.load_training(TRAINING, files, {}, text, PLAN, seed=1)
        assert len((await compute.evaluate(MODEL, text, 32, [0])).losses) == 1


async def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "find_spec", lambda name: None)
    async with computing() as compute:
        with pytest.raises(NotInstalledError, match="torch") as caught:
            await compute.new_model("tiny-moe", Path("/nowhere"), 1)
        assert "synapsed[compute]" in caught.value.remedy


async def test_a_device_that_is_not_there_is_no_death(tmp_path: Path) -> None:
    async with computing(device="cuda:7") as compute:
        for _ in range(3):
            with pytest.raises(ComputeError, match="cuda:7"):
                await compute.new_model("tiny-moe", tmp_path / "m", 1)
        assert compute.status().deaths == 0


async def test_a_worker_that_speaks_nonsense_is_ended(tmp_path: Path) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(tmp_path / "s"))
    listener.listen()

    async def babble() -> None:
        for said in (b"\xff" * 8, wire.HEAD.pack(3) + b"\xc1\xc1\xc1"):
            stream, _ = await listener.accept()
            with stream:
                await stream.send(said)
                assert await stream.recv(1) == b""

    async with computing(server=tmp_path / "s") as compute, trio.open_nursery() as nursery:
        nursery.start_soon(babble)
        for _ in range(2):
            with pytest.raises(DiedError):
                await compute.new_model("tiny-moe", tmp_path / "m", 1)
            compute._rest_until = 0.0
    listener.close()


async def _listening(path: Path) -> Any:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    return listener


async def _trains_in_vain(compute: Compute) -> DiedError:
    with pytest.raises(DiedError) as caught, trio.fail_after(60):
        await compute.train(TRAINING, 1, LOCAL)
    return caught.value


@pytest.mark.parametrize("beats", [False, True])
async def test_a_worker_that_hangs_is_killed_and_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: bool
) -> None:
    """As a whole, or (a card that was lost) in the midst of a piece of work."""
    monkeypatch.setattr(watchdog, "BEAT_S", 0.02)
    monkeypatch.setattr(keeper, "RESTS_S", (0.0,))
    listener = await _listening(tmp_path / "s")
    hanging = HangingWorker(listener, beats=beats, still_s=watchdog.STUCK_S + 60)
    events: list[tuple[str, dict[str, Any]]] = []
    async with computing(events, server=tmp_path / "s") as compute, trio.open_nursery() as nursery:
        nursery.start_soon(partial(hanging.run, times=2))
        for count in range(1, 3):
            error = await _trains_in_vain(compute)
            assert "hangs" in error.message
            assert ("31 minutes" if beats else "not answered") in error.message
            with trio.fail_after(60):
                while sum(kind == "compute.died" for kind, _ in events) < count:
                    await trio.sleep(0.01)
        assert [process.wait() for process in hanging.processes] == [-signal.SIGKILL] * 2
        assert [fields["hung"] for kind, fields in events if kind == "compute.died"] == [True] * 2
        assert "it hung" in compute.status().last_death
    listener.close()


async def test_a_long_step_is_no_hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers beats, and what is under way moves: so it may take as long as it takes."""
    monkeypatch.setattr(watchdog, "BEAT_S", 0.02)
    listener = await _listening(tmp_path / "s")
    worker = HangingWorker(listener, beats=True)
    # On a busy machine one beat may be missed; so many in a row are not.
    async with computing(server=tmp_path / "s") as compute, trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        nursery.start_soon(compute.train, TRAINING, 1, LOCAL)
        with trio.fail_after(60):
            await worker.beaten.wait()
        assert compute.status().state == "running"
        assert worker.processes[0].poll() is None
        nursery.cancel_scope.cancel()
    worker.processes[0].kill()
    worker.processes[0].wait()
    listener.close()


async def test_a_real_worker_beats_also_amid_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "BEAT_S", 0.05)
    monkeypatch.setattr(watchdog, "MISSED", 1000)
    text = text_file(tmp_path)
    heard: list[float] = []
    real = Worker._heard

    def hear(worker: Worker, reply: wire.Reply) -> None:
        if isinstance(reply, wire.Alive):
            heard.append(reply.still_s)
        real(worker, reply)

    monkeypatch.setattr(Worker, "_heard", hear)
    async with computing() as compute:
        files = await _fresh(compute, tmp_path / "m")
        await compute.load_training(TRAINING, files, {}, text, PLAN, seed=1)
        heard.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(compute.train, TRAINING, 500, LOCAL)
            with trio.fail_after(60):
                while len(heard) < 5:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert 0 < max(heard) < watchdog.STUCK_S  # something is under way, and it moves


async def test_a_worker_that_ends_with_its_daemon_has_not_died(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A service's processes are told to end all at once, the worker as soon as the daemon."""
    events: list[tuple[str, dict[str, Any]]] = []
    async with computing(events) as compute:
        await _fresh(compute, tmp_path / "m")
        pid = compute.status().pid
        compute.closing()
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(60):
            while compute.status().state != "off":
                await trio.sleep(0.01)
        with pytest.raises(DiedError, match="the daemon stops"):
            await compute.train(TRAINING, 1, LOCAL)
    assert [kind for kind, _ in events] == ["compute.started"]
    assert "died" not in caplog.text


NODE = """
import sys, trio
from pathlib import Path
from synapsed.compute.compute import Compute
from synapsed.compute.keeper import ComputeSettings

async def main():
    compute = Compute(lambda kind, **fields: None, ComputeSettings(threads=1, device="cpu"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compute.run)
        await compute.new_model("tiny-moe", Path(sys.argv[1]), 7)
        print(compute.status().pid, "torch" in sys.modules, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_fresh_worker_ends_with_its_node_whose_process_has_no_torch(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", NODE, tmp_path / "m"], stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdout is not None
        pid, has_torch = (await trio.to_thread.run_sync(node.stdout.readline)).split()
        pidfd = os.pidfd_open(int(pid))
        node.kill()
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)
    assert has_torch == "False"
    assert {name for name, _ in files_of(tmp_path / "m")} == {"config.json", "model.safetensors"}


def test_the_settings_have_names_for_their_defaults() -> None:
    assert ComputeSettings() == ComputeSettings(threads=0, memory=0, device="", server=None)
