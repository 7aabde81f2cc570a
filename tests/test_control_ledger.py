"""The ledger's paths of the control socket, over a real ledger: its members live in the node."""

import base64

import msgspec
import pytest

from protocols.cid import cid_of, cid_text, parse_cid
from protocols.keytext import key_text
from protocols.ledger.chain import Header, chain_hash, payload_hash, skip_index
from protocols.ledger.council import Certificate
from protocols.ledger.entries import MAX_SUBMISSION, NO, YES, Note, encode_entry
from protocols.ledger.signing import approval_message, batch, submit
from protocols.peerid import peer_id_text
from synapsed.control import ledgermodels as said
from synapsed.control import models
from synapsed.control.client import DaemonError
from tests.control_fixtures import Daemon, daemon_fixture, origin_fixture  # noqa: F401
from tests.control_ledger import TERM
from tests.ledger_book import HUMAN, MEMBERS, NETWORK, OTHER_HUMAN, STRANGER

ABSENT = cid_text(cid_of(b"nobody has this"))
UPLOAD = {
    "kind": "parameter",
    "title": "More upload",
    "changes": [{"name": "limits.upload", "value": 5_000_000}],
}


async def json_of(daemon: Daemon, method: str, path: str, **request):
    async with daemon.http() as http:
        answer = await http.request(method, path, **request)
    return answer.status_code, answer.json()


async def submitted(daemon: Daemon, path: str, body, **query) -> said.Submitted:
    async with daemon.client() as client:
        return await client.work(path, said.Submitted, body, lambda _progress: None, **query)


async def proposed(daemon: Daemon, body=UPLOAD) -> str:
    done = await submitted(daemon, "/v1/proposals", body)
    assert done.subject is not None
    return done.subject


def others_vote(daemon: Daemon, cid: str, choice: int = YES) -> None:
    book, proposal = daemon.node.there, parse_cid(cid)
    votes = [book.ballot(member, proposal, choice) for member in MEMBERS[1:]]
    daemon.node.ratify(encode_entry(batch(votes)))


# -- reading


async def test_the_head_names_its_certificate(daemon):
    async with daemon.client() as client:
        info = await client.call("GET", "/v1/ledger", said.LedgerInfo)
        assert (info.index, info.certificate) == (0, None)
        assert info.hash == info.genesis
        for number in range(5):
            await submitted(daemon, "/v1/ledger/notes", {"text": f"note {number}"})
        info = await client.call("GET", "/v1/ledger", said.LedgerInfo)
    assert info.index == 5
    certificate = info.certificate
    assert (certificate.kind, certificate.epoch, certificate.term) == ("ratified", 1, TERM)
    assert (certificate.index, certificate.hash) == (5, info.hash)
    assert len(certificate.signers) == 3
    assert set(certificate.signers) < {peer_id_text(each.identity) for each in MEMBERS}
    assert certificate.seats == 4


async def test_runs_of_entries(daemon):
    for number in range(30):
        author = MEMBERS[number % 4]
        daemon.node.ratify(daemon.node.there.submission(author, Note(text=f"note {number}")))
        daemon.node.later(0 if number % 10 else 2000)

    async def run(query: str) -> list[int]:
        status, body = await json_of(daemon, "GET", f"/v1/ledger/entries{query}")
        assert status == 200
        assert body["head"] == head
        return [entry["index"] for entry in body["entries"]]

    head = daemon.node.there.state.head.index
    assert head == 33
    assert await run("") == list(range(head - 19, head + 1))
    assert await run("?first=0&count=3") == [0, 1, 2]
    assert await run("?first=-2&count=10") == [head - 1, head]
    assert await run("?first=-1000&count=1000") == list(range(head + 1))
    assert await run(f"?first={head + 1}") == []
    _, body = await json_of(daemon, "GET", "/v1/ledger/entries?first=0&count=40")
    times = [entry["time"] for entry in body["entries"]]
    assert times == sorted(times)
    ticks = [entry for entry in body["entries"] if entry["kind"] == "tick"]
    assert len(ticks) == 3
    for entry in ticks:
        assert entry["time"] == entry["body"]["time"] / 1000
    # Wherever a run begins, an entry has the same time.
    for first in range(head + 1):
        _, one = await json_of(daemon, "GET", f"/v1/ledger/entries?first={first}&count=1")
        assert one["entries"] == body["entries"][first : first + 1]


async def test_an_answer_stops_at_four_megabytes(daemon, monkeypatch):
    monkeypatch.setattr("synapsed.control.ledgerview.MAX_BYTES", 600)
    for number in range(10):
        daemon.node.ratify(daemon.node.there.submission(MEMBERS[1], Note(text=f"note {number}")))
    _, body = await json_of(daemon, "GET", "/v1/ledger/entries?first=1&count=10")
    sizes = [entry["size"] for entry in body["entries"]]
    assert 1 < len(sizes) < 10
    assert sum(sizes) <= 600 < sum(sizes) + sizes[0]
    _, genesis = await json_of(daemon, "GET", "/v1/ledger/entries?first=0&count=10")
    assert [entry["index"] for entry in genesis["entries"]] == [0]  # one comes, however large


async def test_an_entry_hashes_to_what_the_chain_says(daemon):
    for number in range(4):
        await submitted(daemon, "/v1/ledger/notes", {"text": f"note {number}"})
    async with daemon.client() as client:
        found = [
            await client.call("GET", f"/v1/ledger/entries/{index}", said.EntryDetail)
            for index in range(5)
        ]
    for index in range(1, 5):
        entry = found[index].entry
        assert found[index].previous == found[index - 1].entry.hash
        payload = payload_hash(bytes.fromhex(found[index].payload))
        links = [bytes.fromhex(found[at].entry.hash) for at in (index - 1, skip_index(index))]
        header = Header(entry.epoch, index, *links, payload)
        assert chain_hash(NETWORK, header).hex() == entry.hash
        assert (entry.kind, entry.summary) == ("note", f"note {index - 1}")
        assert entry.author == peer_id_text(MEMBERS[0].identity)
        assert found[index].certificate.index == 4
    assert found[0].certificate is None
    assert found[0].entry.summary == "founds test: 4 seats, 2 human keys"


async def test_a_parameter_is_in_force_at_an_index_and_names_its_certificate(daemon):
    cid = await proposed(daemon)
    await submitted(daemon, f"/v1/proposals/{cid}/votes", {"choice": "yes"})
    others_vote(daemon, cid)
    daemon.node.later(10_000)
    daemon.node.later(5_000)
    async with daemon.client() as client:
        params = await client.call("GET", "/v1/params", said.Params)
        entry = {each.name: each for each in params.params}["limits.upload"]
        named = await client.call("GET", f"/v1/ledger/entries/{entry.index}", said.EntryDetail)
        detail = await client.call("GET", f"/v1/proposals/{cid}", said.ProposalDetail)
    assert (entry.value, entry.origin, entry.proposal) == (5_000_000, "ledger", cid)
    assert entry.certificate.index >= entry.index
    assert named.entry.kind == "parameter"
    assert named.entry.body["settings"] == [{"name": "limits.upload", "value": 5_000_000}]
    assert entry.local == "20 Mbit/s, by /etc/config.toml:3"
    info, outcome = detail.proposal, detail.outcome
    assert (info.state, info.yes, info.no, info.weight) == ("accepted", 4000, 0, 4000)
    assert (outcome.accepted, outcome.reason) == (True, "accepted")
    assert info.opened < outcome.index < entry.index
    assert [each.origin for each in params.params].count("ledger") == 1
    assert [each.name for each in params.params] == sorted(each.name for each in params.params)


async def test_proposals_by_state_newest_first(daemon):
    first = await proposed(daemon)
    others_vote(daemon, first, NO)
    daemon.node.later(10_000)
    second = await proposed(daemon, {"kind": "text", "title": "a question"})
    third = await proposed(daemon, {"kind": "text", "title": "another"})
    for state, expected in (
        ("", [third, second, first]),
        ("?state=open", [third, second]),
        ("?state=rejected", [first]),
        ("?state=accepted", []),
    ):
        _, body = await json_of(daemon, "GET", f"/v1/proposals{state}")
        assert [each["cid"] for each in body["proposals"]] == expected
    assert body["proposals"] == []
    _, body = await json_of(daemon, "GET", f"/v1/proposals/{first}")
    assert body["outcome"]["reason"] == "rejected"
    assert body["proposal"]["no"] == 3000


async def test_votes_are_shown_with_their_weights_the_last_counts(daemon):
    cid = await proposed(daemon)
    await submitted(daemon, f"/v1/proposals/{cid}/votes", {"choice": "no"})
    others_vote(daemon, cid)
    await submitted(daemon, f"/v1/proposals/{cid}/votes", {"choice": "abstain"})
    _, body = await json_of(daemon, "GET", f"/v1/proposals/{cid}")
    info = body["proposal"]
    assert (info["yes"], info["no"], info["abstain"], info["voters"]) == (3000, 0, 1000, 4)
    assert (info["our_vote"], info["our_weight"]) == ("abstain", 1000)
    assert (info["quorum"], info["threshold"], info["risk"]) == (0.4, 0.5, "medium")
    assert {(vote["choice"], vote["own"]) for vote in body["votes"]} == {
        ("yes", False),
        ("abstain", True),
    }
    assert body["why"] == "limits.upload is of class medium"
    assert body["changes"][0] == {
        "name": "limits.upload",
        "value": 5_000_000,
        "before": daemon.node.there.state.params["limits.upload"],
        "unit": "B/s",
    }


async def test_a_critical_change_needs_the_named_human_keys(daemon):
    key = key_text(STRANGER.key)
    cid = await proposed(
        daemon,
        {
            "kind": "human-key",
            "title": "Carol may approve",
            "action": "add",
            "name": "carol",
            "key": key,
        },
    )
    await submitted(daemon, f"/v1/proposals/{cid}/votes", {"choice": "yes"})
    others_vote(daemon, cid)
    daemon.node.later(10_000)
    message = approval_message(daemon.node.there.state.realm, parse_cid(cid))
    for human in (HUMAN, OTHER_HUMAN):
        _, body = await json_of(daemon, "GET", f"/v1/proposals/{cid}")
        assert body["proposal"]["state"] == "open"
        asked = {"key": key_text(human.key), "signature": human.sign(message).hex()}
        done = await submitted(daemon, f"/v1/proposals/{cid}/approvals", asked)
        assert (done.kind, done.subject) == ("approval", cid)
    daemon.node.later(1000)
    _, body = await json_of(daemon, "GET", f"/v1/proposals/{cid}")
    assert body["proposal"]["state"] == "accepted"
    assert body["proposal"]["risk"] == "critical"
    assert body["proposal"]["approvals"] == ["alice", "bob"]


async def test_the_council_says_what_it_tolerates(daemon):
    await submitted(daemon, "/v1/ledger/notes", {"text": "signed"})
    async with daemon.client() as client:
        found = await client.call("GET", "/v1/council", said.CouncilInfo)
    council = daemon.node.there.state.council
    assert (found.quorum, found.liars, found.down) == (3, 1, 1)
    assert [seat.peer_id for seat in found.seats] == [peer_id_text(m.identity) for m in MEMBERS]
    assert [seat.last_signed for seat in found.seats] == [1, 1, 1, None]
    assert [seat.live for seat in found.seats] == [True, True, True, False]
    assert [seat.own for seat in found.seats] == [True, False, False, False]
    leader = council.seats[council.leader(TERM)].identity
    assert found.leader == peer_id_text(leader)
    assert [seat.leads for seat in found.seats].count(True) == 1
    assert (found.seat, found.term, found.epoch) == (0, TERM, 1)


async def test_reputation_of_one_of_the_highest_and_of_a_stranger(daemon):
    status, body = await json_of(daemon, "GET", "/v1/reputation?limit=3")
    assert (status, body["total"], len(body["reputations"])) == (200, 4, 3)
    assert sum(each["share"] for each in body["reputations"]) == pytest.approx(0.75)
    text = peer_id_text(STRANGER.identity)
    _, body = await json_of(daemon, "GET", f"/v1/reputation?peer={text}")
    (stranger,) = body["reputations"]
    assert (stranger["reputation"], stranger["share"], stranger["trust"]) == (0, 0, "newcomer")
    assert (stranger["quota"], stranger["left"]) == (20, 20)
    assert stranger["work_bits"] == daemon.node.there.state.params["work.bits"] > 0
    await submitted(daemon, "/v1/ledger/notes", {"text": "one of twenty"})
    own = peer_id_text(MEMBERS[0].identity)
    _, body = await json_of(daemon, "GET", f"/v1/reputation?peer={own}")
    assert (body["reputations"][0]["left"], body["reputations"][0]["work_bits"]) == (19, 0)
    status, body = await json_of(daemon, "GET", "/v1/reputation?peer=12D3KooW")
    assert (status, body["error"]) == (422, "invalid")
    assert "peer id" in body["message"]


# -- submitting


async def test_a_newcomer_pays_with_work_and_is_told_so(daemon):
    daemon.node.me = STRANGER
    stages = []
    async with daemon.client() as client:
        done = await client.work(
            "/v1/ledger/notes",
            said.Submitted,
            {"text": "hello"},
            lambda progress: stages.append(progress.stage),
        )
    assert done.work_seconds > 0
    assert done.index == 1


async def test_not_waiting_is_answered_before_it_is_ratified(daemon):
    done = await submitted(daemon, "/v1/ledger/notes", {"text": "later"}, wait=False)
    assert (done.index, done.certificate) == (None, None)
    assert daemon.node.there.state.head.index == 0
    done = await submitted(daemon, "/v1/ledger/notes", {"text": "now"})
    assert done.index == 1
    assert done.certificate.hash == daemon.node.there.state.head.hash.hex()


async def test_what_a_proposal_links_is_fetched_first(daemon):
    body = {"kind": "text", "title": "about that", "links": [ABSENT]}
    status, problem = await json_of(daemon, "POST", "/v1/proposals", json=body)
    assert (status, problem["error"]) == (409, "artefact-unavailable")
    assert ABSENT in problem["message"]
    daemon.node.fetchable.add(ABSENT)
    cid = await proposed(daemon, body)
    _, detail = await json_of(daemon, "GET", f"/v1/proposals/{cid}")
    assert detail["links"] == [ABSENT]
    assert detail["proposal"]["verdicts_needed"] == 3


async def test_raw_submissions_are_taken_one_by_one(daemon):
    book = daemon.node.there
    good = [book.submission(MEMBERS[n], Note(text="raw")) for n in range(4)]
    torn = bytearray(good[0])
    torn[-1] ^= 1
    items = [bytes(torn), *good, good[2]]
    body = {"submissions": [base64.b64encode(each).decode() for each in items]}
    status, found = await json_of(daemon, "POST", "/v1/ledger/submissions", json=body)
    assert status == 200
    assert len(found["accepted"]) == 4
    assert [(each["position"], each["error"]) for each in found["refused"]] == [
        (0, "bad-signature"),
        (5, "replayed"),
    ]
    assert book.state.head.index == 4


def raw(author, *, life=60_000, network=NETWORK, text="raw", work=0, daemon=None):
    return submit(
        network,
        author.identity,
        Note(text=text),
        expires=daemon.node.there.state.time + life,
        sign=author.sign,
        work=work,
    )


REFUSED = [
    (lambda d: raw(MEMBERS[0], life=0, daemon=d), 409, "expired"),
    (lambda d: raw(MEMBERS[0], life=7_200_000, daemon=d), 409, "too-early"),
    (lambda d: raw(STRANGER, daemon=d), 422, "work-needed"),
    (lambda d: raw(MEMBERS[0], network="other", daemon=d), 400, "bad-signature"),
    (lambda d: b"\x00" * 40, 400, "malformed-entry"),
    (lambda d: d.node.there.payloads[0], 400, "malformed-entry"),
    (lambda d: bytes(MAX_SUBMISSION) + b"x", 413, "entry-too-large"),
]


@pytest.mark.parametrize(("make", "status", "code"), REFUSED)
async def test_a_lone_submission_that_is_refused_is_a_problem(daemon, make, status, code):
    body = {"submissions": [base64.b64encode(make(daemon)).decode()]}
    got, problem = await json_of(daemon, "POST", "/v1/ledger/submissions", json=body)
    assert (got, problem["error"], problem["status"]) == (status, code, status)
    assert daemon.node.there.state.head.index == 0


async def test_more_than_a_days_quota_is_its_own_status(daemon):
    for number in range(20):
        await submitted(daemon, "/v1/ledger/notes", {"text": f"note {number}"})
    status, problem = await json_of(daemon, "POST", "/v1/ledger/notes", json={"text": "again"})
    assert (status, problem["error"]) == (429, "daily-quota")
    assert problem["remedy"]


VOTE = f"/v1/proposals/{ABSENT}/votes"
APPROVAL = {"key": key_text(STRANGER.key), "signature": "0" * 128}
PROBLEMS = [
    ("POST", "/v1/proposals", {"kind": "rumour"}, 422, "invalid"),
    ("POST", "/v1/proposals", {"kind": "text"}, 422, "invalid"),
    ("POST", "/v1/proposals", {"kind": "text", "title": "a\x1bb"}, 422, "invalid"),
    ("POST", "/v1/proposals", {**UPLOAD, "changes": []}, 422, "invalid"),
    (
        "POST",
        "/v1/proposals",
        {**UPLOAD, "changes": [{"name": "limits.nothing", "value": 1}]},
        422,
        "unknown-parameter",
    ),
    (
        "POST",
        "/v1/proposals",
        {**UPLOAD, "changes": [{"name": "council.seats", "value": 1000}]},
        422,
        "out-of-range",
    ),
    (
        "POST",
        "/v1/proposals",
        {**UPLOAD, "changes": [{"name": "council.seats", "value": 4}]},
        422,
        "no-change",
    ),
    ("POST", VOTE, {"choice": "maybe"}, 422, "invalid"),
    ("POST", VOTE, {"choice": "yes"}, 404, "unknown"),
    ("GET", f"/v1/proposals/{ABSENT}", None, 404, "unknown"),
    ("POST", f"/v1/proposals/{ABSENT}/approvals", APPROVAL, 404, "unknown"),
    ("POST", f"/v1/proposals/{ABSENT}/approvals", {**APPROVAL, "key": "z6Mk"}, 422, "invalid"),
    ("POST", "/v1/ledger/notes", {"text": ""}, 422, "invalid"),
    ("POST", "/v1/ledger/notes", {"text": "x" * 1025}, 422, "invalid"),
    ("POST", "/v1/ledger/submissions", {"submissions": []}, 422, "invalid"),
    ("POST", "/v1/ledger/submissions", {"submissions": ["?"]}, 422, "invalid"),
    ("GET", "/v1/ledger/entries/9", None, 404, "unknown"),
    ("GET", "/v1/ledger/entries/-1", None, 422, "invalid"),
    ("GET", "/v1/ledger/entries?count=0", None, 422, "invalid"),
    ("GET", "/v1/ledger/entries?count=1001", None, 422, "invalid"),
    ("GET", "/v1/proposals?state=lost", None, 422, "invalid"),
]


async def test_every_error_has_one_shape(daemon):
    async with daemon.http() as http:
        for method, path, body, status, code in PROBLEMS:
            answer = await http.request(method, path, json=body)
            problem = answer.json()
            assert set(problem) == {"error", "message", "remedy", "status"}, path
            found = (answer.status_code, problem["error"], problem["status"])
            assert found == (status, code, status), (path, body, problem)
            assert "`" not in problem["message"]
    assert daemon.node.there.state.head.index == 0


async def test_voting_and_approving_when_it_is_over_is_refused(daemon):
    cid = await proposed(daemon)
    daemon.node.later(10_000)
    for what, body in (
        ("votes", {"choice": "yes"}),
        ("approvals", {"key": key_text(HUMAN.key), "signature": "0" * 128}),
    ):
        status, problem = await json_of(daemon, "POST", f"/v1/proposals/{cid}/{what}", json=body)
        assert (status, problem["error"]) == (409, "not-open")


async def test_who_had_no_reputation_when_it_was_opened_has_no_vote(daemon):
    cid = await proposed(daemon)
    daemon.node.me = STRANGER
    status, problem = await json_of(
        daemon, "POST", f"/v1/proposals/{cid}/votes", json={"choice": "yes"}
    )
    assert (status, problem["error"]) == (403, "no-weight")


async def test_approvals_by_a_wrong_key_or_signature_are_refused(daemon):
    body = {"kind": "parameter", "title": "t", "changes": [{"name": "work.bits", "value": 7}]}
    cid = await proposed(daemon, body)
    message = approval_message(daemon.node.there.state.realm, parse_cid(cid))
    path = f"/v1/proposals/{cid}/approvals"
    stranger = {"key": key_text(STRANGER.key), "signature": STRANGER.sign(message).hex()}
    status, problem = await json_of(daemon, "POST", path, json=stranger)
    assert (status, problem["error"]) == (403, "not-a-human-key")
    wrong = {"key": key_text(HUMAN.key), "signature": HUMAN.sign(b"else").hex()}
    status, problem = await json_of(daemon, "POST", path, json=wrong)
    assert (status, problem["error"]) == (400, "bad-signature")


WITHOUT_GENESIS = [
    ("GET", "/v1/ledger", None),
    ("GET", "/v1/ledger/entries", None),
    ("GET", "/v1/ledger/entries/0", None),
    ("GET", "/v1/ledger/entries/0/proof", None),
    ("GET", "/v1/ledger/export", None),
    ("GET", "/v1/proposals", None),
    ("GET", f"/v1/proposals/{ABSENT}", None),
    ("GET", "/v1/council", None),
    ("GET", "/v1/reputation", None),
    ("GET", "/v1/params", None),
    ("POST", "/v1/proposals", UPLOAD),
    ("POST", VOTE, {"choice": "yes"}),
    ("POST", f"/v1/proposals/{ABSENT}/approvals", APPROVAL),
    ("POST", "/v1/ledger/notes", {"text": "x"}),
]


async def test_without_a_genesis_everything_says_so(daemon):
    daemon.node.book = None
    async with daemon.http() as http:
        for method, path, body in WITHOUT_GENESIS:
            answer = await http.request(method, path, json=body)
            problem = answer.json()
            assert (answer.status_code, problem["error"]) == (409, "no-genesis"), path
            assert "synapsed init --genesis" in problem["remedy"]
        status = (await http.get("/v1/status")).json()
        assert status["ledger"] is None
        assert b"synapsed_ledger_index" not in (await http.get("/v1/metrics")).content


async def test_metrics_and_status_are_the_logs_numbers(daemon):
    cid = await proposed(daemon)
    others_vote(daemon, cid)
    daemon.node.later(10_000)
    await proposed(daemon, {"kind": "text", "title": "still open"})
    async with daemon.client() as client:
        status = await client.call("GET", "/v1/status", models.Status)
        entries = await client.call("GET", "/v1/ledger/entries", said.Entries, first="0")
    async with daemon.http() as http:
        text = (await http.get("/v1/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    counted = {name.removeprefix("synapsed_"): float(value) for name, value in values.items()}
    outcome = next(entry for entry in entries.entries if entry.kind == "outcome")
    opened = next(entry for entry in entries.entries if entry.kind == "proposal")
    assert counted["ledger_index"] == entries.head == status.ledger.index
    assert counted["decision_seconds_sum"] == outcome.time - opened.time == 10
    assert counted["decision_seconds_count"] == 1
    assert counted['proposals{state="open"}'] == status.ledger.open_proposals == 1
    assert counted["proposal_approval_rate"] == 1.0
    assert counted['consensus_seconds{quantile="p99"}'] == 0.48
    assert counted["council_term"] == TERM
    assert counted["council_terms_lost_total"] == 2
    assert status.ledger.hash == entries.entries[-1].hash


async def test_a_submission_is_a_job_with_an_event(daemon):
    with daemon.node.bus.subscribe() as reader:
        await submitted(daemon, "/v1/ledger/notes", {"text": "watched"})
        kinds = []
        while "job.done" not in kinds:
            event = await reader.next()
            kinds.append(event.kind)
            if event.kind == "job.started":
                assert event.fields["what"] == "submit"
    assert "ledger.ratified" in kinds


async def test_the_client_raises_what_the_daemon_answered(daemon):
    with pytest.raises(DaemonError) as caught:
        await submitted(daemon, VOTE, said.VoteRequest(choice="yes"))
    assert caught.value.problem.error == "unknown"


def test_requests_of_the_client_are_those_of_the_schema():
    """What the CLI builds as structs encodes to what the daemon reads."""
    draft = said.ParameterProposal(
        title="t", changes=[said.ParameterChange(name="limits.upload", value=1)]
    )
    assert msgspec.json.decode(msgspec.json.encode(draft), type=said.ProposalRequest) == draft


def test_a_certificate_of_an_unknown_council_names_nobody():
    from protocols.ledger.council import Kind, Statement
    from synapsed.control.entryview import certificate_info

    said_ = Statement(Kind.CERTIFICATE_ACK, 9, 1, 5, bytes(32))
    assert certificate_info(Certificate(said_, [0, 1, 2], []), None).signers == []


async def test_a_time_is_looked_for_only_so_far_back(daemon, monkeypatch):
    monkeypatch.setattr("synapsed.control.ledgerview.MAX_BACK", 3)
    daemon.node.later(2000)
    tick = daemon.node.there.state.head.index
    for number in range(5):
        daemon.node.ratify(daemon.node.there.submission(MEMBERS[1], Note(text=f"note {number}")))
    found = [daemon.node.view.entry(tick + after).entry.time for after in range(6)]
    assert found[:4] == [daemon.node.there.state.time / 1000] * 4
    assert found[4:] == [None, None]
    shown = await daemon.run("ledger", "show", str(tick + 5))
    assert "time         ?" in shown.out
