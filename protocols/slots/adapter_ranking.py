"""The slot `adapter_ranking`: which announced adapters suit this machine.

Asked with all adapters that the catalog knows, in one batch: when the owner lists them, and when
the daemon looks for one to hold as a copy for others. The higher the score, the earlier an adapter
is listed and fetched. What an answer cannot do: have an adapter fetched whose base model is not
here, that does not fit into what may be held for others, or that the owner removed. Those are the
daemon's own rules (synapsed/holdings/adapters.py).
"""

from protocols.draw import Draw
from protocols.risk import Risk
from protocols.slots.abi import MAX_ROWS, Batch, Column, Goal, Invariant, Limits, Run, Slot, Table
from protocols.slots.checks import moves, permuted

NAME = "adapter_ranking"
ADAPTERS = "adapters"
SCORE = "score"

MOST_BYTES = 1 << 53
MOST_SECONDS = 1 << 40
MOST_HOLDERS = 1 << 20
MOST_REPUTATION = 1 << 53
MOST_SCORE = 1_000_000
MAX_RANK = 1024
"""As manifests have it."""
MILLE = 1000

MONTH = 30 * 86_400
SMALL = 1 << 26
"""Bytes of an adapter that has half the points for being small: rank 16 on all layers of 8 B."""
BASE, OWNED, KNOWN, SHARED, NEW, LIGHT, DEEP = (
    350_000,  # as much of its base as is here
    100_000,  # the base is the owner's, and not a copy for others
    12_000,  # for each binary digit of its author's reputation ...
    20_000,  # for each daemon that has it ...
    80_000,  # announced just now; half of it after a month
    80_000,  # tiny; half of it at SMALL
    3_000,  # for each binary digit of its rank: it can say more
)
"""Points."""
MOST_DIGITS, MOST_SHARED = 16, 8
"""... up to so many: 200,000 points for who has earned 32,768, 160,000 for eight holders."""
NO_BASE = 4
"""Parts to which the points of an adapter shrink whose base is not here at all ..."""
NO_ROOM = 8
"""... and of one that would not fit the disk."""


def score_of(
    *,
    base: int,
    owned: int,
    size: int,
    rank: int,
    holders: int,
    reputation: int,
    age: int,
    held: int,
    free: int,
) -> int:
    """How well one adapter suits, at most MOST_SCORE."""
    points = BASE * base // MILLE + OWNED * owned
    points += KNOWN * min(reputation.bit_length(), MOST_DIGITS)
    points += SHARED * min(holders, MOST_SHARED)
    points += NEW * MONTH // (MONTH + age)
    points += LIGHT * SMALL // (SMALL + size)
    points += DEEP * rank.bit_length()
    if not base:
        points //= NO_BASE
    if not held and size > free:
        points //= NO_ROOM
    return points


def reference(batch: Batch) -> None:
    """Each adapter by itself."""
    free = batch.context["free"]
    names = ("base", "owned", "bytes", "rank", "holders", "reputation", "age", "held")
    columns = [batch.column(ADAPTERS, name).tolist() for name in names]
    batch.answered(
        SCORE,
        [
            score_of(
                base=base,
                owned=owned,
                size=size,
                rank=rank,
                holders=holders,
                reputation=reputation,
                age=age,
                held=held,
                free=free,
            )
            for base, owned, size, rank, holders, reputation, age, held in zip(
                *columns, strict=True
            )
        ],
    )


# -- inputs to try -------------------------------------------------------------------------


def generate(draw: Draw, rows: int) -> Batch:
    """Catalogs of all kinds: a newcomer's, a collector's, a flood of twins, all at extremes."""
    shape = draw.integer(0, 5)
    table: dict[str, list[int]]
    if shape == 0:  # anything at any magnitude
        table = {
            c.name: [c.least + draw.size(c.most - c.least) for _ in range(rows)] for c in _COLUMNS
        }
    elif shape == 1:  # each column one of its bounds
        table = {
            c.name: [c.most if draw.chance(1, 2) else c.least for _ in range(rows)]
            for c in _COLUMNS
        }
    else:
        usual = [_usual(draw) for _ in range(1 if shape == 2 else rows)]  # 2: all alike
        table = {c.name: [usual[at % len(usual)][c.name] for at in range(rows)] for c in _COLUMNS}
    context = {
        "free": draw.size(MOST_BYTES) if draw.chance(1, 2) else draw.size(1 << 30),
        "spare": draw.size(1 << 30),
        "wanted": draw.integer(1, 4),
    }
    return Batch.of(SLOT, context, {ADAPTERS: table})


def _usual(draw: Draw) -> dict[str, int]:
    """A row as catalogs have them."""
    held = draw.chance(1, 6)
    here = draw.chance(1, 2)
    return {
        "base": 0 if not here else MILLE if draw.chance(2, 3) else draw.integer(1, MILLE),
        "owned": int(here and draw.chance(1, 2)),
        "bytes": draw.size(1 << 30),
        "rank": 1 << draw.integer(0, 7),
        "holders": draw.integer(1, 6),
        "reputation": 0 if draw.chance(1, 2) else draw.size(20_000),
        "age": draw.size(120 * 86_400),
        "held": int(held),
        "own": int(held and draw.chance(1, 4)),
    }


# -- what every implementation keeps --------------------------------------------------------


def _base(run: Run, batch: Batch, draw: Draw) -> str:
    return moves(run, batch, draw, name="base", output=SCORE, sign=1)


def _reputation(run: Run, batch: Batch, draw: Draw) -> str:
    return moves(run, batch, draw, name="reputation", output=SCORE, sign=1)


def _size(run: Run, batch: Batch, draw: Draw) -> str:
    return moves(run, batch, draw, name="bytes", output=SCORE, sign=-1)


_COLUMNS = (
    Column("base", "thousandths", 0, MILLE, "of its base model's bytes that are here"),
    Column("owned", "0 or 1", 0, 1, "whether the base is here because the owner wants it"),
    Column("bytes", "bytes", 0, MOST_BYTES, "of the adapter's file"),
    Column("rank", "count", 1, MAX_RANK, "of its factors"),
    Column("holders", "count", 0, MOST_HOLDERS, "alive that announce it, this daemon too"),
    Column(
        "reputation",
        "points",
        0,
        MOST_REPUTATION,
        "of its author on the ledger; until its manifest is here, of who announces it and has most",
    ),
    Column("age", "s", 0, MOST_SECONDS, "since the oldest announcement of it that is in force"),
    Column("held", "0 or 1", 0, 1, "whether all of it is here"),
    Column("own", "0 or 1", 0, 1, "whether this daemon announces it"),
)

SLOT = Slot(
    name=NAME,
    abi=1,
    risk=Risk.MEDIUM,
    text="Scores announced adapters for this machine: which are listed, and fetched, first.",
    context=(
        Column("free", "bytes", 0, MOST_BYTES, "that the owner has left of the quota"),
        Column("spare", "bytes", 0, MOST_BYTES, "that may still be held for others"),
        Column("wanted", "count", 1, 64, "copies that each adapter should have in the network"),
    ),
    tables=(Table(ADAPTERS, MAX_ROWS, _COLUMNS, "all adapters that are announced"),),
    answers=ADAPTERS,
    outputs=(Column(SCORE, "points", 0, MOST_SCORE, "the higher, the earlier it is taken"),),
    goal=Goal(
        name="place of the choice",
        unit="place",
        higher_is_better=False,
        text="the place, from 1, that an adapter had in the list when the owner then pulled it",
    ),
    limits=Limits(fuel=200_000, fuel_per_row=4_000, memory_pages=256),
    reference=reference,
    generate=generate,
    invariants=(
        Invariant("permuted", "Rows in another order have the same answers.", permuted),
        Invariant("base", "More of the base being here never lowers a score.", _base),
        Invariant("reputation", "More reputation never lowers a score.", _reputation),
        Invariant("size", "More bytes never raise a score.", _size),
    ),
)
