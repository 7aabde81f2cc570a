"""What rounds take on the wire, from real messages, for the learning benches.

Both directions between each learner and the primary are counted, with everything that goes along:
the signed claim, the question for the delta's bytes and the answer, the acknowledgement, the
record with its two endorsements and everybody's share, and the result; every frame with what the
muxer and the encryption put around it.
"""

import hashlib
from collections.abc import Sequence

from protocols.codec import Message, encode
from protocols.learn.claims import (
    Carried,
    Claim,
    Endorsement,
    Input,
    Made,
    Record,
    Round,
    Sum,
)
from protocols.learn.messages import Acked, Push, Records
from protocols.tensors.tensorblock import SUBTILE
from synapsed.net.frames import varint_frame
from synapsed.training.exchange import PROTOCOL, SIZE_BYTES, Want

F32 = 4
AROUND = 12 + 2 + 16
"""Of a frame: the muxer's header, the encryption's length and its authenticator."""
OPENING = 2 * (len("/multistream/1.0.0") + len(PROTOCOL) + 4) + 6 * AROUND
"""Of a stream, for a blob: both sides name the negotiation and the protocol; open and close."""

MODEL = b"\x01\x55\x12\x20" + bytes(32)
SIGNATURE = bytes(64)


def peer(number: int) -> bytes:
    """A peer id as Ed25519 keys have it."""
    return b"\x00\x24\x08\x01\x12\x20" + hashlib.sha256(bytes([number])).digest()


def message_bytes(message: Message) -> int:
    """A message in its frame."""
    return len(varint_frame(encode(message))) + AROUND


def blob_bytes(blob: bytes) -> int:
    """Asking for a blob, and having it."""
    asked = message_bytes(Want(model=MODEL, kind="blob", name=_sha(blob)))
    chunks = [blob[at : at + SUBTILE] for at in range(0, len(blob), SUBTILE)]
    answer = SIZE_BYTES + 1 + AROUND + sum(len(varint_frame(chunk)) + AROUND for chunk in chunks)
    return OPENING + asked + answer


def round_bytes(number: int, steps: int, deltas: Sequence[bytes], result: bytes) -> int:
    """All that one round of one group takes between its learners and its primary."""
    base = _sha(b"base%d" % number)
    up = 0
    for learner, delta in enumerate(deltas):
        claim = Claim(
            model=MODEL,
            learner=peer(learner),
            steps=steps,
            made=(_made(number, base, delta),),
            signature=SIGNATURE,
        )
        up += _pushed_bytes(claim, delta)
    inputs = [(_sha(delta), 1) for delta in deltas]
    return up + len(deltas) * _told_bytes(number, base, inputs, result)


def sum_bytes(number: int, sums: Sequence[bytes], learners: int, result: bytes) -> list[int]:
    """All that one round of one group takes between each region's aggregator and the primary."""
    base = _sha(b"base%d" % number)
    inputs = [(_sha(one), learners) for one in sums]
    behind = sorted(peer(at) for at in range(learners))
    found = []
    for one in sums:
        said = Sum(
            model=MODEL,
            aggregator=peer(0),
            made=_made(number, base, one),
            inputs=tuple(Input(each, _sha(each), 0) for each in behind),
            signature=SIGNATURE,
            carry=Carried(base, len(result)),
            left=Carried(base, len(result)),
        )
        told = _told_bytes(number, base, inputs, result)
        found.append(_pushed_bytes(said, one) + told)
    return found


def _made(number: int, base: bytes, delta: bytes) -> Made:
    return Made(0, number, base, _sha(delta), len(delta))


def _pushed_bytes(said: Claim | Sum, delta: bytes) -> int:
    acked = Acked(model=MODEL, group=0, number=0, digest=_sha(delta))
    pushed = message_bytes(Push(said=said, groups=(0,))) + blob_bytes(delta)
    return pushed + message_bytes(acked)


def _told_bytes(
    number: int, base: bytes, inputs: Sequence[tuple[bytes, int]], result: bytes
) -> int:
    head = _sha(b"head%d" % number)
    record = Record(round=_round(number, base, head, inputs, result), by=_endorsed())
    records = Records(
        model=MODEL, group=0, oldest=number, number=number + 1, base=head, records=(record,)
    )
    return message_bytes(records) + blob_bytes(result)


def dense_bytes(steps: int, learners: int, parameters: int) -> int:
    """fp32 at every step, up and down, without any framing: the least that it could take."""
    return steps * learners * 2 * F32 * parameters


def _round(
    number: int, base: bytes, head: bytes, given: Sequence[tuple[bytes, int]], result: bytes
) -> Round:
    share = 1000 // len(given)
    inputs = [
        Input(peer(at), digest, share, of=0 if of == 1 else of)
        for at, (digest, of) in enumerate(given)
    ]
    inputs.sort(key=lambda entry: (entry.learner, entry.digest))
    return Round(
        model=MODEL,
        group=0,
        number=number,
        epoch=1,
        parent=base,
        head=head,
        result=_sha(result),
        size=len(result),
        inputs=tuple(inputs),
    )


def _endorsed() -> tuple[Endorsement, ...]:
    return tuple(Endorsement(peer(100 + at), SIGNATURE) for at in range(2))


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
