"""Whether a primary's result is what its inputs make: what each replica asks itself of each round.

A round is a pure function of committed things: the version before it, the outer optimiser's state
before it (each named by the record before), and the deltas of the log. So every replica makes it
again, and compares all that the primary said.

    misfit     what can be seen without computing: another round, inputs that the log does not have
    parts_of   what is to be aggregated
    round_of   the round that an aggregate makes; the primary proposes it, the others compare it

Rules of this file:
1. The inputs are deltas of the log, each with its signer and weight, and all that stood when the
   round before closed (roundlog.py, rule 5). Inputs that cannot be used are named as dropped, and
   no others.
2. The plan is one of the training's: the ledger's now, or one before, for the ledgers of three
   daemons are never equally far. Whoever does not know it cannot say, and waits.
3. The outer state is that after the round before, or nothing: a primary that does not have it may
   begin anew, which costs momentum and is no lie.
4. What shows a lie to strangers is a signed round alone: base, state, inputs and what they make. A
   wrong choice of inputs only the group's own replicas can see, who have the log.
"""

from collections.abc import Collection

from protocols.learn.claims import NOTHING, Input, Round
from protocols.learn.messages import Blob
from protocols.learn.round_ports import Aggregated, Part, RoundsSettings, State
from protocols.learn.roundlog import Closed, Pending, RoundLog
from protocols.plan import Plan, plan_digest


def part_of(found: Pending) -> Part:
    """As an input of an aggregate."""
    blob = Blob(found.made.digest, found.made.size)
    return Part(found.source, blob, found.weight, found.is_sum)


def state_after(last: Round | None) -> State | None:
    """The outer state that the round after `last` begins from."""
    if last is None or last.after == NOTHING:
        return None
    return State(last.after, last.after_size)


def misfit(log: RoundLog, closed: Closed) -> str | None:
    """Why a round cannot be right, whatever its inputs make; None: compute it."""
    made, named = closed.round, closed.named(log.pending)
    digests = {entry.digest for entry in made.inputs}
    dropped = set(closed.dropped)
    twice = len(dropped) != len(closed.dropped) or bool(digests & dropped)
    state = state_after(log.last)
    found = {
        "an input stands twice": twice,
        "an input that the log does not have": not all(_stands(log, it) for it in made.inputs),
        "it drops what the log does not have": not log.digests >= dropped,
        "it leaves out what was acknowledged before the last round": not log.carried <= named,
        "it begins from another outer state": made.before
        not in (NOTHING, NOTHING if state is None else state.digest),
    }
    return next((why for why, wrong in found.items() if wrong), None)


def _stands(log: RoundLog, entry: Input) -> bool:
    found = log.pending.get((entry.learner, entry.digest))
    return found is not None and entry.of == (found.weight if found.is_sum else 0)


def parts_of(log: RoundLog, closed: Closed) -> tuple[Part, ...]:
    """What a round was made of, in the order in which it is aggregated."""
    return tuple(part_of(log.pending[key]) for key in sorted(closed.named(log.pending)))


def round_of(
    settings: RoundsSettings,
    log: RoundLog,
    parts: tuple[Part, ...],
    made: Aggregated,
    *,
    bad: Collection[bytes],
    plan: Plan,
) -> Round:
    """The end of the open round that an aggregate of `parts` makes, without the `bad` ones."""
    used = [
        Input(part.source, part.blob.digest, share, part.weight if part.is_sum else 0)
        for part, share in zip(parts, made.shares, strict=True)
        if part.blob.digest not in bad
    ]
    return Round(
        model=settings.model,
        group=settings.group,
        number=log.number,
        epoch=settings.epoch,
        parent=log.head,
        head=made.head,
        result=made.result.digest,
        size=made.result.size,
        inputs=tuple(used),
        plan=plan_digest(plan),
        before=NOTHING if made.before is None else made.before.digest,
        after=NOTHING if made.after is None else made.after.digest,
        after_size=0 if made.after is None else made.after.size,
    )


def difference(said: Round, ours: Round) -> str:
    """Which parts of a round are not as they should be; "" where all are. Who signed it in which
    epoch does not matter."""
    fields = (name for name in Round.__struct_fields__ if name != "epoch")
    return ", ".join(name for name in fields if getattr(said, name) != getattr(ours, name))
