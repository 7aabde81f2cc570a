"""Trainings on the ledger: what may be proposed, how a checkpoint is judged, and who earns by it.

    training     proposal -> votes, verdicts ("fetchable") -> outcome: opened, or by another plan
    checkpoint   proposal -> votes; the sample is drawn; verdicts ("improved") -> outcome: the head

Both are in force at their outcome's index: nobody has to make ready for them.

The sample. Which windows of the evaluation set judge a checkpoint is drawn from the beacon of the
first epoch whose secrets were all hidden when it was proposed: the next one, or, where reveals had
begun, the one after. The child's content id stands in the proposal, so its author committed to it
before anybody knew the sample. Who can bias it: k members of the council together, one of whom may
be the author, choose among 2^k samples by keeping their secrets back (election.py), and nobody
else. A hash of a later entry would be the leader's to choose, some 20,000 times a tick. The
author can propose again and have another draw; each costs a vote.

The verdicts are those of that epoch's council, a fixed set of seats, of which more than two thirds
must find the same. Fewer than a third of liars carry nothing: no worse checkpoint in, no better
one out; what the ledger remembers of the gain, the lower medians, lies within what the honest
measured. A member that cannot evaluate says nothing.

Credits. A checkpoint mints CREDITS["training"], by the shares that members recomputed from the
evidence. Nobody earns where the votes without its own, or more than half of the other seats, did
not carry the checkpoint. Checkpoints of one training follow each other, each voted on, and no
round counts twice (`heads`), so that slicing progress into many small ones gains little: one takes
a vote's whole window.
"""

from collections.abc import Sequence

import msgspec

from protocols.changes import (
    AdoptionChange,
    CheckpointChange,
    ExclusionChange,
    Share,
    TrainingChange,
)
from protocols.ledger import exclusion
from protocols.ledger.election import reveal_phase
from protocols.ledger.entries import NO_INTERVAL, EpochEntry, Interval, Mint, Verdict
from protocols.ledger.errors import (
    ClashError,
    FullError,
    InvalidEntryError,
    NoChangeError,
    NotAMemberError,
    ReplayedError,
    TooEarlyError,
    UnprovenError,
)
from protocols.ledger.reputation import CREDITS
from protocols.ledger.state import State
from protocols.ledger.trainings import (
    MAX_CHAIN,
    MAX_CONTRIBUTORS,
    MAX_TRAININGS,
    Contribution,
    Ratified,
    Training,
)
from protocols.ledger.voting import OpenProposal, Terms, passes_without

MILLE = 1000


# -- what may be proposed ----------------------------------------------------------------------


def check_proposed(state: State, change: object) -> None:
    """Raise an InvalidEntryError unless a change of this file's kinds may be voted on now."""
    if isinstance(change, TrainingChange):
        _check_training(state, change)
    elif isinstance(change, CheckpointChange):
        _check_checkpoint(state, change)
    elif isinstance(change, ExclusionChange):
        exclusion.check_proposed(state, change)
    elif isinstance(change, AdoptionChange) and change.manifest in state.datasets:
        raise NoChangeError("this dataset is adopted already")


def _check_training(state: State, change: TrainingChange) -> None:
    training = state.trainings.get(change.model)
    if training is None:
        if len(state.trainings) >= MAX_TRAININGS:
            raise FullError(f"{MAX_TRAININGS} trainings are the most")
        return
    if training.plan.group_bytes != change.plan.group_bytes:
        raise ClashError(
            f"the model's groups have {training.plan.group_bytes} bytes at most, and cannot be "
            "cut otherwise while it is trained",
            remedy="keep group_bytes, or begin a training of the newest checkpoint",
        )
    now = (training.plan, training.evaluation, training.windows, training.margin)
    if now == (change.plan, change.evaluation, change.windows, change.margin):
        raise NoChangeError("the model is trained by this plan already")


def _check_checkpoint(state: State, change: CheckpointChange) -> None:
    training = state.trainings.get(change.training)
    if training is None:
        raise ClashError(
            "a checkpoint of a model that is not being trained",
            remedy="have its training accepted first",
        )
    if change.manifest in (each.manifest for each in training.chain):
        raise ReplayedError("a checkpoint that was ratified before")
    if change.parent != training.head:
        raise ClashError(
            "a checkpoint of a parent that is not the training's head",
            remedy="make one from the newest checkpoint",
        )
    if change.heads == training.heads:
        raise NoChangeError("a checkpoint without a round since its parent")


def possible(state: State, terms: Terms) -> bool:
    """Whether a change that votes and verdicts accept can still be carried out."""
    change = terms.change
    try:
        check_proposed(state, change)
    except InvalidEntryError:
        return False
    # Its members judged it by what was in force when it was proposed.
    return not isinstance(change, CheckpointChange) or (
        state.trainings[change.training].index < terms.index
    )


# -- the sample and the verdicts ---------------------------------------------------------------


def drawn_in(state: State) -> int:
    """The first epoch whose beacon nobody can know yet."""
    begins, _ = reveal_phase(state.epoch_started, state.params["council.epoch_ms"])
    return state.epoch + (1 if state.time < begins else 2)


def known_at(state: State, epoch: int) -> int:
    """The ledger's time by which a coming epoch's beacon is known, if none is late."""
    return state.epoch_started + (epoch - state.epoch) * state.params["council.epoch_ms"]


def seed_of(state: State, proposal: bytes) -> bytes | None:
    """What a checkpoint's sample is drawn by (learn/proof.py); None before it can be known."""
    terms = state.open[proposal].terms
    council = state.council_of(terms.drawn)
    if not terms.drawn or council is None:
        return None
    return b"synapse evaluation" + council.beacon + proposal


def is_judge(state: State, terms: Terms, member: bytes) -> bool:
    """Whether a member's verdict on a checkpoint, or an exclusion, counts now."""
    council = state.council_of(terms.drawn)
    return council is not None and council.seat_of(member) is not None


def check_verdict(state: State, terms: Terms, member: bytes, said: Verdict) -> None:
    """Raise an InvalidEntryError unless the member may say this of a checkpoint, or an exclusion,
    now."""
    if terms.by_verdicts:
        exclusion.check_verdict(state, terms, member, said)
        return
    if state.council_of(terms.drawn) is None:
        raise TooEarlyError(f"the sample is drawn by the beacon of epoch {terms.drawn}")
    if not is_judge(state, terms, member):
        raise NotAMemberError(f"a verdict of somebody without a seat in epoch {terms.drawn}")
    change = terms.change
    assert isinstance(change, CheckpointChange)
    if said.holds and said.interval.low < state.trainings[change.training].margin:
        raise UnprovenError("a verdict that finds more than its own interval shows")


def begin_epoch(state: State, entry: EpochEntry) -> None:
    """The council that judges the checkpoints whose sample is drawn now is that of this epoch."""
    needed = len(entry.seats) * 2 // 3 + 1
    for cid, proposal in list(state.open.items()):
        if proposal.terms.drawn == entry.epoch:
            judged = state.own(cid)
            judged.terms = msgspec.structs.replace(proposal.terms, verdicts=needed)


def median_interval(intervals: Sequence[Interval]) -> Interval:
    """The lower median of each of three numbers. Where fewer than half lie, each is within what
    the others measured."""
    if not intervals:
        return NO_INTERVAL
    middle = (len(intervals) - 1) // 2
    low, mean, high = (
        sorted(getattr(each, name) for each in intervals)[middle]
        for name in Interval.__struct_fields__
    )
    return Interval(low, mean, high)


# -- what is put in force ----------------------------------------------------------------------


def fold_accepted(
    state: State, cid: bytes, proposal: OpenProposal, interval: Interval, index: int
) -> None:
    """Carry out an accepted change, by the outcome at `index`."""
    change = proposal.terms.change
    if isinstance(change, TrainingChange):
        _open(state, change, cid, index)
    elif isinstance(change, CheckpointChange):
        ratified = Ratified(change.manifest, cid, index, change.heads, interval)
        _move_head(state, change, ratified, proposal)
    elif isinstance(change, ExclusionChange):
        exclusion.fold_accepted(state, cid, change, index)
    elif isinstance(change, AdoptionChange) and change.what == "dataset":
        state.datasets = {**state.datasets, change.manifest: index}
        author = proposal.terms.author
        if passes_without(proposal, author) and author not in state.banned:
            state.mints = (*state.mints, Mint(author, "dataset", CREDITS["dataset"], cid))


def _open(state: State, change: TrainingChange, cid: bytes, index: int) -> None:
    before = state.trainings.get(change.model)
    training = Training(
        model=change.model,
        plan=change.plan,
        evaluation=change.evaluation,
        windows=change.windows,
        margin=change.margin,
        proposal=cid,
        index=index,
        opened=index if before is None else before.opened,
        ratified=0 if before is None else before.ratified,
        chain=() if before is None else before.chain,
        contributions=() if before is None else before.contributions,
    )
    state.trainings = {**state.trainings, change.model: training}


def _move_head(
    state: State, change: CheckpointChange, ratified: Ratified, proposal: OpenProposal
) -> None:
    training = state.trainings[change.training]
    earning = [
        share
        for share in change.shares
        if share.identity not in state.banned and _carried_without(state, proposal, share.identity)
    ]
    contributions = _credit(state, training, earning, ratified.proposal)
    moved = msgspec.structs.replace(
        training,
        ratified=training.ratified + 1,
        chain=(*training.chain, ratified)[-MAX_CHAIN:],
        contributions=contributions,
    )
    state.trainings = {**state.trainings, change.training: moved}


def _carried_without(state: State, proposal: OpenProposal, who: bytes) -> bool:
    """Whether votes and verdicts carry a checkpoint without what one contributor said. Of the
    other seats more than half must: where fewer than a third lie, an honest one is among them."""
    council = state.council_of(proposal.terms.drawn)
    assert council is not None
    others = [seat.identity for seat in council.seats if seat.identity != who]
    holds = sum(proposal.verdicts.get(each, False) for each in others)
    return 2 * holds > len(others) and passes_without(proposal, who)


def _credit(
    state: State, training: Training, shares: Sequence[Share], evidence: bytes
) -> tuple[Contribution, ...]:
    """Mint the whole credits among what is now owed; everybody's contributions."""
    earned = {each.identity: each.milli for each in training.contributions}
    for share in shares:
        before = earned.get(share.identity, 0)
        after = earned[share.identity] = before + CREDITS["training"] * share.permille
        amount = after // MILLE - before // MILLE
        if amount:
            mint = Mint(share.identity, "training", amount, evidence)
            state.mints = (*state.mints, mint)
    kept = sorted(earned.items(), key=lambda each: (-each[1], each[0]))[:MAX_CONTRIBUTORS]
    return tuple(Contribution(who, milli) for who, milli in sorted(kept))
