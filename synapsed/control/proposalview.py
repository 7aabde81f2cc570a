"""Proposals in the control socket's words: pure readings of a ledger and its entries.

What decides an open one is in the state. Of one that is over the state only keeps how it ended:
its manifest and its count are read from the entries that opened and closed it.
"""

from collections.abc import Iterable

import msgspec

from protocols.changes import ParameterChange, Setting
from protocols.cid import cid_text
from protocols.errors import NotHeldError
from protocols.follow.history import History
from protocols.keytext import key_text
from protocols.ledger import entries as e
from protocols.ledger.params import REGISTRY
from protocols.ledger.possible import why
from protocols.ledger.state import Closed, State
from protocols.ledger.voting import OpenProposal, kind_of
from protocols.manifest import ProposalManifest
from protocols.peerid import peer_id_text
from protocols.risk import Risk
from synapsed.control import entryview
from synapsed.control import ledgermodels as said
from synapsed.control.pastview import Past
from synapsed.control.problems import UnknownError

MAX_PROPOSALS = 200
"""In one list, the newest; each takes two entries from the disk."""
MAX_VOTES = 1000
"""Of one proposal that are shown, the heaviest; the ledger has all."""


class ProposalView:
    """What one daemon, `me`, has: the folded state, and the entries that it comes from."""

    def __init__(self, state: State, history: History, me: bytes, genesis: bytes) -> None:
        """`genesis` is the first entry, which the log does not hold."""
        self._state = state
        self._history = history
        self._me = me
        self._genesis = genesis

    def proposals(self, wanted: said.ProposalState | None) -> list[said.ProposalInfo]:
        """Those of one state, or all; the newest first."""
        state, found = self._state, []
        if wanted in (None, "open"):
            found += [self._open(cid, each) for cid, each in state.open.items()]
            found.sort(key=lambda info: -info.opened)
        if wanted != "open":
            closed = [
                (cid, each)
                for cid, each in state.closed.items()
                if wanted is None or each.accepted == (wanted == "accepted")
            ]
            closed.sort(key=lambda pair: -pair[1].opened)
            found += [self._closed(cid, each) for cid, each in closed[:MAX_PROPOSALS]]
        return found[:MAX_PROPOSALS]

    def past(self, cid: bytes) -> Past | None:
        """What `proposal` needs of one that is closed: its steps are to be run before."""
        ended = self._state.closed.get(cid)
        if ended is None:
            return None
        wanted = [(name, ended.opened) for name in _rules(ended.risk)]
        decided = self._in_force(cid) or ended.closed
        wanted += [(each.name, decided) for each in _settings(self._manifest(ended))]
        return Past(self._state, self._history, self._genesis, (cid, ended), wanted)

    def proposal(self, cid: bytes, past: Past | None = None) -> said.ProposalDetail:
        """One of them; UnknownError."""
        being = self._state.open.get(cid)
        if being is not None:
            return self._open_detail(cid, being)
        ended = self._state.closed.get(cid)
        if ended is None:
            raise UnknownError(
                f"the ledger has no proposal {cid_text(cid)}",
                remedy="`synapsectl proposal ls` lists those that it has",
            )
        manifest = self._manifest(ended)
        outcome = said.OutcomeInfo(
            accepted=ended.accepted,
            reason=ended.reason,
            index=ended.closed,
            time=ended.closed_at / 1000,
            certificate=entryview.covering(self._history, ended.closed),
        )
        found = _detail(self._closed(cid, ended), manifest, outcome=outcome)
        if past is not None:
            self._recall(found, ended, past)
        return found

    def _recall(self, found: said.ProposalDetail, ended: Closed, past: Past) -> None:
        """Put in what the entries of its time say."""
        info = found.proposal
        quorum, threshold = (past.param(name, ended.opened) for name in _rules(ended.risk))
        info.quorum = None if quorum is None else quorum / 1000
        info.threshold = None if threshold is None else threshold / 1000
        found.votes = self._votes(
            (voter, choice, past.weight(voter)) for voter, (_, choice) in past.votes.items()
        )
        ours = past.votes.get(self._me)
        info.our_vote = None if ours is None else _choice(ours[1])
        info.our_weight = past.weight(self._me) or 0
        names = {key: name for name, key in self._state.humans.items()}
        found.approvals = [
            said.ApprovalInfo(name=names.get(key, ""), key=key_text(key), index=index)
            for key, index in sorted(past.approvals.items(), key=lambda pair: pair[1])
            if names.get(key, "") in ("", *info.approvals)
        ]
        for change in found.changes:
            change.before = past.param(change.name, info.in_force or ended.closed)

    def _votes(self, cast: Iterable[tuple[bytes, int, int | None]]) -> list[said.VoteInfo]:
        """(voter, choice, weight) of some, the heaviest first."""
        heaviest = sorted(cast, key=lambda each: (-(each[2] or 0), each[0]))[:MAX_VOTES]
        return [
            said.VoteInfo(
                voter=peer_id_text(voter),
                choice=_choice(choice),
                weight=weight,
                own=voter == self._me,
            )
            for voter, choice, weight in heaviest
        ]

    def _open(self, cid: bytes, being: OpenProposal) -> said.ProposalInfo:
        terms, weights = being.terms, being.weights
        vote = being.vote_of(self._me)
        return said.ProposalInfo(
            cid=cid_text(cid),
            title=terms.manifest.title,
            kind=kind_of(terms.change),
            state="open",
            risk=risk_word(terms.risk),
            author=peer_id_text(terms.author),
            opened=terms.index,
            opened_at=terms.opened_at / 1000,
            closes_at=terms.closes_at / 1000,
            lapses_at=terms.lapses_at / 1000,
            quorum=terms.quorum / 1000,
            threshold=terms.threshold / 1000,
            weight=weights.total,
            yes=being.count[e.YES],
            no=being.count[e.NO],
            abstain=being.count[e.ABSTAIN],
            voters=len(being.votes),
            approvals=[each.name for each in self._approvals(being)],
            approvals_needed=terms.approvals,
            fetchable=being.findings()[0],
            not_fetchable=being.findings()[1],
            verdicts_needed=terms.verdicts,
            our_vote=None if vote is None else _choice(vote[1]),
            our_weight=weights.points.get(self._me, 0),
        )

    def _approvals(self, being: OpenProposal) -> list[said.ApprovalInfo]:
        """By keys that the ledger names still."""
        names = {key: name for name, key in self._state.humans.items()}
        return [
            said.ApprovalInfo(name=names[key], key=key_text(key), index=index)
            for key, index in being.approvals.items()
            if key in names
        ]

    def _open_detail(self, cid: bytes, being: OpenProposal) -> said.ProposalDetail:
        points = being.weights.points
        found = _detail(self._open(cid, being), being.terms.manifest)
        found.ledger = str(self._state.realm)
        found.votes = self._votes(
            (voter, packed & 3, points.get(voter, 0)) for voter, packed in being.votes.items()
        )
        found.approvals = self._approvals(being)
        for change in found.changes:
            change.before = self._state.params[change.name]
        return found

    def _closed(self, cid: bytes, ended: Closed) -> said.ProposalInfo:
        manifest, outcome = self._manifest(ended), self._outcome(ended)
        return said.ProposalInfo(
            cid=cid_text(cid),
            title=manifest.title if manifest is not None else "",
            kind=kind_of(manifest.change) if manifest is not None else "",
            state="accepted" if ended.accepted else "rejected",
            risk=risk_word(ended.risk),
            author=peer_id_text(manifest.author) if manifest is not None else "",
            opened=ended.opened,
            opened_at=ended.opened_at / 1000,
            closed=ended.closed,
            reason=ended.reason,
            due_at=self._due_at(cid),
            in_force=self._in_force(cid),
            closes_at=ended.closed_at / 1000,
            lapses_at=ended.closed_at / 1000,
            weight=outcome.weight if outcome is not None else 0,
            yes=outcome.yes if outcome is not None else 0,
            no=outcome.no if outcome is not None else 0,
            abstain=outcome.abstain if outcome is not None else 0,
            voters=outcome.voters if outcome is not None else 0,
            approvals=list(outcome.approvals) if outcome is not None else [],
            fetchable=outcome.fetchable[0] if outcome is not None else 0,
            not_fetchable=outcome.fetchable[1] if outcome is not None else 0,
        )

    def _due_at(self, cid: bytes) -> float | None:
        due = [each.due_at for each in self._state.executions if each.proposal == cid]
        return due[0] / 1000 if due else None

    def _in_force(self, cid: bytes) -> int | None:
        origins = [(each.proposal, each.index) for each in self._state.origins.values()]
        versions = [slot.current for slot in self._state.slots.values()]
        origins += [(each.proposal, each.index) for each in versions]
        return next((index for proposal, index in origins if proposal == cid), None)

    def _manifest(self, ended: Closed) -> ProposalManifest | None:
        """From the entry that opened it, where that is here."""
        try:
            entry = e.decode_entry(self._history.log.payload(ended.opened)).entry
        except NotHeldError:
            return None
        assert isinstance(entry, e.Submission)
        assert isinstance(entry.body, e.Proposal)
        return entryview.proposal_of(entry.body)

    def _outcome(self, ended: Closed) -> e.Outcome | None:
        try:
            entry = e.decode_entry(self._history.log.payload(ended.closed)).entry
        except NotHeldError:
            return None
        assert isinstance(entry, e.Outcome)
        return entry


def _detail(
    info: said.ProposalInfo,
    manifest: ProposalManifest | None,
    outcome: said.OutcomeInfo | None = None,
) -> said.ProposalDetail:
    if manifest is None:
        text = "(the entry that opened it is from before the checkpoint that we began with)"
        return said.ProposalDetail(proposal=info, text=text, why="", outcome=outcome)
    change = manifest.change
    return said.ProposalDetail(
        proposal=info,
        text=manifest.description,
        why=why(change),
        change=entryview.change_shown(change),
        changes=[
            said.ChangeInfo(name=each.name, value=each.value, unit=REGISTRY[each.name].unit)
            for each in _settings(manifest)
        ],
        links=[cid_text(link) for link in manifest.depends_on],
        outcome=outcome,
    )


def _settings(manifest: ProposalManifest | None) -> tuple[Setting, ...]:
    """The parameters that a proposal would set."""
    change = None if manifest is None else manifest.change
    return change.settings if isinstance(change, ParameterChange) else ()


def _rules(risk: Risk) -> tuple[str, str]:
    """The parameters of a risk class that decide a vote."""
    return f"quorum.{risk.word}", f"threshold.{risk.word}"


def _choice(number: int) -> said.Choice:
    return msgspec.convert(e.CHOICES[number], said.Choice)  # type: ignore[no-any-return]


def risk_word(risk: Risk) -> said.Risk:
    return msgspec.convert(risk.word, said.Risk)  # type: ignore[no-any-return]
