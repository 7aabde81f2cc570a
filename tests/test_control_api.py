"""The paths of the control socket, over a real Unix socket and a real store."""

import json
from collections import deque
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from protocols.cid import cid_of, cid_text
from synapsed.control import models
from synapsed.control.client import DaemonError
from synapsed.control.server import RECENT_EVENTS, remember
from synapsed.process.events import Event
from tests.control_fixtures import Daemon, daemon_fixture, origin_fixture  # noqa: F401
from tests.control_node import FRIEND, GONE, SELF, write_model

ABSENT = cid_text(cid_of(b"nobody has this"))


async def json_of(daemon: Daemon, method: str, path: str, **request):
    async with daemon.http() as http:
        answer = await http.request(method, path, **request)
    return answer.status_code, answer.json()


def test_frequent_events_do_not_push_out_rare_ones():
    recent: deque[Event] = deque()
    remember(recent, Event(0.0, "council.leader", {}))
    for number in range(3 * RECENT_EVENTS):
        remember(recent, Event(float(number), "ledger.ratified", {}))
    assert len(recent) == RECENT_EVENTS
    assert recent[0].kind == "council.leader"
    newest = range(2 * RECENT_EVENTS + 1, 3 * RECENT_EVENTS)
    assert [event.at for event in recent][1:] == list(map(float, newest))


async def test_status_says_who_and_what_it_costs(daemon):
    async with daemon.client() as client:
        status = await client.call("GET", "/v1/status", models.Status)
    assert status.state == "running"
    assert status.home == str(daemon.folder)
    assert status.process.rss > 10 << 20
    assert status.jobs == []


@pytest.mark.parametrize(
    ("which", "expected"),
    [("connected", [FRIEND]), ("live", [FRIEND, GONE]), ("all", [FRIEND, GONE])],
)
async def test_peers_can_be_chosen(daemon, which, expected):
    status, body = await json_of(daemon, "GET", f"/v1/peers?which={which}")
    assert status == 200
    assert [peer["peer_id"] for peer in body["peers"]] == expected


async def test_limits_change_only_what_is_named(daemon):
    status, body = await json_of(daemon, "PUT", "/v1/limits", json={"upload": 0})
    assert (status, body["upload"], body["max_pulls"]) == (200, 0, 2)
    status, body = await json_of(daemon, "PUT", "/v1/limits", json={"max_pulls": 5})
    assert (body["upload"], body["max_pulls"]) == (0, 5)


PROBLEMS = [
    ("GET", "/v1/nothing", None, 404, "no-such-path"),
    ("GET", "/v1/status/", None, 404, "no-such-path"),
    ("POST", "/v1/peers", None, 405, "no-such-method"),
    ("GET", "/v1/peers?which=mine", None, 422, "invalid"),
    ("GET", "/v1/models/abc", None, 422, "invalid"),
    ("GET", f"/v1/models/{ABSENT}%0A", None, 422, "invalid"),
    ("GET", f"/v1/models/{ABSENT}", None, 404, "not-held"),
    ("POST", "/v1/ping", b"{", 400, "malformed"),
    ("POST", "/v1/ping", b"\xff\xfe", 400, "malformed"),
    ("POST", "/v1/ping", b"[" * 200_000, 422, "invalid"),
    ("POST", "/v1/ping", b"[]", 422, "invalid"),
    ("POST", "/v1/ping", b'{"peer_id": "x"}', 422, "invalid"),
    ("POST", "/v1/ping", b'{"peer_id": "%s"}' % GONE.encode(), 404, "unknown"),
    ("POST", "/v1/ping", b"", 400, "malformed"),
    ("PUT", "/v1/limits", b'{"uplaod": 1}', 422, "invalid"),
    ("PUT", "/v1/limits", b'{"upload": -1}', 422, "invalid"),
    ("PUT", "/v1/limits", b'{"quota": 0}', 422, "invalid"),
    ("PUT", "/v1/limits", b'{"upload": 1e400}', 422, "invalid"),
    ("POST", "/v1/announcements", b'{"kind": "shard"}', 422, "invalid"),
    ("POST", "/v1/models/import", b'{"path": "relative"}', 422, "invalid"),
    ("POST", "/v1/models/import", b'{"path": "/a\\u0000b"}', 422, "invalid"),
    ("POST", "/v1/models/import", b'{"path": "/nowhere/at/all"}', 404, "unknown"),
    ("POST", f"/v1/models/{ABSENT}/export", b'{"path": "/nowhere/at/all"}', 404, "unknown"),
    ("POST", f"/v1/models/{ABSENT}/pull", b"", 404, "not-held"),
    ("POST", "/v1/models/import", b'{"path": "/%s"}' % (b"a" * 300), 404, "unknown"),
    ("POST", f"/v1/models/{ABSENT}/export", b'{"path": "/%s"}' % (b"a" * 300), 404, "unknown"),
    ("DELETE", "/v1/jobs/7", None, 404, "unknown"),
    ("DELETE", f"/v1/announcements/{ABSENT}", None, 404, "unknown"),
]


async def test_every_error_has_one_shape(daemon):
    async with daemon.http() as http:
        for method, path, body, status, code in PROBLEMS:
            answer = await http.request(method, path, content=body)
            problem = answer.json()
            assert set(problem) == {"error", "message", "remedy", "status"}, path
            assert (answer.status_code, problem["error"]) == (status, code), (path, problem)
            assert problem["status"] == status
            assert answer.headers["content-type"] == "application/json"
        refused = await http.post("/v1/peers")
        assert refused.headers["allow"] == "GET"
        refused = await http.delete("/v1/announcements")
        assert refused.headers["allow"] == "GET, POST"


async def test_a_defect_is_a_problem_too_and_the_daemon_lives(daemon, monkeypatch, caplog):
    async def broken(which):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(daemon.node, "peers", broken)
    status, body = await json_of(daemon, "GET", "/v1/peers")
    assert (status, body["error"]) == (500, "defect")
    assert "a bug" not in body["message"]
    await trio.testing.wait_all_tasks_blocked()  # the answer goes out first, then the log
    assert "ZeroDivisionError" in caplog.text
    assert (await json_of(daemon, "GET", "/v1/status"))[0] == 200


async def test_a_nurserys_group_with_a_typed_error_is_that_error(daemon, monkeypatch):
    async def in_a_nursery():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.node.ping, SELF)

    monkeypatch.setattr(daemon.node, "doctor", in_a_nursery)
    status, body = await json_of(daemon, "GET", "/v1/doctor")
    assert (status, body["error"]) == (404, "unknown")


async def test_what_takes_too_long_is_given_up(daemon, monkeypatch, autojump_clock):
    async def stuck(which):
        await trio.sleep_forever()

    monkeypatch.setattr(daemon.node, "peers", stuck)
    # The test's clock jumps ahead when all tasks sleep, so httpx's own limit must be out of it.
    transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://d", timeout=None) as http:
        answer = await http.get("/v1/peers")
    assert (answer.status_code, answer.json()["error"]) == (504, "timed-out")


async def test_an_export_to_where_the_daemon_may_not_write_is_refused(
    daemon, tmp_path, monkeypatch
):
    """As under its systemd unit, whose file system is read-only but for a few folders."""
    monkeypatch.setattr("synapsed.control.replies.os.access", lambda *_: False)
    body = {"path": str(tmp_path / "out")}
    status, problem = await json_of(daemon, "POST", f"/v1/models/{ABSENT}/export", json=body)
    assert (status, problem["error"]) == (403, "not-writable")
    assert "ReadWritePaths" in problem["remedy"]


async def test_import_show_export_and_remove_a_model(daemon, tmp_path):
    source = write_model(tmp_path / "mixture")
    seen: list[models.Progress] = []
    async with daemon.client() as client:
        found = await client.work(
            "/v1/models/import",
            models.ImportResult,
            models.ImportRequest(path=str(source), name="a mixture"),
            seen.append,
        )
        assert (found.name, found.files, found.experts) == ("a mixture", 2, 4)
        detail = await client.call("GET", f"/v1/models/{found.cid}", models.ModelDetail)
        assert detail.model.complete
        assert detail.model.pinned
        assert [each.name for each in detail.expert_list] == [f"layer0.expert{n}" for n in range(4)]

        exported = tmp_path / "out"
        await client.work(
            f"/v1/models/{found.cid}/export",
            models.ExportResult,
            models.ExportRequest(path=str(exported)),
            seen.append,
        )
        for name in ("model.safetensors", "config.json"):
            assert (exported / name).read_bytes() == (source / name).read_bytes()

        with pytest.raises(DaemonError) as there:
            await client.work(
                f"/v1/models/{found.cid}/export",
                models.ExportResult,
                models.ExportRequest(path=str(exported)),
                seen.append,
            )
        assert there.value.problem.status == 409

        scrubbed = await client.work("/v1/scrub", models.ScrubResult, None, seen.append)
        assert scrubbed.bad == 0
        assert scrubbed.bytes >= found.size
        removed = await client.call("DELETE", f"/v1/models/{found.cid}", models.Removed)
        assert removed.freed >= found.size
        assert (await client.call("GET", "/v1/models", models.Models)).models == []


async def test_gc_takes_what_was_unpinned(daemon, tmp_path):
    source = write_model(tmp_path / "mixture")
    async with daemon.client() as client:
        found = await client.work(
            "/v1/models/import",
            models.ImportResult,
            models.ImportRequest(path=str(source)),
            lambda _progress: None,
        )
        kept = await client.call("POST", "/v1/gc", models.GcResult)
        assert kept.freed == 0
        unpinned = await client.call("POST", f"/v1/models/{found.cid}/unpin", models.ModelInfo)
        assert not unpinned.pinned
        freed = await client.call("POST", "/v1/gc", models.GcResult)
    assert freed.freed >= found.size
    assert freed.files == 2


async def test_the_quota_is_an_error_of_its_own(daemon, tmp_path):
    daemon.node.store.quota.limit = 1 << 20
    asked = {"path": str(write_model(tmp_path / "mixture"))}
    status, body = await json_of(daemon, "POST", "/v1/models/import", json=asked)
    assert (status, body["error"]) == (507, "quota-exceeded")
    assert body["remedy"]
    assert (await json_of(daemon, "GET", "/v1/models"))[1] == {"models": []}


async def test_a_broken_safetensors_is_the_callers_fault(daemon, tmp_path):
    source = write_model(tmp_path / "mixture")
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    status, body = await json_of(daemon, "POST", "/v1/models/import", json={"path": str(source)})
    assert status == 400
    assert body["error"] == "header-truncated"


ADAPTER = {
    "kind": "adapter",
    "name": "polite",
    "base": ABSENT,
    "rank": 8,
    "alpha": 16.5,
    "target_modules": ["q_proj", "k_proj"],
}


async def test_publishing_stores_a_real_manifest(daemon, tmp_path):
    from protocols.cid import parse_cid
    from protocols.manifest import AdapterManifest

    file = write_model(tmp_path / "adapter") / "model.safetensors"
    status, body = await json_of(
        daemon, "POST", "/v1/announcements", json={**ADAPTER, "file": str(file)}
    )
    assert status == 201
    manifest = daemon.node.store.manifest_of(parse_cid(body["subject"]))
    assert isinstance(manifest, AdapterManifest)
    assert manifest.target_modules == ("k_proj", "q_proj")
    assert manifest.alpha_milli == 16_500
    assert manifest.file.size == file.stat().st_size
    listed = await json_of(daemon, "GET", "/v1/announcements?kind=adapter")
    assert [each["id"] for each in listed[1]["announcements"]] == [body["id"]]
    assert (await json_of(daemon, "GET", "/v1/announcements?kind=kernel"))[1] == {
        "announcements": []
    }
    status, _ = await json_of(daemon, "DELETE", f"/v1/announcements/{body['id']}")
    assert status == 200
    assert (await json_of(daemon, "GET", "/v1/announcements"))[1] == {"announcements": []}


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"rank": 0}, 422, "rank"),
        ({"targets": []}, 422, "targets"),
        ({"target_modules": [".*"]}, 422, "target_modules"),
        ({"base": "bafy"}, 422, "base"),
        ({"file": "/nowhere"}, 404, "/nowhere"),
        ({"name": "a\x07b"}, 422, "name"),
    ],
)
async def test_a_wrong_draft_is_refused_by_name(daemon, tmp_path, change, status, named):
    file = write_model(tmp_path / "adapter") / "model.safetensors"
    draft = {**ADAPTER, "file": str(file), **change}
    got, body = await json_of(daemon, "POST", "/v1/announcements", json=draft)
    assert got == status
    assert named in body["message"]
    assert daemon.node.catalog == {}


async def test_events_are_kept_and_followed(daemon):
    bus = daemon.node.bus
    bus.emit("peer.connected", peer=FRIEND)
    bus.emit("store.quota-warning", used=9)
    await trio.testing.wait_all_tasks_blocked()
    _, body = await json_of(daemon, "GET", "/v1/events/recent?kind=peer.")
    assert [event["fields"] for event in body["events"]] == [{"peer": FRIEND}]

    seen: list[str] = []
    async with daemon.client() as client:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                def tell(event: models.EventInfo) -> None:
                    seen.append(event.kind)
                    if len(seen) == 2:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(client.events, "model.", tell)
                while True:  # until the follower is in; then twice
                    bus.emit("peer.connected")
                    bus.emit("model.imported", cid=ABSENT)
                    await trio.sleep(0.01)
    assert seen[:2] == ["model.imported"] * 2


async def test_curl_can_speak_it(daemon):
    done = await trio.run_process(
        ["curl", "-sS", "--unix-socket", str(daemon.socket), "http://localhost/v1/limits"],
        capture_stdout=True,
    )
    assert msgspec.json.decode(done.stdout, type=models.Limits).max_connections == 64


async def test_the_metrics_are_the_nodes_own_numbers(daemon):
    from prometheus_client.parser import text_string_to_metric_families

    daemon.node.meter.count("in", "gossip", 41)
    daemon.node.meter.count("out", "heartbeat", 7)
    async with daemon.http() as http:
        text = (await http.get("/metrics")).text
        assert (await http.get("/v1/metrics")).headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples[("synapsed_messages_total", ("direction", "in"), ("kind", "gossip"))] == 41
    assert samples[("synapsed_messages_total", ("direction", "out"), ("kind", "heartbeat"))] == 7
    assert samples[("synapsed_network_bytes_total", ("direction", "out"))] == 2000
    assert samples[("synapsed_peer_faults_total", ("fault", "bad-leaf"))] == 2
    assert samples[("synapsed_loop_lag_seconds", ("quantile", "p99"))] == 0.002
    assert samples[("synapsed_store_quota_bytes",)] == 64 << 20
    assert samples[("synapsed_messages_per_second",)] > 0
    traffic = ("synapsed_training_bytes_total", ("direction", "in"), ("role", "aggregator"))
    assert samples[traffic] == 3000
    assert samples[("synapsed_training_rounds_total", ("role", "primary"))] == 7
    assert samples[("synapsed_training_own_deltas_total", ("outcome", "refused"))] == 2
    assert samples[("synapsed_training_loss", ("model", "bafymodel"))] == 2.25
    assert samples[("synapsed_training_torch_seconds_total",)] == 12.5
    assert samples[("synapsed_compute_workers_total", ("what", "hung"))] == 1
    manual = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()
    for name, *_ in samples:
        assert f"`{name.removeprefix('synapsed_')}" in manual, name
    resident = _resident_by_ps()
    assert samples[("synapsed_resident_bytes",)] == pytest.approx(resident, rel=0.05)


def _resident_by_ps() -> int:
    """An independent reading (contract B6): procps' own, in KiB."""
    import os
    import subprocess

    command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    return int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024


async def test_numbers_in_json_are_plain(daemon):
    _, body = await json_of(daemon, "GET", "/v1/status")
    assert json.loads(json.dumps(body)) == body
