"""Making somebody's sum or round again, from its inputs: is it what was signed?

Whoever doubts uses this: a learner whose turn it is, the owner (`synapsectl train audit`), a member
of the council (judge.py). What is compared is everything that was signed: of a round the result's
bytes, the version after it, the outer state and the shares; of a sum its values, as the same ones
may be packed in other bytes.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import trio

from protocols.learn.audit import Recompute
from protocols.learn.claims import NOTHING, Round
from protocols.learn.judging import difference
from protocols.learn.partition import Group, version_header
from protocols.plan import Plan
from synapsed.compute import wire
from synapsed.compute.errors import BadDeltaError
from synapsed.training.post import Computing

Paths = Mapping[bytes, Path]
"""Files by sha256."""


async def remake_round(
    compute: Computing, plan: Plan, said: Round, *, base: Path, deltas: Paths, out: Path
) -> str:
    """Which parts of a round its inputs do not make; "" where all is right. `deltas` have its
    inputs and its outer state. Raises ComputeError where that cannot be told here."""
    inputs = [(deltas[each.digest], max(1, each.of)) for each in said.inputs]
    state = None if said.before == NOTHING else deltas[said.before]
    try:
        made = await compute.aggregate(
            plan, said.number, said.group, base, inputs=inputs, out=out, state=state
        )
    except BadDeltaError:
        return "inputs"
    await trio.to_thread.run_sync(_forget, made)
    if made.bad:
        return "inputs"
    after = made.state
    ours = msgspec.structs.replace(
        said,
        head=made.version.head,
        result=made.result.digest,
        size=made.result.size,
        after=NOTHING if after is None else after.digest,
        after_size=0 if after is None else after.size,
        inputs=tuple(
            msgspec.structs.replace(each, share=share)
            for each, share in zip(said.inputs, made.shares, strict=True)
        ),
    )
    return difference(said, ours)


def _forget(made: wire.Aggregated) -> None:
    paths = [made.result.path, made.version.path]
    if made.state is not None:
        paths.append(made.state.path)
    for path in paths:
        Path(path).unlink(missing_ok=True)


async def remake_sum(
    compute: Computing, plan: Plan, asked: Recompute, *, blank: Path, deltas: Paths, out: Path
) -> bool:
    """Whether a sum, and what it left, are what its parts make. `blank` is from `write_blank`.
    Raises ComputeError where that cannot be told here."""
    inputs = [(deltas[part.blob.digest], part.weight) for part in asked.parts]
    carry = None if asked.carry is None else deltas[asked.carry.digest]
    try:
        made = await compute.combine(plan, asked.number, blank, inputs, out, carry=carry)
    except BadDeltaError:
        return False  # it signed the sum of what cannot be summed
    try:
        if made.bad or not await _same(compute, blank, made.delta, deltas[asked.blob.digest]):
            return False
        left = asked.left
        return left is None or await _same(compute, blank, made.left, deltas[left.digest])
    finally:
        for path in (made.delta.path, made.left.path):
            Path(path).unlink(missing_ok=True)


async def _same(compute: Computing, blank: Path, made: wire.Blob, said: Path) -> bool:
    return await compute.same(blank, Path(made.path), said)


def write_blank(group: Group, path: Path) -> Path:
    """A version's file without values, which takes no room: it says what tiles there are."""
    if not path.exists():
        header = version_header(group.tiles)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + group.bytes)
    return path
