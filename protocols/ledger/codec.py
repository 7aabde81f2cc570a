"""The state of a ledger as bytes: one encoding, so that its hash is the state's digest.

Maps are lists of pairs in order of their keys, as DAG-CBOR has only text for keys. Reputation
stands once, with its changes back to the oldest that an open proposal was opened with: one that
was opened before a change counts by what was before it.
"""

from protocols.changes import Setting
from protocols.codec import Message, decode, encode
from protocols.errors import LimitError, MalformedError
from protocols.ledger.chain import Hash, Index, Spine
from protocols.ledger.council import Council
from protocols.ledger.election import Candidate
from protocols.ledger.entries import Grant, HumanKey, Interval, Measured, Member, Mint, Row
from protocols.ledger.errors import MalformedEntryError
from protocols.ledger.forkmap import ForkMap
from protocols.ledger.quota import Standing
from protocols.ledger.reputation import Weights
from protocols.ledger.rollout import SlotState
from protocols.ledger.state import Closed, Execution, Origin, Reweighing, State, Stats
from protocols.ledger.trainings import Exclusion, Training
from protocols.ledger.voting import OpenProposal, Terms

FORMAT = 4
MAX_STATE = 256 << 20
"""Bytes: some million identities."""


class _Open(Row, frozen=True):
    cid: bytes
    terms: Terms
    weights: int
    """Index of the entry that made the reputation what it was at the opening."""
    votes: list[tuple[bytes, int]]
    verdicts: list[tuple[bytes, bool]]
    intervals: list[tuple[bytes, Interval]]
    approvals: list[tuple[bytes, int]]


class _Recent(Row, frozen=True):
    span: int
    names: list[Hash]


class _Image(Message, frozen=True):
    format: int
    network: str
    genesis: Hash
    spine: list[tuple[Index, Hash]]
    council: Council
    past: list[Council]
    past_members: list[list[Member]]
    time: int
    epoch_started: int
    params: list[Setting]
    origins: list[tuple[str, Origin]]
    reputation: list[Grant]
    reweighed: int
    """Index of the entry that made it so."""
    history: list[Reweighing]
    revalued: list[Grant]
    credits: list[Grant]
    mints: list[Mint]
    humans: list[HumanKey]
    banned: list[tuple[bytes, int]]
    open: list[_Open]
    closed: list[tuple[bytes, Closed]]
    executions: list[Execution]
    standings: list[tuple[bytes, Standing]]
    recent: list[_Recent]
    anchors: list[Hash]
    candidates: list[tuple[bytes, Candidate]]
    reveals: list[tuple[int, bytes]]
    measured: list[tuple[int, list[Measured]]]
    members: list[Member]
    slots: list[SlotState]
    trainings: list[Training]
    datasets: list[tuple[bytes, int]]
    exclusions: list[Exclusion]
    checkpoint: int
    stats: Stats


def encode_state(state: State) -> bytes:
    """The one encoding of a state."""
    return encode(_image(state))


def _grants(points: object) -> list[Grant]:
    assert isinstance(points, dict)
    return [Grant(who, amount) for who, amount in sorted(points.items())]


def _image(state: State) -> _Image:
    return _Image(
        format=FORMAT,
        network=state.network,
        genesis=state.genesis,
        spine=list(state.spine.ancestors),
        council=state.council,
        past=list(state.past),
        past_members=[list(members) for members in state.past_members],
        time=state.time,
        epoch_started=state.epoch_started,
        params=[Setting(name, value) for name, value in sorted(state.params.items())],
        origins=sorted(state.origins.items()),
        reputation=_grants(state.weights.points),
        reweighed=state.weights.index,
        history=list(state.history),
        revalued=_grants(state.revalued),
        credits=_grants(state.credits),
        mints=list(state.mints),
        humans=[HumanKey(name, key) for name, key in sorted(state.humans.items())],
        banned=sorted(state.banned.items()),
        open=[_open_image(cid, proposal) for cid, proposal in sorted(state.open.items())],
        closed=state.closed.items(),
        executions=list(state.executions),
        standings=state.standings.items(),
        recent=[
            _Recent(span, [name for name, _ in names.items()])
            for span, names in sorted(state.recent.items())
        ],
        anchors=list(state.anchors),
        candidates=sorted(state.candidates.items()),
        reveals=sorted(state.reveals.items()),
        measured=[(seat, list(report)) for seat, report in sorted(state.measured.items())],
        members=list(state.members),
        slots=[slot for _, slot in sorted(state.slots.items())],
        trainings=[training for _, training in sorted(state.trainings.items())],
        datasets=sorted(state.datasets.items()),
        exclusions=[each for _, each in sorted(state.exclusions.items())],
        checkpoint=state.checkpoint,
        stats=state.stats,
    )


def _open_image(cid: bytes, proposal: OpenProposal) -> _Open:
    return _Open(
        cid,
        proposal.terms,
        proposal.weights.index,
        proposal.votes.items(),
        sorted(proposal.verdicts.items()),
        sorted(proposal.intervals.items()),
        sorted(proposal.approvals.items()),
    )


def decode_state(data: bytes, state: State) -> None:
    """Make `state` what `encode_state` wrote. Raises MalformedEntryError."""
    try:
        image = decode(data, _Image, MAX_STATE)
    except (MalformedError, LimitError) as error:
        raise MalformedEntryError(f"a saved state of the ledger: {error.message}") from error
    if image.format != FORMAT:
        raise MalformedEntryError(
            f"a saved state of format {image.format}, where this version reads {FORMAT}",
            remedy="rebuild it from the ledger's entries",
        )
    tables = _tables(image)
    state.network, state.genesis = image.network, image.genesis
    state.spine = Spine(tuple(image.spine))
    state.council, state.past = image.council, tuple(image.past)
    state.past_members = tuple(tuple(members) for members in image.past_members)
    state.time, state.epoch_started = image.time, image.epoch_started
    state.params = {each.name: each.value for each in image.params}
    state.origins = dict(image.origins)
    state.weights = tables[image.reweighed]
    state.history = tuple(image.history)
    state.revalued = {each.identity: each.amount for each in image.revalued}
    state.credits = {each.identity: each.amount for each in image.credits}
    state.mints = tuple(image.mints)
    state.humans = {each.name: each.key for each in image.humans}
    state.banned = dict(image.banned)
    state.open = {each.cid: _opened(each, tables[each.weights]) for each in image.open}
    state.closed = ForkMap(image.closed)
    state.executions = tuple(image.executions)
    state.standings = ForkMap(image.standings)
    state.recent = {
        each.span: ForkMap((name, True) for name in each.names) for each in image.recent
    }
    state.anchors = tuple(image.anchors)
    state.candidates = dict(image.candidates)
    state.reveals = dict(image.reveals)
    state.measured = {seat: tuple(report) for seat, report in image.measured}
    state.members = tuple(image.members)
    state.slots = {each.slot: each for each in image.slots}
    state.trainings = {each.model: each for each in image.trainings}
    state.datasets = dict(image.datasets)
    state.exclusions = {each.identity: each for each in image.exclusions}
    state.checkpoint, state.stats = image.checkpoint, image.stats
    if encode_state(state) != data:
        raise MalformedEntryError("a saved state that contradicts itself")


def _tables(image: _Image) -> dict[int, Weights]:
    """The reputation in force and those of open proposals, by walking back from the one."""
    points = {each.identity: each.amount for each in image.reputation}
    wanted = {each.weights for each in image.open}
    index = image.reweighed
    tables = {index: Weights(points, index)}
    for change in reversed(image.history):
        if change.index != index:
            raise MalformedEntryError("a saved state with a gap in its history of reputation")
        points |= {each.identity: each.amount for each in change.values}
        index = change.before
        if index in wanted:
            tables[index] = Weights(points, index)
    if not wanted <= tables.keys():
        raise MalformedEntryError("a saved state whose proposals name reputation that is not there")
    return tables


def _opened(image: _Open, weights: Weights) -> OpenProposal:
    proposal = OpenProposal(image.terms, weights)
    proposal.votes = ForkMap(image.votes)
    for voter, packed in image.votes:
        proposal.count[packed & 3] += weights.points.get(voter, 0)
    proposal.verdicts = dict(image.verdicts)
    proposal.intervals = dict(image.intervals)
    proposal.approvals = dict(image.approvals)
    return proposal
