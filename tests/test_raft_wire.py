"""Messages between members: one encoding each, limits, and input that nobody honest sends."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LimitError, MalformedError
from protocols.ledger.council import Kind, Statement, start_certificate
from protocols.raft.messages import (
    MAX_BATCH_BYTES,
    MAX_FRAME,
    MAX_MESSAGE,
    Append,
    Certified,
    Fetch,
    Message,
    Signed,
    Suspicion,
    TimedOut,
    TimedOuts,
    pack,
    unpack,
)
from protocols.raft.ports import Received
from tests.raft_kit import certify, make_council, sign_statement, sign_time_out
from tests.raft_lone import Chain, Lone, opening

COUNCIL = make_council(4)
START = start_certificate(COUNCIL)
CHAIN = Chain(b"n1", b"n2")
L1, L2 = COUNCIL.leader(1), COUNCIL.leader(2)
ME = next(seat for seat in range(4) if seat not in (L1, L2))


def examples() -> list[tuple[Message, list[bytes]]]:
    certificate = certify(COUNCIL, Kind.ACK, 1, CHAIN.head, [0, 1, 2])
    time_outs = [sign_time_out(COUNCIL, seat, 2, START) for seat in range(3)]
    return [
        CHAIN.append(COUNCIL, 1),
        (Signed(*sign_statement(COUNCIL, 1, Kind.ACK, 1, CHAIN.head)), []),
        (Certified(certificate), []),
        (Suspicion(1, 3, 2), []),
        (TimedOut(time_outs[0], START), []),
        (TimedOuts(time_outs), []),
        (opening(COUNCIL, 2, certificate, [0, 1, 2]), []),
        (Fetch(1, CHAIN.head, 0), []),
        CHAIN.fetched(COUNCIL),
    ]


FRAMES = [pack(message, parts) for message, parts in examples()]


@pytest.mark.parametrize("number", range(9))
def test_each_message_has_one_encoding(number: int) -> None:
    message, parts = examples()[number]
    assert unpack(FRAMES[number]) == (message, parts)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\0\0\0",
        b"\0\0\0\1\x80",  # an empty list
        b"\0\0\0\1\xa0",  # a map
        b"\0\0\0\2\x81\x18",
        b"\0\0\0\3\x82\x0a\x00",  # an unknown tag
        b"\0\0\0\3\x82\x81\x00",  # a tag that is a list
        b"\0\0\0\6\x84\x04\x18\x01\x03\x02",  # 1 in two bytes: not canonical
        pack(Suspicion(1, 3, 2)) + b"more",
        pack(Suspicion(1, 3, 2))[:-1],
        b"\xff\xff\xff\xff" + bytes(40),
    ],
)
def test_what_is_no_message_is_refused(frame: bytes) -> None:
    with pytest.raises(MalformedError):
        unpack(frame)


def test_limits() -> None:
    with pytest.raises(LimitError):
        unpack(bytes(MAX_FRAME + 1))
    long = (MAX_MESSAGE + 1).to_bytes(4, "big") + bytes(MAX_MESSAGE + 1)
    with pytest.raises(MalformedError):
        unpack(long)
    message, _ = CHAIN.append(COUNCIL, 1)
    big = Append(1, 1, message.prev, message.signature, [MAX_BATCH_BYTES + 1])
    with pytest.raises(MalformedError):
        unpack(pack(big, [bytes(MAX_BATCH_BYTES + 1)]))


def test_a_malformed_frame_is_blamed_and_changes_nothing() -> None:
    lone = Lone(ME)
    [blame] = lone.handle(Received(L1, b"\0\0\0\1\x80"))
    assert blame.fault == "malformed"  # type: ignore[attr-defined]
    [blame] = lone.handle(Received(L1, bytes(MAX_FRAME + 1)))
    assert blame.fault == "flood"  # type: ignore[attr-defined]


def test_a_statement_of_no_such_kind_is_not_counted() -> None:
    lone = Lone(L1)
    lone.pool.waiting[b"n1"] = 0.0
    lone.wait(0.5)
    head = lone.replica.end
    for seat in [seat for seat in range(4) if seat != L1]:
        said, signature = sign_statement(COUNCIL, seat, Kind.TIME_OUT, 1, head)
        lone.hear(seat, Signed(said, signature))
        assert lone.sent(Certified) == []
        assert lone.effects


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 8), st.integers(0, 1 << 32))
def test_no_input_raises(number: int, seed: int) -> None:
    """Frames with a few bytes changed, from the leader, from others, in any state."""
    rng = random.Random(seed)
    lone = Lone(rng.choice([ME, L1, L2]))
    for _ in range(6):
        frame = bytearray(rng.choice(FRAMES) if rng.random() < 0.7 else FRAMES[number])
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        lone.handle(Received(rng.randrange(5), bytes(frame)))
        if rng.random() < 0.3:
            lone.wait(rng.random())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32))
def test_no_well_formed_nonsense_raises(seed: int) -> None:
    """Right encodings of wrong things: numbers at their limits, hashes of nothing."""
    rng = random.Random(seed)
    numbers = (0, 1, 2, 3, 1 << 40, (1 << 63) - 1)
    lone = Lone(rng.choice([ME, L1, L2]))
    for _ in range(8):
        epoch = rng.choice((1, 1, 1, *numbers))
        term, index = rng.choice(numbers), rng.choice(numbers)
        name = rng.choice([rng.randbytes(32), CHAIN.head.hash, START.said.hash])
        kind = rng.choice([Kind.ACK, Kind.CERTIFICATE_ACK, Kind.TIME_OUT])
        said = Statement(kind, epoch, term, index, name)
        head = said.head
        choices: list[Message] = [
            Append(epoch, term, head, bytes(64), [2]),
            Signed(said, rng.randbytes(64)),
            Certified(certify(COUNCIL, kind, term, head, rng.sample(range(4), 3))),
            Suspicion(epoch, term, index),
            Fetch(epoch, head, rng.choice(numbers)),
        ]
        message = rng.choice(choices)
        parts = [b"n1"] if isinstance(message, Append) else []
        lone.handle(Received(rng.randrange(4), pack(message, parts)))
        if rng.random() < 0.3:
            lone.wait(rng.random())
