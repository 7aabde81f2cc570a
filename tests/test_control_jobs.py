"""Long work: watched, shared, detached, cancelled; and no bytes lost by any of it."""

import httpx
import pytest
import trio

from protocols.cid import cid_text
from protocols.errors import NotHeldError, SynapseError
from synapsed.control import models
from synapsed.control.client import DaemonError
from synapsed.control.jobs import JOB_LIMIT, Job, JobBoard
from synapsed.control.problems import BusyError, CancelledError
from synapsed.process.events import EventBus
from tests.control_fixtures import Daemon, big_fixture, daemon_fixture, origin_fixture  # noqa: F401


async def until(condition) -> None:
    """Wait until `condition()`, which the daemon's tasks make true."""
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.005)


async def jobs_of(daemon: Daemon) -> list[models.JobInfo]:
    async with daemon.client() as client:
        return (await client.call("GET", "/v1/jobs", models.Jobs)).jobs


async def pull(daemon: Daemon, cid: bytes, seen: list, **filters) -> models.PullResult:
    async with daemon.client() as client:
        return await client.work(
            f"/v1/models/{cid_text(cid)}/pull",
            models.PullResult,
            models.PullRequest(**filters),
            seen.append,
        )


async def test_a_pull_tells_its_progress_and_then_its_result(daemon, big):
    daemon.node.gate.allow(0)
    seen: list[models.Progress] = []
    results = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            results.append(await pull(daemon, big, seen))

        nursery.start_soon(run)
        for chunks in (1, 2):
            daemon.node.gate.allow(1)
            await until(lambda chunks=chunks: len(seen) == chunks)
        [job] = await jobs_of(daemon)
        assert (job.kind, job.subject, job.progress) == ("pull", cid_text(big), seen[-1])
        daemon.node.gate.open()
    assert results[0].fetched == results[0].size
    assert [one.done for one in seen] == sorted({one.done for one in seen})
    assert await jobs_of(daemon) == []


async def test_only_what_was_asked_for_is_moved(daemon, big):
    whole_expert = 1 << 20
    result = await pull(daemon, big, [], experts=["layer0.expert2"])
    assert result.fetched == result.size >= whole_expert
    result = await pull(daemon, big, [], tensors=["model.embed.weight"])
    assert result.fetched == 1 << 16  # the header is here since the first
    assert result.size > result.fetched


async def test_a_client_that_goes_away_cancels_its_pull_and_what_came_stays(daemon, big):
    daemon.node.gate.allow(2)
    seen: list[models.Progress] = []
    with trio.CancelScope() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull, daemon, big, seen)
            await until(lambda: daemon.node.pulled_chunks == 2 and seen)
            client.cancel()
    await until(lambda: daemon.node.cancelled_pulls == 1)
    assert await jobs_of(daemon) == []
    daemon.node.gate.open()
    result = await pull(daemon, big, [])
    assert 0 < result.fetched < result.size  # the rest only


async def test_a_detached_pull_that_fails_at_once_says_so(daemon, big):
    path = f"/v1/models/{cid_text(big)}/pull"
    await daemon.node.pause()
    async with daemon.client() as client:
        with pytest.raises(DaemonError, match="paused"):
            await client.call("POST", path, models.JobStarted, None, detach=True)
    await daemon.node.resume()
    async with daemon.client() as client:
        wrong = models.PullRequest(tensors=["no such tensor"])
        with pytest.raises(DaemonError, match="no such tensor"):
            await client.call("POST", path, models.JobStarted, wrong, detach=True)


async def test_a_detached_pull_outlives_its_client(daemon, big):
    daemon.node.gate.allow(1)
    async with daemon.client() as client:
        path = f"/v1/models/{cid_text(big)}/pull"
        started = await client.call("POST", path, models.JobStarted, None, detach=True)
        await until(lambda: daemon.node.pulled_chunks == 1)
    [job] = await jobs_of(daemon)
    assert (job.id, job.detached) == (started.job, True)
    with daemon.node.bus.subscribe() as reader:
        daemon.node.gate.open()
        with trio.fail_after(60):
            while (event := await reader.next()).kind != "job.done":
                pass
    assert event.fields["subject"] == cid_text(big)
    assert daemon.node.cancelled_pulls == 0


async def test_a_job_can_be_cancelled_by_its_number(daemon, big):
    daemon.node.gate.allow(1)
    problems = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(DaemonError) as cancelled:
                await pull(daemon, big, [])
            problems.append(cancelled.value.problem)

        nursery.start_soon(run)
        await until(lambda: daemon.node.pulled_chunks == 1)
        [job] = await jobs_of(daemon)
        async with daemon.http() as http:
            assert (await http.delete(f"/v1/jobs/{job.id}")).status_code == 200
    assert problems[0].error == "cancelled"


async def test_two_who_ask_for_the_same_share_one_job(daemon, big):
    daemon.node.gate.allow(1)
    results, seen = [], [[], []]
    async with trio.open_nursery() as nursery:

        async def run(progress: list) -> None:
            results.append(await pull(daemon, big, progress))

        nursery.start_soon(run, seen[0])
        await until(lambda: seen[0])
        nursery.start_soon(run, seen[1])
        await until(lambda: seen[1])
        assert len(await jobs_of(daemon)) == 1
        daemon.node.gate.open()
    assert results[0] == results[1]
    assert daemon.node.bus.counts["job.started"] == 1


async def test_an_error_in_the_middle_ends_the_stream_with_it(daemon, big, monkeypatch):
    seen: list[models.Progress] = []

    async def fails(cid, experts, tensors, report):
        report(models.Progress("pull", 1, 2))
        await until(lambda: seen)
        raise NotHeldError("the last holder left", remedy="wait for another")

    monkeypatch.setattr(daemon.node, "pull", fails)
    with pytest.raises(DaemonError) as error:
        await pull(daemon, big, seen)
    assert seen == [models.Progress("pull", 1, 2)]
    assert error.value.problem == models.Problem(
        "not-held", "the last holder left", "wait for another", 404
    )


async def test_a_defect_in_a_job_ends_the_job_only(daemon, big, monkeypatch):
    async def fails(cid, experts, tensors, report):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(daemon.node, "pull", fails)
    with pytest.raises(DaemonError) as error:
        await pull(daemon, big, [])
    assert error.value.problem.status == 500
    assert "a bug" not in error.value.problem.message
    assert daemon.node.bus.counts["task.failed"] == 1
    assert await jobs_of(daemon) == []


async def test_a_paused_daemon_refuses_to_pull(daemon, big):
    async with daemon.client() as client:
        assert (await client.call("POST", "/v1/pause", models.Paused)).paused
        with pytest.raises(DaemonError) as error:
            await pull(daemon, big, [])
        assert (error.value.problem.status, error.value.problem.error) == (503, "paused")
        assert not (await client.call("POST", "/v1/resume", models.Paused)).paused
    assert (await pull(daemon, big, [])).fetched


async def test_a_quiet_stream_says_that_it_lives(daemon, big, monkeypatch):
    monkeypatch.setattr("synapsed.control.streams.KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr("synapsed.control.streams.FIRST_NEWS_S", 0.05)
    daemon.node.gate.allow(0)
    stream = await daemon.connect()
    await stream.send_all(
        f"POST /v1/models/{cid_text(big)}/pull HTTP/1.1\r\nhost: d\r\n\r\n".encode()
    )
    received = b""
    with trio.fail_after(60):
        while received.count(b": still here") < 3:
            received += await stream.receive_some()
    await stream.aclose()
    await until(lambda: daemon.node.cancelled_pulls == 1)


async def test_a_stream_among_events_of_other_kinds_says_that_it_lives(
    daemon, nursery, monkeypatch
):
    monkeypatch.setattr("synapsed.control.streams.KEEP_ALIVE_S", 0.1)

    async def chatter() -> None:
        while True:
            daemon.node.bus.emit("other.kind")
            await trio.sleep(0.02)

    nursery.start_soon(chatter)
    stream = await daemon.connect()
    await stream.send_all(b"GET /v1/events?kind=upgrade. HTTP/1.1\r\nhost: d\r\n\r\n")
    received = b""
    with trio.fail_after(60):
        while received.count(b": still here") < 2:
            received += await stream.receive_some()
    assert b"other.kind" not in received
    await stream.aclose()


# -- the board alone ------------------------------------------------------------------------


@pytest.fixture
def board(nursery):
    return JobBoard(EventBus(), lambda _name, work: nursery.start_soon(work))


async def forever(_report) -> models.ScrubResult:
    await trio.sleep_forever()


async def test_there_is_a_limit_to_jobs(board):
    for number in range(JOB_LIMIT):
        board.start("pull", "x", number, forever, detached=True)
    with pytest.raises(BusyError):
        board.start("pull", "x", "one more", forever)
    board.start("pull", "x", 0, forever)  # which is under way already
    for info in board.list():
        board.cancel(info.id)
    await until(lambda: not board.list())


async def test_the_last_watcher_to_leave_cancels(board):
    job = board.start("pull", "x", None, forever)
    with job.watched():
        with job.watched():
            pass
        await trio.testing.wait_all_tasks_blocked()
        assert job.outcome is None
    await until(lambda: job.outcome is not None)
    assert isinstance(job.outcome, CancelledError)


async def test_asking_again_while_the_last_one_puts_things_away(board):
    """The second is a job of its own, which begins when the first has ended."""
    log: list[str] = []
    may_go = trio.Event()

    async def tidy(_report) -> models.ScrubResult:
        log.append("begin")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await may_go.wait()
            log.append("end")

    first = board.start("pull", "x", None, tidy)
    await trio.testing.wait_all_tasks_blocked()
    first.cancel()
    second = board.start("pull", "x", None, tidy)
    await trio.testing.wait_all_tasks_blocked()
    assert second is not first
    assert log == ["begin"]
    may_go.set()
    await trio.testing.wait_all_tasks_blocked()
    assert log == ["begin", "end", "begin"]
    assert [info.id for info in board.list()] == [second.number]
    second.cancel()
    await second.ended()


async def test_progress_from_a_thread_arrives(board):
    def busy(report) -> None:
        for done in range(3):
            report(models.Progress("scrub", done, 3))

    async def work(report) -> models.ScrubResult:
        await trio.to_thread.run_sync(busy, report)
        return models.ScrubResult(subtiles=1, bad=0, bytes=3, seconds=0.0)

    job = board.start("scrub", "x", None, work)
    with job.watched(), trio.fail_after(60):
        news = None
        while not isinstance(news, models.ScrubResult):
            news = await job.next_news(news)
    assert job.progress.done == 2


async def test_a_groups_typed_error_is_the_outcome():
    async def work(_report) -> models.ScrubResult:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise NotHeldError("gone")

    job = Job(1, "scrub", "x")
    await job.run(work)
    assert isinstance(job.outcome, NotHeldError)


async def test_a_mixed_group_goes_to_the_supervisor():
    async def work(_report) -> models.ScrubResult:
        raise ExceptionGroup("both", [NotHeldError("gone"), ZeroDivisionError()])

    job = Job(1, "scrub", "x")
    with pytest.raises(ExceptionGroup):
        await job.run(work)
    assert type(job.outcome) is SynapseError


async def test_many_clients_that_come_and_go_leave_nothing(daemon, big):
    daemon.node.gate.allow(0)
    before = trio.lowlevel.current_statistics().tasks_living

    async def come_and_go(number: int) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
        with trio.move_on_after(0.05 * number):
            async with httpx.AsyncClient(transport=transport, base_url="http://d") as http:
                await http.post(f"/v1/models/{cid_text(big)}/pull", timeout=20)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(come_and_go, number)
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before)
    assert await jobs_of(daemon) == []
