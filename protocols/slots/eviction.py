"""The slot `eviction`: what is held for others and goes first, where the owner needs room.

When an import or a pull of the owner's does not fit the quota, the daemon puts all that could go
into one batch: groups of tiles that are held as copies for others, and the headers of models that
are only watched over. The slot says what keeping each is worth; `choose` takes the least worth
until there is enough. What an answer cannot do: touch anything that the owner brought, fetched or
pinned, or that is being fetched; take more than is needed; or take anything where all of it would
not be enough. Those are the daemon's own rules (synapsed/holdings/eviction.py).
"""

from collections.abc import Sequence

from protocols.draw import Draw
from protocols.risk import Risk
from protocols.slots.abi import MAX_ROWS, Batch, Column, Goal, Invariant, Limits, Run, Slot, Table
from protocols.slots.checks import moves, permuted

NAME = "eviction"
CANDIDATES = "candidates"
WORTH = "worth"

TILES, HEADERS = 0, 1
"""Kinds of candidates."""
MOST_BYTES = 1 << 53
MOST_SECONDS = 1 << 40
MOST_COPIES = 1 << 20
MOST_WORTH = 1 << 62
MOST_PPM = 100_000_000
"""Of the goal: a hundred times what was needed."""

HOUR, DAY = 3600, 86_400
MOST_TURNS = 1 << 20
"""Times 1024 that something was given away whole: what is beyond a thousand is just popular."""
SLOWEST = 1 << 16
"""Bytes a second: whoever is slower, or not known, is taken to be as slow as this."""
TIER_BITS = 40
"""Above these bits of a worth stands the tier."""
SCARCE = 2
"""The first tier of what would be left with too few copies; below: the plentiful, then headers."""


def worth_of(
    *, kind: int, copies: int, wanted: int, size: int, served: int, idle: int, age: int, rate: int
) -> int:
    """What keeping one candidate is worth: its tier, and in it what others would miss.

    Of tiles with too few copies elsewhere, those with the fewest are kept longest. Within a tier
    it is how often a day all of it was asked for, halved after a day in which nobody did, shared
    with those who have it too; and a little for what would take long to fetch again.
    """
    lack = wanted - copies
    if kind == HEADERS:
        tier, spare = HEADERS, 0
    else:
        tier = SCARCE + lack if lack > 0 else TILES
        spare = max(0, -lack)
    turns = min(served // max(1, size >> 10), MOST_TURNS)
    asked = turns * DAY // (age + HOUR) * DAY // (idle + DAY)
    slow = (1 << 26) // max(rate, SLOWEST)
    missed = 64 * (1 + asked) // (1 + spare) + slow
    return (tier << TIER_BITS) + missed


def reference(batch: Batch) -> None:
    """Each candidate by itself."""
    wanted = batch.context["wanted"]
    columns = [
        batch.column(CANDIDATES, name).tolist()
        for name in ("kind", "copies", "bytes", "served", "idle", "age", "rate")
    ]
    batch.answered(
        WORTH,
        [
            worth_of(
                kind=kind,
                copies=copies,
                wanted=wanted,
                size=size,
                served=served,
                idle=idle,
                age=age,
                rate=rate,
            )
            for kind, copies, size, served, idle, age, rate in zip(*columns, strict=True)
        ],
    )


def choose(worth: Sequence[int], sizes: Sequence[int], need: int) -> list[int]:
    """Which candidates go so that `need` bytes do: least worth first, of equals the first; then
    whatever turns out not to be needed stays, the dearest first. [] where all are not enough."""
    if need <= 0 or sum(sizes) < need:
        return []
    taken: list[int] = []
    left = need
    for at in sorted(range(len(worth)), key=lambda at: (worth[at], at)):
        if left <= 0:
            break
        taken.append(at)
        left -= sizes[at]
    kept = set()
    for at in reversed(taken):
        if left + sizes[at] <= 0:
            left += sizes[at]
            kept.add(at)
    return [at for at in taken if at not in kept]


# -- inputs to try -------------------------------------------------------------------------


def generate(draw: Draw, rows: int) -> Batch:
    """Stores of all kinds: few large replicas, a thousand small ones, all alike, all extremes."""
    shape = draw.integer(0, 5)
    table: dict[str, list[int]]
    if shape == 0:  # anything at any magnitude
        table = {c.name: [draw.size(c.most) for _ in range(rows)] for c in _COLUMNS}
    elif shape == 1:  # each column one of its bounds
        table = {
            c.name: [c.most if draw.chance(1, 2) else c.least for _ in range(rows)]
            for c in _COLUMNS
        }
    else:
        usual = [_usual(draw) for _ in range(1 if shape == 2 else rows)]  # 2: all alike
        table = {c.name: [usual[at % len(usual)][c.name] for at in range(rows)] for c in _COLUMNS}
    table["bytes"] = [max(1, size) for size in table["bytes"]]
    context = {
        "need": draw.size(MOST_BYTES),
        "wanted": draw.integer(1, 4) if draw.chance(3, 4) else draw.integer(1, 64),
        "used": draw.size(MOST_BYTES),
        "quota": draw.size(MOST_BYTES),
    }
    return Batch.of(SLOT, context, {CANDIDATES: table})


def _usual(draw: Draw) -> dict[str, int]:
    """A row as daemons have them: mostly tiles, some of them asked for."""
    headers = draw.chance(1, 8)
    size = draw.size(16 << 20) if headers else draw.integer(1, 64) * draw.size(4 << 20)
    age = draw.size(90 * DAY)
    return {
        "kind": HEADERS if headers else TILES,
        "model": draw.integer(0, 12),
        "bytes": size,
        "copies": draw.integer(0, 6),
        "holders": draw.integer(0, 9),
        "served": size * draw.size(64) if draw.chance(1, 2) else 0,
        "idle": draw.integer(0, age),
        "age": age,
        "rate": 0 if draw.chance(1, 3) else draw.size(200 << 20),
    }


# -- what every implementation keeps --------------------------------------------------------


def _copies(run: Run, batch: Batch, draw: Draw) -> str:
    return moves(run, batch, draw, name="copies", output=WORTH, sign=-1)


def _served(run: Run, batch: Batch, draw: Draw) -> str:
    return moves(run, batch, draw, name="served", output=WORTH, sign=1)


def _scarce_last(run: Run, batch: Batch, draw: Draw) -> str:
    del draw
    run(batch)
    wanted = batch.context["wanted"]
    kinds, copies = batch.column(CANDIDATES, "kind"), batch.column(CANDIDATES, "copies")
    plenty: tuple[int, int] | None = None  # the dearest of those that may go
    scarce: tuple[int, int] | None = None  # the cheapest of those that should not
    for at, worth in enumerate(batch.answer(WORTH)):
        if kinds[at] == TILES and copies[at] < wanted:
            scarce = min(scarce or (worth, at), (worth, at))
        elif kinds[at] == TILES:
            plenty = max(plenty or (worth, at), (worth, at))
    if plenty is None or scarce is None or plenty[0] < scarce[0]:
        return ""
    return (
        f"row {scarce[1]}, which would be left with too few copies, is worth {scarce[0]},"
        f" and row {plenty[1]}, of which there are enough, {plenty[0]}"
    )


_COLUMNS = (
    Column(
        "kind", "0 or 1", TILES, HEADERS, "0: tiles held as a copy for others; 1: headers watched"
    ),
    Column("model", "number", 0, MAX_ROWS, "the same for candidates that are of one model"),
    Column("bytes", "bytes", 1, MOST_BYTES, "that go with it"),
    Column(
        "copies",
        "count",
        0,
        MOST_COPIES,
        "proven ones elsewhere, of its rarest tile; some holders are enough to prove",
    ),
    Column("holders", "count", 0, MOST_COPIES, "alive elsewhere that announce all of it"),
    Column("served", "bytes", 0, MOST_BYTES, "of it that others were given since it is here"),
    Column("idle", "s", 0, MOST_SECONDS, "since others were last given some of it, or it came"),
    Column("age", "s", 0, MOST_SECONDS, "since it came"),
    Column("rate", "bytes/s", 0, MOST_BYTES, "that its holders gave us, added up; 0: not known"),
)

SLOT = Slot(
    name=NAME,
    abi=1,
    risk=Risk.MEDIUM,
    text="Says what of that which is held for others goes first, where the owner needs the room.",
    context=(
        Column("need", "bytes", 0, MOST_BYTES, "that are to be freed"),
        Column("wanted", "count", 1, 64, "copies that each tile should have in the network"),
        Column("used", "bytes", 0, MOST_BYTES, "of the store, by everything"),
        Column("quota", "bytes", 0, MOST_BYTES, "that the store may have"),
    ),
    tables=(Table(CANDIDATES, MAX_ROWS, _COLUMNS, "all that could go"),),
    answers=CANDIDATES,
    outputs=(Column(WORTH, "", 0, MOST_WORTH, "of keeping it: the least goes first"),),
    goal=Goal(
        name="evicted in vain",
        unit="ppm of the need",
        higher_is_better=False,
        text="bytes evicted beyond the need, and bytes of what was evicted that are here again"
        " ten minutes later",
    ),
    limits=Limits(fuel=200_000, fuel_per_row=4_000, memory_pages=256),
    reference=reference,
    generate=generate,
    invariants=(
        Invariant("permuted", "Rows in another order have the same answers.", permuted),
        Invariant("copies", "More copies elsewhere never raise a worth.", _copies),
        Invariant("served", "Having been asked for more never lowers a worth.", _served),
        Invariant(
            "scarce last",
            "Tiles of which too few copies would be left are worth more than all of which there"
            " are enough.",
            _scarce_last,
        ),
    ),
)
