"""The slot `tile_assignment`: which chunk of a pull is asked for first, and whom it is asked of.

A pull cuts what it lacks into chunks (protocols/tensors/chunks.py) and hands them out to the peers
that have them (protocols/transfer/schedule.py). When it hears who has what, it asks this slot, in
one batch, for the order of the chunks and for each chunk's peers: who may be asked at once, who
after some steps of patience, and, a step later, everybody else. Sets of peers are bit masks: bit i
is row i of `peers`. What an answer cannot do: stop a pull, since patience runs out; ask for what is
here or in flight; ask a peer for what it has not got.
"""

from protocols.draw import Draw
from protocols.risk import Risk
from protocols.slots import checks
from protocols.slots.abi import MAX_ROWS, Batch, Column, Goal, Invariant, Limits, Run, Slot, Table

NAME = "tile_assignment"
PEERS, CHUNKS = "peers", "chunks"

MAX_PEERS = 62
"""Bits of a mask that stays positive; a pull asks two dozen at a time."""
EVERYBODY = (1 << MAX_PEERS) - 1
MOST_WAIT = 8
"""Steps of patience that an answer may ask for: the schedule's patience halves with each, so that
all of them take under 5 seconds."""
MOST_BYTES = 1 << 60
MOST_RANK = (1 << 62) - 1
NOISE_BITS = 48

HELD_WAIT = 2
"""Steps before others are asked for what a peer near by, or a co-puller, has."""


def waits(near: int, holders: int, pullers: int, place: int) -> tuple[int, int, int]:
    """Who is asked for a chunk: (at once, after the wait, the wait in steps).

    Near first: peers elsewhere wait where one near by has it. Sharing: where co-pullers are at
    least as many as the sources, one of them (`place` 0) takes it from a source, and the others
    from that one; a co-puller itself may always be asked.
    """
    far = EVERYBODY & ~near
    place = min(place, MOST_WAIT)
    house = pullers & near
    at_once = house
    near_wait = 0
    if house and house.bit_count() >= (holders & near & ~house).bit_count():
        near_wait = HELD_WAIT if holders & house else place
    if not near_wait:
        at_once |= near
    if holders & near:
        if near_wait and near_wait < HELD_WAIT:
            return at_once, near, near_wait
        if near_wait > HELD_WAIT and not holders & far:
            return at_once, near, near_wait
        return at_once, far if near_wait > HELD_WAIT else EVERYBODY, HELD_WAIT
    crew = pullers & far
    far_wait = place if house else 0
    if crew and not house and crew.bit_count() >= (holders & far & ~crew).bit_count():
        far_wait = HELD_WAIT if holders & crew else place
    return at_once | (crew if far_wait else far), EVERYBODY, far_wait


def reference(batch: Batch) -> None:
    """Rarest first, equally rare ones in an order of our own; peers by `waits`."""
    near = 0
    for at, local in enumerate(batch.column(PEERS, "near")):
        near |= (local & 1) << at
    known: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    answers: list[tuple[int, int, int]] = []
    for key in zip(
        batch.column(CHUNKS, "holders").tolist(),
        batch.column(CHUNKS, "pullers").tolist(),
        batch.column(CHUNKS, "place").tolist(),
        strict=True,
    ):
        found = known.get(key)
        if found is None:
            found = known[key] = waits(near, *key)
        answers.append(found)
    for at, name in enumerate(("first", "second", "wait")):
        batch.answered(name, [answer[at] for answer in answers])
    rarity, noise = batch.column(CHUNKS, "rarity"), batch.column(CHUNKS, "noise")
    order = zip(rarity.tolist(), noise.tolist(), strict=True)
    batch.answered("order", [rare << NOISE_BITS | own for rare, own in order])


def generate(draw: Draw, rows: int) -> Batch:
    """Pulls from one source, from many, in a house of co-pullers, and impossible ones."""
    count = draw.integer(0, MAX_PEERS) if draw.chance(1, 3) else draw.integer(0, 12)
    every = (1 << count) - 1
    peers = {
        "near": [draw.integer(0, 1) for _ in range(count)],
        "rate": [draw.size(1 << 30) for _ in range(count)],
        "given": [draw.size(1 << 40) for _ in range(count)],
        "flying": [draw.size(1 << 26) for _ in range(count)],
    }
    sparse = draw.chance(1, 2)
    pulling = [every & draw.word() & (draw.word() if sparse else -1) for _ in range(4)]
    chunks: dict[str, list[int]] = {column.name: [] for column in _CHUNK_COLUMNS}
    for at in range(rows):
        file = draw.integer(0, 3)
        holders = every & draw.word() & (draw.word() if sparse else -1)
        wanters = pulling[file] & ~holders & draw.word()
        values = {
            "file": file,
            "size": 1 + draw.size(1 << 24),
            "rarity": draw.integer(0, count),
            "noise": draw.size((1 << NOISE_BITS) - 1) if draw.chance(7, 8) else at // 4,
            "holders": holders,
            "pullers": pulling[file],
            "wanters": wanters,
            "place": draw.integer(0, wanters.bit_count()),
        }
        for name, value in values.items():
            chunks[name].append(value)
    context = {"left": sum(chunks["size"]), "flow": draw.size(1 << 30)}
    return Batch.of(SLOT, context, {PEERS: peers, CHUNKS: chunks})


# -- what every implementation keeps --------------------------------------------------------


def _renumbered(run: Run, batch: Batch, draw: Draw) -> str:
    count = batch.rows[0]
    order = checks.shuffled(draw, count)
    place = {old: new for new, old in enumerate(order)}

    def moved_mask(mask: int) -> int:
        return sum((mask >> old & 1) << new for old, new in place.items())

    moved = batch.copy()
    for column in _PEER_COLUMNS:
        values = batch.column(PEERS, column.name)
        moved.fill(PEERS, column.name, [values[old] for old in order])
    for name in ("holders", "pullers", "wanters"):
        masks = batch.column(CHUNKS, name)
        moved.fill(CHUNKS, name, [moved_mask(mask) for mask in masks])
    run(batch)
    run(moved)
    every = (1 << count) - 1
    for name in ("first", "second"):
        mine, theirs = moved.answer(name), batch.answer(name)
        for at in range(batch.rows[1]):
            if mine[at] & every != moved_mask(theirs[at] & every):
                return f"{name} of row {at} depends on how the peers are numbered"
    for name in ("order", "wait"):
        if moved.answer(name) != batch.answer(name):
            return f"{name} depends on how the peers are numbered"
    return ""


def _nobody_waits(run: Run, batch: Batch, _draw: Draw) -> str:
    run(batch)
    first = batch.answer("first")
    holders, pullers = batch.column(CHUNKS, "holders"), batch.column(CHUNKS, "pullers")
    place = batch.column(CHUNKS, "place")
    near = sum(local << at for at, local in enumerate(batch.column(PEERS, "near")))
    for at in range(batch.rows[1]):
        ours = not pullers[at] or not place[at] or pullers[at] & holders[at] & near
        if holders[at] and ours and not first[at] & holders[at]:
            return f"row {at} is held, nobody else brings it, and no holder may be asked at once"
    return ""


_PEER_COLUMNS = (
    Column("near", "0 or 1", 0, 1, "whether it is on the local network"),
    Column("rate", "bytes/s", 0, MOST_BYTES, "at which it sends; 0: not known yet"),
    Column("given", "bytes", 0, MOST_BYTES, "that it has sent in this pull"),
    Column("flying", "bytes", 0, MOST_BYTES, "asked of it and not here yet"),
)
_CHUNK_COLUMNS = (
    Column("file", "number", 0, MOST_BYTES, "of the pull's files"),
    Column("size", "bytes", 1, MOST_BYTES, "of the chunk"),
    Column("rarity", "peers", 0, MAX_PEERS, "that are still collecting and have all of it"),
    Column("noise", "number", 0, (1 << NOISE_BITS) - 1, "of this pull alone, alike in a tile"),
    Column("holders", "mask", 0, EVERYBODY, "peers that have something of it"),
    Column("pullers", "mask", 0, EVERYBODY, "peers that collect its file as we do"),
    Column("wanters", "mask", 0, EVERYBODY, "those of them that lack something of it"),
    Column(
        "place", "number", 0, MAX_PEERS, "ours among the wanters, in a draw that all make alike"
    ),
)

SLOT = Slot(
    name=NAME,
    abi=1,
    risk=Risk.MEDIUM,
    text="Assigns the chunks that a pull lacks to the peers that have them.",
    context=(
        Column("left", "bytes", 0, MOST_BYTES, "that the pull lacks"),
        Column("flow", "bytes/s", 0, MOST_BYTES, "that arrive from everybody"),
    ),
    tables=(
        Table(PEERS, MAX_PEERS, _PEER_COLUMNS, "who may be asked"),
        Table(CHUNKS, MAX_ROWS, _CHUNK_COLUMNS, "what is lacking and not in flight"),
    ),
    answers=CHUNKS,
    outputs=(
        Column("order", "rank", 0, MOST_RANK, "asked for first: the least"),
        Column("first", "mask", 0, EVERYBODY, "peers that may be asked at once"),
        Column("second", "mask", 0, EVERYBODY, "peers that may be asked after the wait"),
        Column("wait", "steps", 0, MOST_WAIT, "of patience; everybody else waits one more"),
    ),
    goal=Goal(
        name="speed",
        unit="bytes/s",
        higher_is_better=True,
        text="of the pull: bytes that came over the seconds in which it asked for them",
    ),
    limits=Limits(fuel=200_000, fuel_per_row=2_000, memory_pages=256),
    reference=reference,
    generate=generate,
    invariants=(
        Invariant("permuted", "Chunks in another order have the same answers.", checks.permuted),
        Invariant("renumbered", "How peers are numbered does not matter.", _renumbered),
        Invariant(
            "nobody waits",
            "Where nobody pulls the same, where we are the first to take it, or where a co-puller"
            " near by has it, a holder may be asked at once.",
            _nobody_waits,
        ),
    ),
)
