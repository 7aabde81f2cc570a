"""What rounds take on the wire, from real messages, for the learning benches.

Both directions between each learner and the primary are counted, with everything that goes along:
the signed claim, the question for the delta's bytes and the answer, the acknowledgement, the
record with its two endorsements and everybody's share, and the result; every frame with what the
muxer and the encryption put around it.
"""

import hashlib
from collections.abc import Sequence

from protocols.codec import Message, encode
from protocols.learn.claims import Claim, Endorsement, Input, Made, Record, Round
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
    base, head = _sha(b"base%d" % number), _sha(b"head%d" % number)
    up = 0
    for learner, delta in enumerate(deltas):
        made = Made(0, number, base, _sha(delta), len(delta))
        claim = Claim(
            model=MODEL, learner=peer(learner), steps=steps, made=(made,), signature=SIGNATURE
        )
        acked = Acked(model=MODEL, group=0, number=number, digest=_sha(delta))
        up += message_bytes(Push(said=claim, groups=(0,))) + blob_bytes(delta)
        up += message_bytes(acked)
    record = Record(round=_round(number, base, head, deltas, result), by=_endorsed())
    records = Records(
        model=MODEL, group=0, oldest=number, number=number + 1, base=head, records=(record,)
    )
    return up + len(deltas) * (message_bytes(records) + blob_bytes(result))


def dense_bytes(steps: int, learners: int, parameters: int) -> int:
    """fp32 at every step, up and down, without any framing: the least that it could take."""
    return steps * learners * 2 * F32 * parameters


def _round(number: int, base: bytes, head: bytes, deltas: Sequence[bytes], result: bytes) -> Round:
    share = 1000 // len(deltas)
    inputs = [Input(peer(at), _sha(delta), share) for at, delta in enumerate(deltas)]
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
