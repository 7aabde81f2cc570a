"""The table of announcements is its own test: each row has cases, and each case names its row."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocols.cid import cid_of
from protocols.codec import encode
from protocols.envelope import domain, seal
from protocols.errors import MalformedError
from protocols.gossip.announcement import (
    MAX_ANNOUNCEMENT,
    MAX_LIFETIME,
    MAX_RUNS,
    MAX_SKEW,
    PAYLOAD_TYPE,
    TABLE,
    USE,
    Body,
    Hearing,
    Judgement,
    Source,
    announcement_id,
    clip_runs,
    judge,
    kind_of,
    kind_of_body,
)
from protocols.gossip.validation import Verdict
from synapsed.keys import verify
from tests.gossip_kit import (
    HOUR,
    NETWORK,
    NOW,
    NOW_MS,
    announce,
    bodies,
    identity,
    sealed,
    shard,
)

US, THEM, OTHER = identity(1), identity(2), identity(3)


class FakeKnown:
    """A catalog as the rows see it."""

    def __init__(self, **answers: Any) -> None:
        self.me = US.peer_id
        self.answers = answers

    def has(self, digest: bytes) -> bool:
        return bool(self.answers.get("has"))

    def newest(self, issuer: bytes, kind: str, subject: bytes) -> tuple[int, bytes] | None:
        return self.answers.get("newest")

    def over_rate(self, issuer: bytes, now: float) -> bool:
        return bool(self.answers.get("over_rate"))

    def over_cap(self, issuer: bytes, kind: str, subject: bytes) -> bool:
        return bool(self.answers.get("over_cap"))


def judged(
    data: bytes, topic: str | None = "shard", source: Source = Source.GOSSIP, **known: Any
) -> Judgement:
    hearing = Hearing(
        data,
        topic=topic,
        source=source,
        now=NOW,
        network=NETWORK,
        verify=verify,
        known=FakeKnown(**known),
    )
    return judge(hearing)


def enveloped(payload: bytes, use: str = USE, payload_type: bytes = PAYLOAD_TYPE) -> bytes:
    return seal(domain(NETWORK, use), payload_type, payload, THEM.public_key, THEM.sign)


def altered(**changes: Any) -> bytes:
    """An announcement signed with fields that no type allows; None leaves a field out."""
    plain = msgspec.to_builtins(announce(THEM), builtin_types=(bytes,))
    for name, value in changes.items():
        where = plain["body"] if name in plain["body"] or name == "more" else plain
        where[name] = value
        if value is None:
            del where[name]
    return enveloped(encode(plain))


def flipped(data: bytes) -> bytes:
    """The same with the last bit of the signature changed."""
    return data[:-1] + bytes((data[-1] ^ 1,))


def padded(data: bytes) -> bytes:
    """The same payload with its map in another, longer encoding."""
    payload = encode(announce(THEM))
    assert payload[0] == 0xA0 | 7
    return enveloped(b"\xb8\x07" + payload[1:])


GREATER, LESS = b"\xff" * 32, b"\x00" * 32

CASES: dict[str, list[Callable[[], Judgement]]] = {
    "too-large": [lambda: judged(b"\x0a" * (MAX_ANNOUNCEMENT + 1))],
    "not-an-envelope": [
        lambda: judged(b""),
        lambda: judged(b"\xff" * 50),
        lambda: judged(sealed(THEM)[:-1]),
        lambda: judged(sealed(THEM) + b"\x00"),
        lambda: judged(enveloped(encode(announce(THEM)), payload_type=b"/other")),
    ],
    "not-canonical": [lambda: judged(padded(sealed(THEM)))],
    "not-dag-cbor": [lambda: judged(enveloped(b"\xff\xff")), lambda: judged(enveloped(b""))],
    "unknown-kind": [
        lambda: judged(altered(kind="planet")),
        lambda: judged(altered(kind=["shard"])),
        lambda: judged(enveloped(encode([1, 2, 3]))),
    ],
    "bad-fields": [
        lambda: judged(altered(seq=None)),
        lambda: judged(altered(extra=1)),
        lambda: judged(altered(seq="1")),
        lambda: judged(altered(seq=-1)),
        lambda: judged(altered(seq=1 << 60)),
        lambda: judged(altered(issuer=b"short")),
        lambda: judged(altered(model=b"\x00" * 36)),
        lambda: judged(altered(model=None)),
        lambda: judged(altered(more=1)),
        lambda: judged(altered(tiles=[[0, 0]])),
        lambda: judged(altered(tiles=[[0, 4], [3, 1]])),
        lambda: judged(altered(tiles=[[0, 4], [4, 1]])),
        lambda: judged(altered(tiles=[[5, 1], [0, 1]])),
        lambda: judged(altered(tiles=[[(1 << 32) - 1, 2]])),
        lambda: judged(altered(tiles=[[2 * run, 1] for run in range(MAX_RUNS + 1)])),
        lambda: judged(altered(kind="adapter")),
    ],
    "wrong-topic": [lambda: judged(sealed(THEM), topic="kernel")],
    "wrong-issuer": [lambda: judged(sealed(THEM, issuer=OTHER.peer_id))],
    "wrong-lifetime": [
        lambda: judged(sealed(THEM, expires=NOW_MS)),
        lambda: judged(sealed(THEM, expires=NOW_MS - 1)),
        lambda: judged(sealed(THEM, expires=NOW_MS + MAX_LIFETIME + 1)),
    ],
    "from-the-future": [
        lambda: judged(sealed(THEM, issued=NOW_MS + MAX_SKEW + 1, expires=NOW_MS + MAX_SKEW + HOUR))
    ],
    "expired": [lambda: judged(sealed(THEM, issued=NOW_MS - HOUR, expires=NOW_MS))],
    "held": [lambda: judged(sealed(THEM), has=True)],
    "bad-signature": [
        lambda: judged(flipped(sealed(THEM))),
        lambda: judged(sealed(THEM, network="another")),
        lambda: judged(enveloped(encode(announce(THEM)), use="heartbeat")),
        lambda: judged(flipped(sealed(US))),
        lambda: judged(flipped(sealed(THEM)), over_rate=True, newest=(NOW_MS + 1, LESS)),
    ],
    "ours": [lambda: judged(sealed(US)), lambda: judged(sealed(US), None, Source.ASKED)],
    "older": [lambda: judged(sealed(THEM), newest=(NOW_MS + 1, LESS))],
    "contradicts": [lambda: judged(sealed(THEM), newest=(NOW_MS, GREATER))],
    "over-rate": [lambda: judged(sealed(THEM), over_rate=True)],
    "over-cap": [
        lambda: judged(sealed(THEM), over_cap=True),
        lambda: judged(sealed(THEM), None, Source.ASKED, over_cap=True),
    ],
}

# What each row must answer. Only what the sender itself could have seen may be rejected.
REJECTED = {
    "too-large",
    "not-an-envelope",
    "not-canonical",
    "not-dag-cbor",
    "unknown-kind",
    "bad-fields",
    "wrong-topic",
    "wrong-issuer",
    "wrong-lifetime",
    "bad-signature",
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_row_decides_its_cases(row: Any) -> None:
    assert row.verdict is (Verdict.REJECT if row.name in REJECTED else Verdict.IGNORE)
    assert row.reason
    for case in CASES[row.name]:
        judgement = case()
        assert (judgement.row, judgement.verdict) == (row.name, row.verdict)


def test_there_is_no_case_without_a_row() -> None:
    assert list(CASES) == [row.name for row in TABLE]


@pytest.mark.parametrize("body", bodies(), ids=kind_of_body)
def test_each_kind_is_accepted_and_read_back(body: Body) -> None:
    judgement = judged(sealed(THEM, body), kind_of_body(body))
    assert judgement.verdict is Verdict.ACCEPT
    assert judgement.announcement == announce(THEM, body)
    assert kind_of(judgement.announcement) == kind_of_body(body)
    assert judgement.id == announcement_id(encode(announce(THEM, body)))


@pytest.mark.parametrize(
    "judgement",
    [
        judged(sealed(THEM), None, Source.ASKED, over_rate=True),  # rates are gossip's
        judged(sealed(US), None, Source.STORED),  # our own, from our own disk
        judged(sealed(THEM), newest=(NOW_MS - 1, GREATER)),  # newer
        judged(sealed(THEM), newest=(NOW_MS, LESS)),  # a contradiction that wins
        judged(sealed(THEM, issued=NOW_MS + MAX_SKEW)),  # a clock that is just bearable
        judged(sealed(THEM, shard(tiles=()))),  # collecting
        judged(sealed(THEM, withdrawn=True)),
        judged(sealed(THEM, issued=NOW_MS - 1, expires=NOW_MS - 1 + MAX_LIFETIME)),
    ],
)
def test_what_is_just_within_the_limits_is_accepted(judgement: Judgement) -> None:
    assert (judgement.verdict, judgement.row) == (Verdict.ACCEPT, "")


def test_nothing_unverified_is_handed_out() -> None:
    assert judged(flipped(sealed(THEM))).announcement is None
    assert judged(sealed(THEM), has=True).announcement is None
    assert judged(sealed(THEM), over_cap=True).announcement == announce(THEM)


def test_a_signature_is_verified_once_and_late() -> None:
    calls = []

    def counting(key: bytes, message: bytes, signature: bytes) -> bool:
        calls.append(key)
        return verify(key, message, signature)

    for data, expected in ((sealed(THEM), 1), (altered(seq=None), 0), (b"junk", 0)):
        calls.clear()
        judge(
            Hearing(
                data,
                topic="shard",
                source=Source.GOSSIP,
                now=NOW,
                network=NETWORK,
                verify=counting,
                known=FakeKnown(),
            )
        )
        assert len(calls) == expected


def test_the_largest_announcement_fits() -> None:
    tiles = tuple((2 * run, 1) for run in range((1 << 31) - MAX_RUNS, 1 << 31))
    data = sealed(THEM, shard(tiles=tiles))
    assert len(data) < MAX_ANNOUNCEMENT
    assert judged(data).verdict is Verdict.ACCEPT


def test_a_claim_of_no_content_is_refused_when_made() -> None:
    with pytest.raises(MalformedError):
        announce(THEM, shard().__class__(model=b"x" * 36, tiles=()))


def test_runs_are_merged_and_the_longest_kept() -> None:
    assert clip_runs([]) == ()
    assert clip_runs([(5, 5), (3, 5), (5, 6), (0, 2)]) == ((0, 2), (3, 3))
    many = [(10 * start, 10 * start + 1) for start in range(MAX_RUNS)] + [(99_000, 99_009)]
    clipped = clip_runs(many)
    assert len(clipped) == MAX_RUNS
    assert clipped[-1] == (99_000, 9)
    assert clipped[0] == (0, 1)


def test_ids_are_content_ids_of_the_payload() -> None:
    payload = encode(announce(THEM))
    assert announcement_id(payload) == hashlib.sha256(payload).digest() == cid_of(payload)[4:]
