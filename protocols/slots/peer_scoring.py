"""The slot `peer_scoring`: whom to stay connected to, and whom to have in gossip's mesh.

A daemon scores everybody in its peer book every few seconds, all in one batch, and uses the
answers until the next: `keep` orders whom to dial first and whom to drop when there is no room,
`gossip` whom to keep in the mesh of a topic. What a score cannot do: lift a ban, drop a council
member, or empty a mesh. Those are the daemon's own rules.
"""

from functools import partial

from protocols.draw import Draw
from protocols.risk import Risk
from protocols.slots import checks
from protocols.slots.abi import Batch, Column, Goal, Invariant, Limits, Run, Slot, Table

NAME = "peer_scoring"
PEERS = "peers"

MAX_PEERS = 4096
"""Rows of a batch: twice what the peer book remembers."""
MOST = 1_000_000_000
"""Bounds of a score either way, in thousandths."""
MOST_BYTES = 1 << 60
MOST_COUNT = 1 << 40

MIB_BITS = 20
NEAR_MOST, NEAR_HALF_US = 2000, 50_000
"""A round trip of nothing is worth 2 points, one of 50 ms half of that."""
DAY = 86_400
DELIVERED_MOST = 2000
"""Points (thousandths) of a neighbour that is always the first to bring a message."""
DELIVERED_LEAST = 8
"""Messages below which the share of firsts says nothing."""


def log2_milli(x: int) -> int:
    """log2(x) in thousandths for x >= 1, straight between powers of two: at most 87 below."""
    whole = x.bit_length() - 1
    return whole * 1000 + (x * 1000 >> whole) - 1000


def keep_of(useful: int, rtt: int, known: int, faults: int) -> int:
    """How much we want to keep a peer: 0 for a stranger, more for the useful, less for faults.

    Service counts by its logarithm (a thousand times the bytes is not a thousand times the
    friend), a short round trip up to 2 points, long acquaintance up to 1; a fault point costs 1.
    """
    service = log2_milli((1 << MIB_BITS) + useful) - MIB_BITS * 1000
    return service + _near(rtt) + min(1000, known * 1000 // DAY) - faults


def gossip_of(rtt: int, first: int, duplicates: int, faults: int) -> int:
    """How much we want a peer in the mesh: near, and often the first to bring what is new."""
    heard = first + duplicates
    share = DELIVERED_MOST * first // heard if heard >= DELIVERED_LEAST else 0
    return _near(rtt) + share - faults


def _near(rtt: int) -> int:
    return 0 if rtt < 0 else NEAR_MOST * NEAR_HALF_US // (NEAR_HALF_US + rtt)


def reference(batch: Batch) -> None:
    """Each peer by itself."""

    def column(name: str) -> list[int]:
        return batch.column(PEERS, name).tolist()

    rtt, faults = column("rtt"), column("faults")
    batch.answered("keep", map(keep_of, column("useful"), rtt, column("known"), faults))
    batch.answered("gossip", map(gossip_of, rtt, column("first"), column("duplicates"), faults))


def generate(draw: Draw, rows: int) -> Batch:
    """Peer books of all kinds: of strangers, of friends, of attackers, at all extremes."""
    nasty = draw.chance(1, 4)
    table: dict[str, list[int]] = {}
    for column in _COLUMNS:
        if nasty:
            span = column.most - column.least
            table[column.name] = [column.least + draw.size(span) for _ in range(rows)]
            if draw.chance(1, 4):
                table[column.name] = [draw.integer(0, 1) and column.most] * rows
        else:
            usual = _USUAL[column.name]
            table[column.name] = [draw.integer(*usual) for _ in range(rows)]
            if column.name == "useful":
                table[column.name] = [draw.size(usual[1]) for _ in range(rows)]
    context = {"connections": draw.integer(0, 64), "most": draw.integer(1, 64)}
    return Batch.of(SLOT, context, {PEERS: table})


def _faults(run: Run, batch: Batch, draw: Draw) -> str:
    return _moves(run, batch, draw, name="faults", output="keep", sign=-1) or _moves(
        run, batch, draw, name="faults", output="gossip", sign=-1
    )


_moves = checks.moves
_useful = partial(_moves, name="useful", output="keep", sign=1)

_COLUMNS = (
    Column("useful", "bytes", 0, MOST_BYTES, "verified content that it sent us, halved every 6 h"),
    Column("rate", "bytes/s", 0, MOST_BYTES, "at which it sends while we wait; 0: not known"),
    Column("rtt", "µs", -1, MOST, "moving average of our pings; -1: not known"),
    Column("known", "s", 0, MOST, "since we heard of it first"),
    Column("faults", "thousandths", 0, MOST, "points of faults, halved every 10 minutes"),
    Column("failed_dials", "count", 0, MOST, "since the last that succeeded"),
    Column("connected", "0 or 1", 0, 1, "whether it is connected now"),
    Column("dialled", "0 or 1", 0, 1, "whether that is by a dial of ours"),
    Column("first", "messages", 0, MOST_COUNT, "of gossip that it was the first to bring, fading"),
    Column("duplicates", "messages", 0, MOST_COUNT, "that others had brought before, fading"),
)
_USUAL = {
    "useful": (0, 1 << 40),
    "rate": (0, 200_000_000),
    "rtt": (-1, 300_000),
    "known": (0, 30 * DAY),
    "faults": (0, 12_000),
    "failed_dials": (0, 8),
    "connected": (0, 1),
    "dialled": (0, 1),
    "first": (0, 300),
    "duplicates": (0, 2000),
}

SLOT = Slot(
    name=NAME,
    abi=1,
    risk=Risk.HIGH,
    text="Scores everybody in the peer book: whom to stay connected to, and whom to gossip with.",
    context=(
        Column("connections", "count", 0, MOST, "open now"),
        Column("most", "count", 0, MOST, "that the owner allows"),
    ),
    tables=(Table(PEERS, MAX_PEERS, _COLUMNS, "everybody in the peer book, connected or not"),),
    answers=PEERS,
    outputs=(
        Column("keep", "thousandths", -MOST, MOST, "the higher, the longer it is kept"),
        Column("gossip", "thousandths", -MOST, MOST, "the higher, the rather in gossip's mesh"),
    ),
    goal=Goal(
        name="useful share",
        unit="ppm",
        higher_is_better=True,
        text="of what the connected peers sent until the next round (verified bytes, and 1 KiB for"
        " each message that they brought first), the share of the better scored half",
    ),
    limits=Limits(fuel=200_000, fuel_per_row=2_000, memory_pages=64),
    reference=reference,
    generate=generate,
    invariants=(
        Invariant("permuted", "Rows in another order have the same answers.", checks.permuted),
        Invariant("faults", "More faults never raise a score.", _faults),
        Invariant("useful", "More useful bytes never lower `keep`.", _useful),
    ),
)
