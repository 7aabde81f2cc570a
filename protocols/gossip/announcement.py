"""Announcements: signed, expiring statements that their issuer holds or offers something.

    shard      these tiles of a model          adapter   a LoRA for a base model
    kernel     an implementation of an         proposal  something to be voted on
               operation, with its benchmark   upgrade   a slot's module and its source

An announcement is the payload of a signed envelope in the domain
`/synapse/<network>/announcement/1`. It travels by gossip on `/synapse/<network>/<kind>/1`,
and by reconciliation (reconcile.py) to whoever missed that.

Rules of this file:
1. An issuer has one announcement for each (kind, subject); the one with the highest sequence
   number is in force. Two of the same number are a lie of the issuer's; the one with the
   greater id is in force then, so that all daemons keep the same one.
2. The issuer is named in the payload too, so an announcement's id is nobody else's.
3. Whether one is kept is decided by TABLE below and by nothing else.
4. `withdrawn` takes back: the announcement stays as a tombstone until it expires, so that what
   it replaced cannot return from a daemon that has not heard.
"""

import enum
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Protocol

import msgspec

from protocols.changes import SlotName
from protocols.cid import cid_of, is_cid
from protocols.codec import Message, encode
from protocols.envelope import Sign, Verify, domain, seal
from protocols.errors import MalformedError
from protocols.gossip.validation import ENVELOPE_ROWS, Row, Sealed, Verdict, first_row
from protocols.manifest import MAX_MILLI, MAX_RANK, CidBytes, Milli, Name, PeerId, check_text

USE = "announcement"
PAYLOAD_TYPE = b"/synapse/announcement"
KINDS = ("shard", "adapter", "kernel", "upgrade", "dataset", "proposal")

MAX_ANNOUNCEMENT = 16 << 10
"""Bytes of the largest envelope: MAX_RUNS runs of a 32-bit start and count take 8 KiB."""
MAX_RUNS = 512
"""Runs of tiles in one shard announcement: a complete holder has one, a random half of a
91 MB model about 30. Whoever has more announces its longest ones (`clip_runs`)."""
MAX_TILES = 1 << 32
"""Tiles of one model: 16 PiB."""
MAX_LIFETIME = 7 * 24 * 3600 * 1000
"""Milliseconds: a week, so that an author who is away over a vote is still heard."""
MAX_SKEW = 120 * 1000
"""Milliseconds by which clocks may differ: home machines with NTP are within 1 s; those that
woke from sleep have been seen a minute off."""
MAX_SIZE = 1 << 53
"""Bytes of what is announced: integers that JavaScript holds exactly."""

Millis = Annotated[int, msgspec.Meta(ge=0, le=MAX_MILLI)]
Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_SIZE)]
Run = tuple[
    Annotated[int, msgspec.Meta(ge=0, lt=MAX_TILES)],
    Annotated[int, msgspec.Meta(ge=1, le=MAX_TILES)],
]
Runs = Annotated[tuple[Run, ...], msgspec.Meta(max_length=MAX_RUNS)]


class ShardBody(Message, frozen=True):
    """Tiles of `model` that the issuer holds: runs (start, count) over the model's tile numbers,
    in order, not touching. None at all: the issuer has begun to collect them."""

    model: CidBytes
    tiles: Runs

    def __post_init__(self) -> None:
        _check_links(self.model)
        end = -1
        for start, count in self.tiles:
            if start <= end or start + count > MAX_TILES:
                raise MalformedError("runs of tiles that overlap, touch or run out of the model")
            end = start + count

    @property
    def subject(self) -> bytes:
        return self.model


class AdapterBody(Message, frozen=True):
    """An AdapterManifest and what one wants to know before fetching it. `size` in bytes."""

    adapter: CidBytes
    base: CidBytes
    name: Name
    rank: Annotated[int, msgspec.Meta(ge=1, le=MAX_RANK)]
    size: Size

    def __post_init__(self) -> None:
        _check_links(self.adapter, self.base)
        check_text(self.name, "the name")

    @property
    def subject(self) -> bytes:
        return self.adapter


class BenchmarkClaim(Message, frozen=True):
    """Thousandths of `unit`: the kernel's `value` and the reference's `baseline`."""

    metric: Name
    unit: Name
    value: Milli
    baseline: Milli


class KernelBody(Message, frozen=True):
    """A KernelManifest, for which operation and architecture, and its foremost benchmark."""

    kernel: CidBytes
    operation: Name
    architecture: Name
    benchmark: BenchmarkClaim
    size: Size

    def __post_init__(self) -> None:
        _check_links(self.kernel)
        words = (self.operation, self.architecture, self.benchmark.metric, self.benchmark.unit)
        for word in words:
            check_text(word, "the kernel's")

    @property
    def subject(self) -> bytes:
        return self.kernel


class UpgradeBody(Message, frozen=True):
    """An UpgradeManifest, of which slot, and the size of its module and source in bytes."""

    upgrade: CidBytes
    slot: SlotName
    size: Size

    def __post_init__(self) -> None:
        _check_links(self.upgrade)

    @property
    def subject(self) -> bytes:
        return self.upgrade


class DatasetBody(Message, frozen=True):
    """A DatasetManifest, its name, and the size of its files in bytes."""

    dataset: CidBytes
    name: Name
    size: Size

    def __post_init__(self) -> None:
        _check_links(self.dataset)
        check_text(self.name, "the name")

    @property
    def subject(self) -> bytes:
        return self.dataset


class ProposalBody(Message, frozen=True):
    """A proposal's manifest and its title."""

    proposal: CidBytes
    title: Name

    def __post_init__(self) -> None:
        _check_links(self.proposal)
        check_text(self.title, "the title")

    @property
    def subject(self) -> bytes:
        return self.proposal


Body = ShardBody | AdapterBody | KernelBody | UpgradeBody | DatasetBody | ProposalBody


def _check_links(*cids: bytes) -> None:
    if not all(is_cid(cid) for cid in cids):
        raise MalformedError("an announcement names something that is not a content id")


class _Statement(Message, frozen=True, tag_field="kind"):
    """What announcements of all kinds say. Times are Unix milliseconds by the issuer's clock."""

    issuer: PeerId
    seq: Millis
    issued: Millis
    expires: Millis
    withdrawn: bool


class ShardAnnouncement(_Statement, frozen=True, tag="shard"):
    body: ShardBody


class AdapterAnnouncement(_Statement, frozen=True, tag="adapter"):
    body: AdapterBody


class KernelAnnouncement(_Statement, frozen=True, tag="kernel"):
    body: KernelBody


class UpgradeAnnouncement(_Statement, frozen=True, tag="upgrade"):
    body: UpgradeBody


class DatasetAnnouncement(_Statement, frozen=True, tag="dataset"):
    body: DatasetBody


class ProposalAnnouncement(_Statement, frozen=True, tag="proposal"):
    body: ProposalBody


Announcement = (
    ShardAnnouncement
    | AdapterAnnouncement
    | KernelAnnouncement
    | UpgradeAnnouncement
    | DatasetAnnouncement
    | ProposalAnnouncement
)

_BY_BODY: dict[type[Body], type[Announcement]] = {
    ShardBody: ShardAnnouncement,
    AdapterBody: AdapterAnnouncement,
    KernelBody: KernelAnnouncement,
    UpgradeBody: UpgradeAnnouncement,
    DatasetBody: DatasetAnnouncement,
    ProposalBody: ProposalAnnouncement,
}


def kind_of(announcement: Announcement) -> str:
    """One of KINDS."""
    return str(announcement.__struct_config__.tag)


def kind_of_body(body: Body) -> str:
    """The kind of announcement that carries such a body."""
    return str(_BY_BODY[type(body)].__struct_config__.tag)


def compose(
    body: Body, *, issuer: bytes, seq: int, issued: int, expires: int, withdrawn: bool = False
) -> Announcement:
    """The announcement of `body`; times in Unix milliseconds."""
    kind: type = _BY_BODY[type(body)]
    announcement: Announcement = kind(
        issuer=issuer, seq=seq, issued=issued, expires=expires, withdrawn=withdrawn, body=body
    )
    return announcement


def announcement_id(payload: bytes) -> bytes:
    """The 32 bytes that name an announcement: the digest of its payload's CID."""
    return cid_of(payload)[-32:]


def seal_announcement(
    announcement: Announcement, network: str, public_key: bytes, sign: Sign
) -> bytes:
    """The envelope of an announcement."""
    return seal(domain(network, USE), PAYLOAD_TYPE, encode(announcement), public_key, sign)


def clip_runs(runs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Runs as announced, (start, count), from any [start, stop) ranges; the longest MAX_RUNS."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(run for run in runs if run[0] < run[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    longest = sorted(merged, key=lambda run: (run[0] - run[1], run[0]))[:MAX_RUNS]
    return tuple((start, stop - start) for start, stop in sorted(longest))


# -- validation --------------------------------------------------------------------------------


class Source(enum.Enum):
    """How an announcement came to us."""

    GOSSIP = "gossip"  # on the topic of its kind
    ASKED = "asked"  # by reconciliation
    STORED = "stored"  # from our own disk, after a restart


class Known(Protocol):
    """What validation asks of the catalog. Nothing here changes it."""

    @property
    def me(self) -> bytes: ...

    def has(self, digest: bytes) -> bool:
        """Whether the announcement with this id is in the catalog."""

    def newest(self, issuer: bytes, kind: str, subject: bytes) -> tuple[int, bytes] | None:
        """(sequence number, id) of the issuer's announcement for this subject."""

    def over_rate(self, issuer: bytes, now: float) -> bool:
        """Whether the issuer has announced more than its rate allows."""

    def over_cap(self, issuer: bytes, kind: str, subject: bytes) -> bool:
        """Whether the issuer has as many live announcements as it may, and this is one more."""


class Hearing(Sealed[Announcement]):
    """One envelope before TABLE.

    Everything read before the row `bad-signature` is unverified, and nothing stateful
    may be decided by it.
    """

    def __init__(
        self,
        data: bytes,
        *,
        topic: str | None,
        source: Source,
        now: float,
        network: str,
        verify: Verify,
        known: Known,
    ) -> None:
        super().__init__(
            data,
            where=domain(network, USE),
            payload_type=PAYLOAD_TYPE,
            kind=Announcement,
            verify=verify,
            limit=MAX_ANNOUNCEMENT,
        )
        self.topic = topic
        self.source = source
        self.now = now
        self.now_ms = int(now * 1000)
        self.known = known

    @cached_property
    def id(self) -> bytes:
        return announcement_id(self.sure.payload)

    @property
    def kind(self) -> object:
        return self.plain.get("kind") if isinstance(self.plain, dict) else None

    @property
    def newest(self) -> tuple[int, bytes] | None:
        return self.known.newest(self.it.issuer, kind_of(self.it), self.it.body.subject)

    def is_older(self) -> bool:
        return self.newest is not None and self.it.seq < self.newest[0]

    def contradicts(self) -> bool:
        """Same number, other content: the issuer's lie. The greater id stays in force."""
        newest = self.newest
        return newest is not None and self.it.seq == newest[0] and self.id < newest[1]

    def over_cap(self) -> bool:
        return self.known.over_cap(self.it.issuer, kind_of(self.it), self.it.body.subject)


_REJECT, _IGNORE = Verdict.REJECT, Verdict.IGNORE

# In order. Cheap before dear, and nothing stateful before the signature.
TABLE: tuple[Row[Hearing], ...] = (
    *ENVELOPE_ROWS,
    Row("unknown-kind", _REJECT, lambda h: h.kind not in KINDS, "of no kind that there is"),
    Row(
        "bad-fields",
        _REJECT,
        lambda h: h.said is None,
        "fields missing, unknown, of another type or over their limits",
    ),
    Row(
        "wrong-topic",
        _REJECT,
        lambda h: h.topic is not None and h.kind != h.topic,
        "on the topic of another kind",
    ),
    Row(
        "wrong-issuer",
        _REJECT,
        lambda h: h.it.issuer != h.sure.issuer,
        "names another issuer than the key that signed it",
    ),
    Row(
        "wrong-lifetime",
        _REJECT,
        lambda h: not 0 < h.it.expires - h.it.issued <= MAX_LIFETIME,
        "lives no time at all, or longer than a week",
    ),
    Row(
        "from-the-future",
        _IGNORE,
        lambda h: h.it.issued > h.now_ms + MAX_SKEW,
        "issued later than our clock says it is",
    ),
    Row("expired", _IGNORE, lambda h: h.it.expires <= h.now_ms, "expired"),
    Row("held", _IGNORE, lambda h: h.known.has(h.id), "in the catalog already"),
    Row(
        "bad-signature",
        _REJECT,
        lambda h: not h.verifies(),
        "its signature does not verify on this network",
    ),
    Row(
        "ours",
        _IGNORE,
        lambda h: h.source is not Source.STORED and h.it.issuer == h.known.me,
        "our own",
    ),
    Row("older", _IGNORE, lambda h: h.is_older(), "a newer one of the same subject is in force"),
    Row(
        "contradicts",
        _IGNORE,
        lambda h: h.contradicts(),
        "its issuer said something else under the same number",
    ),
    Row(
        "over-rate",
        _IGNORE,
        lambda h: h.source is Source.GOSSIP and h.known.over_rate(h.it.issuer, h.now),
        "its issuer announces too often",
    ),
    Row("over-cap", _IGNORE, lambda h: h.over_cap(), "its issuer has too many live ones"),
)


class Judgement(msgspec.Struct, frozen=True):
    """What the table says: `row` is the name of the row that decided, "" where none held.

    `id`, `issuer` and `announcement` are verified for ACCEPT and for the rows behind
    `bad-signature`; before it they are None.
    """

    verdict: Verdict
    row: str
    reason: str
    id: bytes | None = None
    announcement: Announcement | None = None


_VERIFIED_FROM = next(at for at, row in enumerate(TABLE) if row.name == "bad-signature") + 1
_VERIFIED_ROWS = frozenset(row.name for row in TABLE[_VERIFIED_FROM:])


def judge(hearing: Hearing) -> Judgement:
    """What is to become of an envelope."""
    row = first_row(TABLE, hearing)
    if row is None:
        return Judgement(Verdict.ACCEPT, "", "", id=hearing.id, announcement=hearing.it)
    if row.name in _VERIFIED_ROWS:
        return Judgement(row.verdict, row.name, row.reason, id=hearing.id, announcement=hearing.it)
    return Judgement(row.verdict, row.name, row.reason)
