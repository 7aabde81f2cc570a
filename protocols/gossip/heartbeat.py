"""What a heartbeat says, when it is believed, and how heartbeats travel.

A heartbeat is the payload of a signed envelope in the domain `/synapse/<network>/heartbeat/1`.
A batch is one frame (packing.py): a `Batch` message and the envelopes that it counts.
"""

from functools import cached_property
from typing import Annotated, Protocol

import msgspec

from protocols.codec import Message
from protocols.envelope import Verify, domain
from protocols.errors import MalformedError
from protocols.gossip.validation import ENVELOPE_ROWS, Row, Sealed, Verdict, first_row
from protocols.manifest import MAX_MILLI, PeerId
from protocols.packing import cut, pack, unpack

PROTOCOL = "/synapse/heartbeat/1.0.0"
USE = "heartbeat"
PAYLOAD_TYPE = b"/synapse/heartbeat"

MAX_HEARTBEAT = 2 << 10
"""Bytes of one envelope: MAX_ADDRS addresses of the longest kind, and 600 more."""
MAX_ADDRS = 8
"""Addresses of one daemon: a few interfaces, IPv4 and IPv6, and a forwarded port."""
MAX_ADDR = 128
"""Characters of one: /dns6/ with a name of 60, /tcp/ and /p2p/ with the peer id take 125."""
MAX_AGENT = 64
MAX_TTL = 3600 * 1000
"""Milliseconds that one heartbeat counts for, whatever it says; 2,000 s at 4,096 daemons."""
MAX_SKEW = 120 * 1000
"""Milliseconds by which the issuer's clock may differ from ours; see announcement.MAX_SKEW."""
MAX_LIVE = 4096
"""Peers on one list, at about 1.5 KB each. Beyond it newcomers are not listed."""
MAX_BATCH = 128
"""Heartbeats in one frame: 10 ms to verify, so that the loop never stalls for long."""
MAX_BATCH_RAW = 64 << 10
MAX_BATCH_MESSAGE = 4 << 10
MAX_FRAME = MAX_BATCH_MESSAGE + MAX_BATCH_RAW + 4

Millis = Annotated[int, msgspec.Meta(ge=0, le=MAX_MILLI)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_MILLI)]
Address = Annotated[str, msgspec.Meta(max_length=MAX_ADDR, pattern=r"^/[!-~]+\Z")]
Agent = Annotated[str, msgspec.Meta(max_length=MAX_AGENT, pattern=r"^[ -~]*\Z")]


class Counters(Message, frozen=True):
    """Bytes held, bytes that may still be held for others, bytes a second of upload (0: no
    limit). The issuer's word: good for spreading load, never for trust."""

    held: Amount
    free: Amount
    upload: Amount


class Heartbeat(Message, frozen=True):
    """`issuer` was alive at `issued` (Unix ms by its own clock), and counts as alive for `ttl`
    ms; ttl 0 says goodbye. `addrs` are the multiaddrs where it can be dialled."""

    issuer: PeerId
    seq: Millis
    issued: Millis
    ttl: Millis
    addrs: Annotated[tuple[Address, ...], msgspec.Meta(max_length=MAX_ADDRS)]
    agent: Agent
    counters: Counters


class Batch(Message, frozen=True):
    """How long ago each heartbeat was sent by its issuer (ms), and the envelopes' lengths."""

    ages: Annotated[tuple[Millis, ...], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
    lengths: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_HEARTBEAT)], ...],
        msgspec.Meta(min_length=1, max_length=MAX_BATCH),
    ]


def pack_batch(entries: list[tuple[int, bytes]]) -> bytes:
    """One frame of (age in ms, envelope)s: at most MAX_BATCH, MAX_BATCH_RAW bytes."""
    ages = tuple(age for age, _ in entries)
    parts = [envelope for _, envelope in entries]
    return pack(Batch(ages=ages, lengths=tuple(len(part) for part in parts)), parts)


def unpack_batch(frame: bytes) -> list[tuple[int, bytes]]:
    """The (age, envelope)s of a frame. Raises MalformedError or LimitError."""
    batch, raw = unpack(frame, Batch, MAX_BATCH_MESSAGE)
    if len(batch.ages) != len(batch.lengths):
        raise MalformedError("a batch of heartbeats with more ages than heartbeats, or fewer")
    return list(zip(batch.ages, cut(raw, batch.lengths), strict=True))


# -- validation --------------------------------------------------------------------------------


class Known(Protocol):
    """What validation asks of the list of live peers. Nothing here changes it."""

    @property
    def me(self) -> bytes: ...

    def newest(self, issuer: bytes) -> int | None:
        """The sequence number of the newest heartbeat known of an issuer."""

    def over_rate(self, issuer: bytes, now: float) -> bool:
        """Whether the issuer sends more heartbeats than anybody needs."""

    def is_full(self, issuer: bytes) -> bool:
        """Whether the list is full and the issuer is not on it."""


class Hearing(Sealed[Heartbeat]):
    """One envelope before TABLE, said to have been sent `age` ms ago."""

    def __init__(
        self, data: bytes, *, age: int, now: float, network: str, verify: Verify, known: Known
    ) -> None:
        super().__init__(
            data,
            where=domain(network, USE),
            payload_type=PAYLOAD_TYPE,
            kind=Heartbeat,
            verify=verify,
            limit=MAX_HEARTBEAT,
        )
        self.age = age
        self.now = now
        self.known = known

    @cached_property
    def ttl(self) -> int:
        """Milliseconds that it counts for."""
        return min(self.it.ttl, MAX_TTL)

    def is_off_clock(self) -> bool:
        return abs(self.it.issued + self.age - int(self.now * 1000)) > MAX_SKEW

    def is_over(self) -> bool:
        return self.age >= self.ttl if self.ttl else self.age > MAX_SKEW

    def is_older(self) -> bool:
        newest = self.known.newest(self.it.issuer)
        return newest is not None and self.it.seq <= newest


_REJECT, _IGNORE = Verdict.REJECT, Verdict.IGNORE

# In order. `older` stands before the signature because it only reads, and because most of
# what a neighbour can repeat is old; a forger gains nothing by being ignored.
TABLE: tuple[Row[Hearing], ...] = (
    *ENVELOPE_ROWS,
    Row(
        "bad-fields",
        _REJECT,
        lambda h: h.said is None,
        "fields missing, unknown, of another type or over their limits",
    ),
    Row(
        "wrong-issuer",
        _REJECT,
        lambda h: h.it.issuer != h.sure.issuer,
        "names another issuer than the key that signed it",
    ),
    Row("older", _IGNORE, lambda h: h.is_older(), "a newer one of its issuer is known"),
    Row("off-clock", _IGNORE, lambda h: h.is_off_clock(), "its clock is minutes off ours"),
    Row("over", _IGNORE, lambda h: h.is_over(), "its time is over"),
    Row(
        "bad-signature",
        _REJECT,
        lambda h: not h.verifies(),
        "its signature does not verify on this network",
    ),
    Row("ours", _IGNORE, lambda h: h.it.issuer == h.known.me, "our own"),
    Row(
        "over-rate",
        _IGNORE,
        lambda h: h.known.over_rate(h.it.issuer, h.now),
        "its issuer sends too many",
    ),
    Row("full", _IGNORE, lambda h: h.known.is_full(h.it.issuer), "the list is full"),
)


class Judgement(msgspec.Struct, frozen=True):
    """What the table says; `heartbeat` only where it is verified and accepted."""

    verdict: Verdict
    row: str
    reason: str
    heartbeat: Heartbeat | None = None


def judge(hearing: Hearing) -> Judgement:
    """What is to become of an envelope."""
    row = first_row(TABLE, hearing)
    if row is None:
        return Judgement(Verdict.ACCEPT, "", "", heartbeat=hearing.it)
    return Judgement(row.verdict, row.name, row.reason)
