"""What authors submit: whether the ledger allows it, and what it does to the state.

Every submission must live now, be new, and be signed by its author. Notes and proposals count
towards the author's quota of the day, and a newcomer's carry a proof of work; what members of the
council owe it, candidacies and proofs of guilt have bounds of their own instead.
"""

import hashlib
import itertools
from collections.abc import Callable

from protocols.changes import CheckpointChange, ExclusionChange, UpgradeChange
from protocols.cid import cid_of
from protocols.codec import encode
from protocols.envelope import Verify
from protocols.errors import LimitError, MalformedError, SignatureError
from protocols.ledger import exclusion, training
from protocols.ledger.council import PeerId, check_guilt
from protocols.ledger.election import Candidate, reveal_phase
from protocols.ledger.entries import (
    MAX_MEMBERS,
    NO_INTERVAL,
    Candidacy,
    GuiltProof,
    Latency,
    Mint,
    Note,
    Proposal,
    Report,
    Reveal,
    Submission,
    Verdict,
)
from protocols.ledger.errors import (
    BadSignatureError,
    BannedError,
    DailyQuotaError,
    ExpiredError,
    FullError,
    MalformedEntryError,
    NotAMemberError,
    NotOpenError,
    NoWeightError,
    ReplayedError,
    TooEarlyError,
    UnprovenError,
    WorkNeededError,
)
from protocols.ledger.forkmap import ForkMap
from protocols.ledger.possible import check_change
from protocols.ledger.quota import NEWCOMER, distrusted, left, limit, spent
from protocols.ledger.reputation import CREDITS, earned
from protocols.ledger.signing import (
    check_submission,
    commitment_to,
    possession_message,
    submission_id,
    work_subject,
)
from protocols.ledger.state import (
    LARGE,
    MAX_LIFE_MS,
    MAX_OPEN,
    MAX_OPEN_OF_ONE,
    MAX_OPEN_SMALL,
    MAX_OPEN_STRANGERS,
    WINDOW_MS,
    State,
)
from protocols.ledger.upgrades import check_proposed, check_report, fold_report
from protocols.ledger.voting import OpenProposal, Terms, needs_verdicts
from protocols.ledger.work import proves
from protocols.manifest import ProposalManifest, check_text, decode_manifest

MAX_CANDIDACIES = 4
"""Of one identity for one epoch: willing, a new seat key after lost state, and second thoughts."""
_COUNTED = (Note, Proposal)
"""Bodies that take from the quota."""


def check(state: State, said: Submission, unsigned: bytes, verify: Verify) -> bytes:
    """The submission's id. Raises an InvalidEntryError; the signature is looked at last."""
    if said.expires <= state.time:
        raise ExpiredError("the submission has expired", remedy="sign it anew")
    if said.expires > state.time + MAX_LIFE_MS:
        raise TooEarlyError(f"a submission expires within {MAX_LIFE_MS // 60_000} minutes")
    name = submission_id(unsigned)
    known = state.recent.get(said.expires // WINDOW_MS)
    if known is not None and name in known:
        raise ReplayedError("the submission is on the ledger already")
    body = said.body
    if said.author in state.banned and type(body) is not Note:
        raise BannedError("its author was proven guilty")
    if type(body) in _COUNTED:
        _check_quota(state, said)
    _CHECKS[type(body)](state, said, verify)
    check_submission(state.realm, said, unsigned, verify)
    return name


def fold(state: State, said: Submission, name: bytes, index: int) -> None:
    """Take a checked submission, which is the entry at `index`, into the state."""
    span = said.expires // WINDOW_MS
    known = state.recent.get(span)
    if known is None:
        known = ForkMap()
        state.recent = {**state.recent, span: known}
    known.set(name, True)
    body = said.body
    if type(body) in _COUNTED:
        state.standings.set(said.author, spent(state.standing(said.author), state.day))
    if type(body) is not Note:
        _FOLDS[type(body)](state, said, index)


def work_bits(state: State, author: PeerId) -> int:
    """Of the proof of work that a note or proposal of `author` needs; 0 for none."""
    if author in state.weights.points or state.standing(author).trusted:
        return 0
    return state.params["work.bits"]


def _check_quota(state: State, said: Submission) -> None:
    standing = state.standings.get(said.author) or NEWCOMER
    if not left(standing, state.day, state.params):
        raise DailyQuotaError(
            f"its author has submitted {limit(standing, state.params)} times this day",
            remedy="submit it after the ledger's next midnight (UTC)",
        )
    bits = work_bits(state, said.author)
    if not bits:
        return
    for anchor in reversed(state.anchors):
        subject = work_subject(anchor, said.author, said.expires, said.body)
        if proves(state.realm, subject, said.work, bits):
            return
    raise WorkNeededError(
        f"a newcomer's submission needs a proof of work of {bits} bits, made within this hour",
        remedy="let the daemon submit it: it does the work",
    )


def _check_note(_: State, said: Submission, __: Verify) -> None:
    assert isinstance(said.body, Note)
    try:
        check_text(said.body.text, "a note", lines=True)
    except MalformedError as error:
        raise MalformedEntryError(error.message) from error


# -- proposals ---------------------------------------------------------------------------------


def _manifest_of(body: Proposal) -> ProposalManifest:
    try:
        manifest = decode_manifest(body.manifest)
    except (MalformedError, LimitError) as error:
        raise MalformedEntryError(f"a proposal's manifest: {error.message}") from error
    if not isinstance(manifest, ProposalManifest):
        raise MalformedEntryError("the manifest is not a proposal's")
    return manifest


def _check_proposal(state: State, said: Submission, _: Verify) -> None:
    assert isinstance(said.body, Proposal)
    cid = cid_of(said.body.manifest)
    if cid in state.open or cid in state.closed:
        raise ReplayedError(
            "this was proposed before", remedy="say in its text what is different this time"
        )
    manifest = _manifest_of(said.body)
    if manifest.author != said.author:
        raise BadSignatureError("the proposal's author is not who submits it")
    _check_room(state, said.author)
    check_change(manifest.change, state.params, state.humans)
    if isinstance(manifest.change, UpgradeChange):
        check_proposed(state, manifest.change)
    if isinstance(manifest.change, ExclusionChange):
        exclusion.check_author(state, said.author, manifest.change)
    training.check_proposed(state, manifest.change)


def _check_room(state: State, author: PeerId) -> None:
    own = sum(proposal.terms.author == author for proposal in state.open.values())
    weight = state.reputation_of(author)
    room = MAX_OPEN_SMALL if weight else MAX_OPEN_STRANGERS
    if weight and weight * LARGE >= state.weights.total:
        room = MAX_OPEN
    if own >= MAX_OPEN_OF_ONE or len(state.open) >= room:
        raise TooEarlyError(
            f"{own} proposals of its author are open, and {len(state.open)} in all: "
            f"{MAX_OPEN_OF_ONE} and {room} are the most",
            remedy="propose it when one of them has its outcome",
        )


def _fold_proposal(state: State, said: Submission, index: int) -> None:
    assert isinstance(said.body, Proposal)
    cid = cid_of(said.body.manifest)
    manifest = _manifest_of(said.body)
    state.open[cid] = OpenProposal(_terms(state, manifest, index), state.weights)
    state._owned.add(cid)
    state.stats = state.stats.plus(proposals=1)


def _terms(state: State, manifest: ProposalManifest, index: int) -> Terms:
    if isinstance(manifest.change, ExclusionChange):
        return _terms_of_case(state, manifest, index)
    params = state.params
    risk = check_change(manifest.change, params, state.humans)
    closes_at = state.time + params["vote.window_ms"]
    wanted = params.get(f"approvals.{risk.word}", 0)
    is_checkpoint = isinstance(manifest.change, CheckpointChange)
    drawn = training.drawn_in(state) if is_checkpoint else 0
    ends_at = max(closes_at, training.known_at(state, drawn)) if drawn else closes_at
    return Terms(
        manifest=manifest,
        index=index,
        epoch=state.epoch,
        opened_at=state.time,
        closes_at=closes_at,
        lapses_at=ends_at + params["approval.window_ms"],
        risk=risk,
        quorum=params[f"quorum.{risk.word}"],
        threshold=params[f"threshold.{risk.word}"],
        # A network with fewer human keys than the parameter asks for needs all of them, and
        # one without any cannot approve.
        approvals=min(wanted, max(1, len(state.humans))),
        # Of more than two thirds of honest members, a majority of the seats can be had without
        # the liars, and no majority consists of liars.
        verdicts=len(state.council.seats) // 2 + 1 if needs_verdicts(manifest) else 0,
        drawn=drawn,
    )


def _terms_of_case(state: State, manifest: ProposalManifest, index: int) -> Terms:
    """Of what nobody votes on: it is closed from the beginning, and verdicts are waited for as
    long as for other proposals."""
    params = state.params
    return Terms(
        manifest=manifest,
        index=index,
        epoch=state.epoch,
        opened_at=state.time,
        closes_at=state.time,
        lapses_at=state.time + params["vote.window_ms"] + params["approval.window_ms"],
        risk=check_change(manifest.change, params, state.humans),
        quorum=0,
        threshold=0,
        approvals=0,
        verdicts=exclusion.needed(len(state.council.seats)),
        drawn=state.epoch,
    )


def _check_verdict(state: State, said: Submission, _: Verify) -> None:
    body = said.body
    assert isinstance(body, Verdict)
    if body.interval == NO_INTERVAL and body.interval is not NO_INTERVAL:
        # One value has one encoding: what is nothing is left out.
        raise MalformedEntryError("a verdict that spells out that it has no interval")
    proposal = state.opened(body.proposal, "a verdict")
    if state.time >= proposal.terms.lapses_at:
        raise NotOpenError("the time for verdicts is over")
    if not proposal.terms.verdicts:
        raise NotOpenError("the proposal names nothing that a verdict could be about")
    if body.claim != proposal.terms.claim:
        raise NotOpenError(f"a verdict on this proposal says whether it is {proposal.terms.claim}")
    if proposal.terms.drawn:
        training.check_verdict(state, proposal.terms, said.author, body)
    elif body.interval != NO_INTERVAL:
        raise UnprovenError("an interval of what nobody measures")
    elif state.council.seat_of(said.author) is None:
        raise NotAMemberError("a verdict of somebody who has no seat in the council")
    if said.author in proposal.verdicts:
        raise ReplayedError("a member's second verdict")


def _fold_verdict(state: State, said: Submission, _: int) -> None:
    body = said.body
    assert isinstance(body, Verdict)
    proposal = state.own(body.proposal)
    proposal.verdicts = {**proposal.verdicts, said.author: body.holds}
    if proposal.terms.drawn and not proposal.terms.by_verdicts:
        proposal.intervals = {**proposal.intervals, said.author: body.interval}


# -- elections ---------------------------------------------------------------------------------


def _check_report(state: State, said: Submission, _: Verify) -> None:
    check_report(state, said)


def _check_candidacy(state: State, said: Submission, verify: Verify) -> None:
    body = said.body
    assert isinstance(body, Candidacy)
    _check_next_epoch(state, body.epoch)
    ends, _ = reveal_phase(state.epoch_started, state.params["council.epoch_ms"])
    if state.time >= ends:
        raise ExpiredError(
            f"candidacies for epoch {body.epoch} have ended", remedy="stand for the next epoch"
        )
    if said.author not in state.weights.points:
        raise NoWeightError("a candidate needs reputation")
    before = state.candidates.get(said.author)
    if before is not None and before.count >= MAX_CANDIDACIES:
        raise ReplayedError(f"{MAX_CANDIDACIES} candidacies for one epoch are the most")
    if before is None and len(state.candidates) >= MAX_MEMBERS:
        raise FullError(f"{MAX_MEMBERS} candidates are the most")
    for seat in state.council.seats:
        if seat.key == body.key and seat.identity != said.author:
            raise ReplayedError("the seat key is another member's")
    for identity, candidate in state.candidates.items():
        if candidate.key == body.key and identity != said.author:
            raise ReplayedError("the seat key is another candidate's")
    message = possession_message(state.realm, said.author, body.epoch, body.key)
    if not verify(body.key, message, body.possession):
        raise BadSignatureError("the seat key did not sign the candidacy that names it")


def _fold_candidacy(state: State, said: Submission, _: int) -> None:
    body = said.body
    assert isinstance(body, Candidacy)
    before = state.candidates.get(said.author)
    count = 1 if before is None else before.count + 1
    candidate = Candidate(body.willing, body.key, body.commitment, count)
    state.candidates = {**state.candidates, said.author: candidate}


def _check_next_epoch(state: State, epoch: int) -> None:
    if epoch <= state.epoch:
        raise ExpiredError(f"about epoch {epoch}, in epoch {state.epoch}")
    if epoch > state.epoch + 1:
        raise TooEarlyError(f"about epoch {epoch}, in epoch {state.epoch}")


def _seat_of(state: State, author: bytes) -> int:
    seat = state.council.seat_of(author)
    if seat is None:
        raise NotAMemberError("only members of the council state this")
    return seat


def _check_reveal(state: State, said: Submission, _: Verify) -> None:
    body = said.body
    assert isinstance(body, Reveal)
    _check_next_epoch(state, body.epoch)
    seat = _seat_of(state, said.author)
    begins, ends = reveal_phase(state.epoch_started, state.params["council.epoch_ms"])
    if state.time < begins:
        raise TooEarlyError("a secret is revealed when candidacies have ended")
    if state.time >= ends:
        raise ExpiredError("the epoch has ended")
    if seat in state.reveals:
        raise ReplayedError("a member's second reveal")
    candidate = state.candidates.get(said.author)
    if candidate is None or candidate.commitment != commitment_to(body.secret):
        raise UnprovenError("not the secret that its author committed to")


def _fold_reveal(state: State, said: Submission, _: int) -> None:
    assert isinstance(said.body, Reveal)
    seat = _seat_of(state, said.author)
    state.reveals = {**state.reveals, seat: said.body.secret}


def _check_latency(state: State, said: Submission, _: Verify) -> None:
    body = said.body
    assert isinstance(body, Latency)
    _check_next_epoch(state, body.epoch)
    seat = _seat_of(state, said.author)
    if state.time >= state.epoch_started + state.params["council.epoch_ms"]:
        raise ExpiredError("the epoch has ended")
    if seat in state.measured:
        raise ReplayedError("a member's second report for one epoch")
    measured = [each.identity for each in body.measured]
    if any(a >= b for a, b in itertools.pairwise(measured)):
        raise MalformedEntryError("measurements out of order, or one twice")


def _fold_latency(state: State, said: Submission, _: int) -> None:
    assert isinstance(said.body, Latency)
    seat = _seat_of(state, said.author)
    state.measured = {**state.measured, seat: said.body.measured}


# -- guilt -------------------------------------------------------------------------------------


def _check_guilt(state: State, said: Submission, verify: Verify) -> None:
    assert isinstance(said.body, GuiltProof)
    proof = said.body.proof
    council = state.council_of(proof.epoch)
    if council is None:
        raise ExpiredError(f"a proof of guilt in epoch {proof.epoch}, which is not remembered")
    try:
        seat = check_guilt(state.realm, council, proof, verify)
    except SignatureError as error:
        raise UnprovenError(f"a proof of guilt that proves nothing: {error.message}") from error
    if seat.identity in state.banned:
        raise ReplayedError("its guilt is on the ledger")
    if seat.identity == said.author:
        raise UnprovenError("nobody reports itself")


def _fold_guilt(state: State, said: Submission, index: int) -> None:
    assert isinstance(said.body, GuiltProof)
    proof = said.body.proof
    council = state.council_of(proof.epoch)
    assert council is not None
    guilty = council.seats[proof.seat].identity
    lost = state.reputation_of(guilty)
    state.banned = {**state.banned, guilty: index}
    state.reweigh({guilty: 0}, index)
    state.revalued = {who: value for who, value in state.revalued.items() if who != guilty}
    state.standings.set(guilty, distrusted(state.standing(guilty)))
    state.stats = state.stats.plus(guilt=1)
    amount = CREDITS["detection"]
    if lost >= max(amount, earned(amount, state.params["reputation.per_credit"])):
        evidence = hashlib.sha256(encode(proof)).digest()
        state.mints = (*state.mints, Mint(said.author, "detection", amount, evidence))


_CHECKS: dict[type, Callable[[State, Submission, Verify], None]] = {
    Note: _check_note,
    Proposal: _check_proposal,
    Verdict: _check_verdict,
    Candidacy: _check_candidacy,
    Reveal: _check_reveal,
    Latency: _check_latency,
    GuiltProof: _check_guilt,
    Report: _check_report,
}
_FOLDS: dict[type, Callable[[State, Submission, int], None]] = {
    Proposal: _fold_proposal,
    Verdict: _fold_verdict,
    Candidacy: _fold_candidacy,
    Reveal: _fold_reveal,
    Latency: _fold_latency,
    GuiltProof: _fold_guilt,
    Report: fold_report,
}
