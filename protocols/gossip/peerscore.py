"""What we know of a peer, as a pure fold over what happened with it.

A record starts empty and each fact makes a new record: connected, a round trip, bytes that
arrived, a fault. Faults decay, so that an old mistake is forgiven; a grave one bans for a while.
Whom to keep when there is no room, and whom to dial first, is the slot `peer_scoring`'s to say:
`row` is what it is told of a peer, and `worth` what its reference makes of that.
Floats are fine here: a record is one daemon's own opinion and nobody else computes it.
"""

import enum
import math

import msgspec

from protocols.slots.peer_scoring import keep_of

RTT_WEIGHT = 0.125
"""Weight of a new sample in the moving averages: TCP's own (RFC 6298)."""

FAULT_HALF_LIFE = 600.0
"""Seconds after which a fault weighs half: a restart of a broken daemon is forgiven in minutes."""

BAN_AT = 10.0
"""Points of faults from which a peer is neither dialled nor let in: ten time-outs at once, three
malformed messages, or one proven lie and one of anything else."""

BAN_SECONDS = 600.0
"""How long a ban lasts: long enough that an attacker pays, short enough for an innocent."""

MAX_ADDRS = 8
"""Addresses that we remember of one peer: what a host with IPv4, IPv6, LAN and a proxy has."""


class Fault(enum.StrEnum):
    """What a peer can do wrong. The value is what stands in Blame effects and events."""

    TIMEOUT = "timeout"
    """It did not answer in time."""
    UNREACHABLE = "unreachable"
    """A dial failed. Hardly a fault: machines are switched off."""
    CLOSED = "closed"
    """It broke off in the middle of something."""
    FLOOD = "flood"
    """More than it may: messages, streams, connections."""
    REJECTED = "rejected"
    """It passed on a message that the validator rejects."""
    MALFORMED = "malformed"
    """Bytes that are not the protocol."""
    MISMATCH = "mismatch"
    """Content that does not hash to its name."""
    LIED = "lied"
    """It claimed to hold what it then could not prove, or signed a falsehood."""


FAULT_POINTS: dict[Fault, float] = {
    Fault.UNREACHABLE: 0.25,
    Fault.CLOSED: 0.5,
    Fault.TIMEOUT: 1.0,
    Fault.FLOOD: 2.0,
    Fault.REJECTED: 2.0,
    Fault.MALFORMED: 3.5,
    Fault.MISMATCH: 5.0,
    Fault.LIED: 9.5,
}
"""Points of one fault. One lie does not ban (our own disk may be the liar), a second one does."""


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that is remembered of one peer. Times are wall-clock seconds."""

    addrs: tuple[str, ...] = ()
    source: str = ""
    """Who told us of it first: bootstrap, mdns, dht, heartbeat, inbound."""
    first_seen: float = 0.0
    last_seen: float = 0.0
    connections: int = 0
    rtt: float | None = None
    """Seconds."""
    throughput: float | None = None
    """Bytes a second that it has sent us while we waited."""
    useful: float = 0.0
    """Bytes of verified content and accepted messages, decaying with FAULT_HALF_LIFE's decade."""
    useful_at: float = 0.0
    faults: float = 0.0
    """Points, as of `faults_at`."""
    faults_at: float = 0.0
    fault_counts: dict[str, int] = {}
    banned_until: float = 0.0
    failed_dials: int = 0
    """Since the last success: sets the back-off."""
    dialled_at: float = 0.0


USEFUL_HALF_LIFE = 6 * 3600.0
"""Seconds after which service to us weighs half: an evening's helper is remembered at bedtime."""


def _decayed(value: float, at: float, now: float, half_life: float) -> float:
    return value * math.pow(0.5, max(0.0, now - at) / half_life)


def _average(old: float | None, sample: float) -> float:
    return sample if old is None else old + RTT_WEIGHT * (sample - old)


def fault_points(record: PeerRecord, now: float) -> float:
    """Points of faults that weigh at `now`."""
    return _decayed(record.faults, record.faults_at, now, FAULT_HALF_LIFE)


def banned(record: PeerRecord, now: float) -> bool:
    """Whether the peer is neither dialled nor let in at `now`."""
    return now < record.banned_until


def with_addrs(record: PeerRecord, addrs: tuple[str, ...], source: str, now: float) -> PeerRecord:
    """Somebody told us where the peer is: new addresses stand first, the oldest fall out."""
    merged = tuple(dict.fromkeys((*addrs, *record.addrs)))[:MAX_ADDRS]
    if merged == record.addrs:
        return record
    return msgspec.structs.replace(
        record,
        addrs=merged,
        source=record.source or source,
        first_seen=record.first_seen or now,
    )


def with_connection(record: PeerRecord, addr: str | None, source: str, now: float) -> PeerRecord:
    """The peer is connected; `addr` is where a dial of ours found it (None: it dialled us)."""
    if addr is not None:
        record = with_addrs(record, (addr,), source, now)
    return msgspec.structs.replace(
        record,
        source=record.source or source,
        first_seen=record.first_seen or now,
        last_seen=now,
        connections=record.connections + 1,
        failed_dials=0,
    )


def with_failed_dial(record: PeerRecord, now: float) -> PeerRecord:
    """A dial failed."""
    return msgspec.structs.replace(record, failed_dials=record.failed_dials + 1, dialled_at=now)


def with_seen(record: PeerRecord, now: float) -> PeerRecord:
    """The peer was alive just now."""
    return msgspec.structs.replace(record, last_seen=now)


def with_rtt(record: PeerRecord, seconds: float, now: float) -> PeerRecord:
    """A round trip took `seconds`."""
    return msgspec.structs.replace(record, rtt=_average(record.rtt, seconds), last_seen=now)


def with_transfer(record: PeerRecord, count: int, seconds: float, now: float) -> PeerRecord:
    """`count` verified bytes arrived in `seconds` of waiting for them."""
    useful = _decayed(record.useful, record.useful_at, now, USEFUL_HALF_LIFE) + count
    rate = count / max(seconds, 1e-6)
    return msgspec.structs.replace(
        record,
        throughput=_average(record.throughput, rate),
        useful=useful,
        useful_at=now,
        last_seen=now,
    )


def with_fault(record: PeerRecord, fault: Fault, now: float) -> PeerRecord:
    """The peer did something wrong; from BAN_AT points on it is banned for BAN_SECONDS."""
    points = fault_points(record, now) + FAULT_POINTS[fault]
    counts = dict(record.fault_counts)
    counts[fault.value] = counts.get(fault.value, 0) + 1
    return msgspec.structs.replace(
        record,
        faults=points,
        faults_at=now,
        fault_counts=counts,
        banned_until=now + BAN_SECONDS if points >= BAN_AT else record.banned_until,
    )


class Row(msgspec.Struct, frozen=True, gc=False):
    """A record as the slot `peer_scoring` has it: columns of its table, in whole numbers."""

    useful: int
    rate: int
    rtt: int
    known: int
    faults: int
    failed_dials: int


def row(record: PeerRecord, now: float) -> Row:
    """What stands in a record at `now`."""
    useful = _decayed(record.useful, record.useful_at, now, USEFUL_HALF_LIFE)
    return Row(
        useful=int(useful),
        rate=int(record.throughput or 0.0),
        rtt=-1 if record.rtt is None else int(record.rtt * 1e6),
        known=max(0, int(now - record.first_seen)) if record.first_seen else 0,
        faults=int(fault_points(record, now) * 1000),
        failed_dials=record.failed_dials,
    )


def worth(record: PeerRecord, now: float) -> float:
    """How much we want to keep this peer, in points, as long as nobody has scored it: 0 for a
    stranger, more for the useful, less for faults."""
    its = row(record, now)
    return keep_of(its.useful, its.rtt, its.known, its.faults) / 1000


DIAL_BACKOFF = 5.0
"""Seconds before the first re-dial of an address that failed."""

MAX_DIAL_BACKOFF = 600.0
"""Seconds between dials of what never answers: a dead bootstrap is dialled for ever, politely."""


def dial_again_at(record: PeerRecord) -> float:
    """The earliest time at which to dial this peer again."""
    if not record.failed_dials:
        return record.banned_until
    wait = min(MAX_DIAL_BACKOFF, DIAL_BACKOFF * 2.0 ** min(record.failed_dials - 1, 16))
    return max(record.dialled_at + wait, record.banned_until)
