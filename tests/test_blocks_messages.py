"""The blocks protocol's messages: what is said comes back, and what must not be said is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.cid import cid_of
from protocols.codec import encode
from protocols.errors import LimitError, MalformedError
from protocols.tensors import blocks
from protocols.tensors.blocks import (
    MAX_ANSWER,
    MAX_FETCH_LEAVES,
    MAX_HAVE_ROOTS,
    MAX_REQUEST,
    MAX_RUNS,
    BlockRequest,
    Bytes,
    FetchRequest,
    Hashes,
    HaveRequest,
    Holding,
    Holdings,
    LayoutRequest,
    LeavesRequest,
    Proven,
    ProveRequest,
    Refusal,
    Shape,
    decode_answer,
    decode_request,
)

ROOT = bytes(range(32))
CID = cid_of(b"block")


@st.composite
def spans(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    """Runs in order that do not touch."""
    cuts = sorted(draw(st.sets(st.integers(0, 1 << 20), max_size=20)))
    return tuple(zip(cuts[: len(cuts) // 2 * 2 : 2], cuts[1::2], strict=True))


ROOTS = st.binary(min_size=32, max_size=32)
REQUESTS = st.one_of(
    st.builds(BlockRequest, cid=st.binary(max_size=200).map(cid_of)),
    st.builds(LayoutRequest, root=ROOTS),
    st.builds(LeavesRequest, root=ROOTS, sections=spans()),
    st.builds(HaveRequest, roots=st.lists(ROOTS, min_size=1, max_size=MAX_HAVE_ROOTS).map(tuple)),
    st.builds(ProveRequest, root=ROOTS, leaf=st.integers(0, (1 << 32) - 1)),
    st.tuples(ROOTS, st.integers(0, 1 << 31), st.integers(1, MAX_FETCH_LEAVES)).map(
        lambda it: FetchRequest(root=it[0], lo=it[1], hi=it[1] + it[2])
    ),
)
HOLDINGS = st.builds(
    Holding, held=spans(), complete=st.booleans(), pulling=st.booleans(), wants=spans()
)
ANSWERS = st.one_of(
    st.builds(Bytes, length=st.integers(0, 1 << 22)),
    st.tuples(st.integers(0, 1000), st.integers(1, 1000)).map(
        lambda it: Shape(length=it[0] + 32 * it[1], header=it[0], size=it[1], layout="flat")
    ),
    st.builds(Hashes, length=st.integers(0, 1 << 20), sections=spans()),
    st.builds(Holdings, files=st.lists(HOLDINGS, max_size=4).map(tuple)),
    st.integers(0, 64).map(lambda hashes: Proven(length=32 * hashes + 5, hashes=hashes)),
    st.builds(Refusal, code=st.sampled_from(["busy", "paused", "not-held"])),
)


@given(REQUESTS)
def test_requests_come_back(request: blocks.Request) -> None:
    assert decode_request(encode(request)) == request


@given(ANSWERS)
def test_answers_come_back(answer: blocks.Answer) -> None:
    assert decode_answer(encode(answer)) == answer


def test_a_root_that_looks_like_a_content_id_comes_back() -> None:
    """libipld writes bytes that read as a CID as links (codec.py, rule 3)."""
    root = b"\x01\x55\x12\x1c" + bytes(28)
    assert decode_request(encode(LayoutRequest(root=root))) == LayoutRequest(root=root)


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"ask": "sing"},
        {"ask": "block", "cid": CID[:-1]},
        {"ask": "block", "cid": CID, "more": 1},
        {"ask": "layout", "root": ROOT[:-1]},
        {"ask": "have", "roots": []},
        {"ask": "have", "roots": [ROOT] * (MAX_HAVE_ROOTS + 1)},
        {"ask": "leaves", "root": ROOT, "sections": [[1, 1]]},
        {"ask": "leaves", "root": ROOT, "sections": [[1, 2], [2, 3]]},
        {"ask": "leaves", "root": ROOT, "sections": [[3, 4], [1, 2]]},
        {"ask": "leaves", "root": ROOT, "sections": [[1, 2, 3]]},
        {"ask": "fetch", "root": ROOT, "lo": -1, "hi": 1},
        {"ask": "fetch", "root": ROOT, "lo": 0, "hi": 1 << 32},
        {"ask": "fetch", "root": ROOT, "lo": 2.0, "hi": 3},
        {"ask": "fetch", "root": "text", "lo": 2, "hi": 3},
    ],
)
def test_requests_that_are_not_the_protocol_are_refused(plain: object) -> None:
    with pytest.raises((MalformedError, LimitError)):
        decode_request(encode(plain))


@pytest.mark.parametrize(("lo", "hi"), [(5, 5), (6, 5), (0, MAX_FETCH_LEAVES + 1)])
def test_runs_that_are_empty_or_too_long_are_refused(lo: int, hi: int) -> None:
    with pytest.raises(LimitError):
        decode_request(encode({"ask": "fetch", "root": ROOT, "lo": lo, "hi": hi}))


@pytest.mark.parametrize(
    "plain",
    [
        {"say": "bytes", "length": -1},
        {"say": "bytes", "length": 1 << 40},
        {"say": "shape", "length": 31, "header": 0},
        {"say": "shape", "length": 40, "header": 0},
        {"say": "shape", "length": 32, "header": 64},
        {"say": "proven", "length": 31, "hashes": 1},
        {"say": "proven", "length": 1 << 12, "hashes": 65},
        {"say": "refusal", "code": "because", "retry_ms": 0},
        {"say": "refusal", "code": "busy", "retry_ms": 1 << 30},
        {"say": "holdings", "files": [{"held": [[0, 1]], "complete": False, "pulling": False}]},
    ],
)
def test_answers_that_are_not_the_protocol_are_refused(plain: object) -> None:
    with pytest.raises(MalformedError):
        decode_answer(encode(plain))


def test_the_limits_of_frames_hold_what_the_limits_of_runs_allow() -> None:
    runs = tuple((lo, lo + 1) for lo in range(4_000_000_000, 4_000_000_000 + 2 * MAX_RUNS, 2))
    assert len(encode(LeavesRequest(root=ROOT, sections=runs))) <= MAX_REQUEST
    holding = Holding(held=runs, complete=False, pulling=True, wants=())
    empty = Holding(held=(), complete=False, pulling=True, wants=())
    answer = Holdings(files=(holding, *[empty] * (MAX_HAVE_ROOTS - 1)))
    assert len(encode(answer)) <= MAX_ANSWER
    with pytest.raises(LimitError):
        decode_request(bytes(MAX_REQUEST + 1))
    with pytest.raises(MalformedError):
        decode_answer(encode(Hashes(length=0, sections=(*runs, (1 << 32, (1 << 32) + 1)))))
