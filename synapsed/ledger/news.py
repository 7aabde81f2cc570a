"""What the ratified ledger has come to say, as events, each with the entry that says it.

    ledger.ratified      a run of entries, and the certificate that covers them
    ledger.caught-up     we have what others have, after we had not
    proposal.opened, proposal.counted, proposal.voted, proposal.approved, proposal.closed
    parameter.changed, human-key.changed
    upgrade.accepted     the vote is for it; its rollout begins later
    upgrade.stage, upgrade.settled, upgrade.rolled-back, upgrade.lapsed
    upgrade.reported, upgrade.refused    what a daemon says of one in its rollout
    training.opened      a model is trained, or by another plan
    checkpoint.judged    a member's verdict on a checkpoint
    checkpoint.ratified  the head that newcomers pull is another one
    exclusion.judged     a member's verdict on what somebody is accused of
    training.excluded    who was caught has no office for some epochs
    council.epoch, council.seated, council.unseated, council.guilt

Every daemon tells the same of the same entry: the fields but `milliseconds` are the ledger's.
`certificate` is EPOCH/TERM/INDEX of a ratification that covers the entry: two daemons may hold
different ones for the same entry, and the chain hash in each covers it.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from protocols.changes import UpgradeChange
from protocols.cid import cid_of, cid_text
from protocols.follow.chain import Advanced
from protocols.keytext import key_text
from protocols.ledger import entries as e
from protocols.ledger.council import Certificate, Council
from protocols.ledger.fold import LedgerState
from protocols.ledger.upgrades import rollout_of
from protocols.peerid import peer_id_text
from synapsed.process import supervise

MAX_VOTED = 32
"""Votes of one entry that are told one by one: a full batch would be 512 events at once."""
RECENT = 1024
"""Entries whose way to ratification is remembered for the median and the like."""

_JUDGED = {"improved": "checkpoint.judged", "wrong": "exclusion.judged"}
_STAGE_EVENTS = {
    "open": "upgrade.stage",
    "settle": "upgrade.settled",
    "rollback": "upgrade.rolled-back",
    "lapse": "upgrade.lapsed",
}
_NOTE, _TICK = b"\xa6dbody\xa2dkinddnote", b"\xa2dkinddtick"
"""How the canonical encodings of all notes, and of all ticks, begin: nothing follows from either
but that it is there, and they are most of what there is."""


class News:
    """Told of everything that is ratified, in order."""

    def __init__(self, me: bytes, ledger: LedgerState, emit: supervise.Emit) -> None:
        self._me = me
        self._emit = emit
        self._params: Mapping[str, int] = ledger.params
        self._council = ledger.council
        self._behind = False
        self.signed: dict[bytes, int] = {}
        """The highest index that each member's signature in a certificate of this epoch covers."""
        self.terms_lost = 0
        """Terms that ended by time-outs since the start."""
        self.entries: Counter[str] = Counter()
        """Ratified here since the start, by kind."""
        self._slots: dict[bytes, str] = {}
        """Of rollouts that were seen: at the end of a long run of entries one may be over."""
        self.milliseconds: deque[float] = deque(maxlen=RECENT)
        """From an entry's first sight here to its ratification here."""

    def advanced(self, news: Advanced, ledger: LedgerState, milliseconds: float | None) -> None:
        """`news` is ratified, and folded into `ledger`."""
        said = news.certificate.said
        named = certificate_text(news.certificate)
        if milliseconds is not None:
            self.milliseconds.append(milliseconds)
        self._emit(
            "ledger.ratified",
            index=said.index,
            hash=said.hash.hex(),
            epoch=said.epoch,
            term=said.term,
            entries=len(news.payloads),
            certificate=named,
            milliseconds=milliseconds,
        )
        for index, payload in enumerate(news.payloads, news.first):
            if payload.startswith(_NOTE):
                self.entries["note"] += 1
            elif payload.startswith(_TICK):
                self.entries["tick"] += 1
            else:
                self._entry(index, payload, ledger, named)
        self._council_of(ledger)
        if said.epoch == ledger.epoch:
            seats = ledger.council.seats
            self.signed.update((seats[n].identity, said.index) for n in news.certificate.seats)

    def emit(self, kind: str, /, **fields: Any) -> None:
        """What the machine itself has to tell passes through here."""
        if kind == "council.timeout":
            self.terms_lost += 1
        self._emit(kind, **fields)

    def behind(self, count: int, index: int) -> None:
        """So many entries after `index` are ratified, and not here yet."""
        if count and not self._behind:
            self._emit("ledger.behind", index=index, heard=index + count)
        elif not count and self._behind:
            self._emit("ledger.caught-up", index=index)
        self._behind = count > 0

    def _entry(self, index: int, payload: bytes, ledger: LedgerState, named: str) -> None:
        entry = e.decode_entry(payload).entry
        body = entry.body if isinstance(entry, e.Submission) else entry
        self.entries[str(body.__struct_config__.tag)] += 1
        about = {"index": index, "certificate": named}
        match body:
            case e.Proposal(manifest):
                self._opened(manifest, about, ledger)
            case e.Votes(polls):
                for poll in polls:
                    self._counted(poll, about, ledger)
            case e.Approval(proposal, key):
                names = {one: name for name, one in ledger.humans.items()}
                who = names.get(key, key_text(key))
                self._emit("proposal.approved", proposal=cid_text(proposal), name=who, **about)
            case e.Outcome():
                self._emit(
                    "proposal.closed",
                    proposal=cid_text(body.proposal),
                    accepted=body.accepted,
                    reason=body.reason,
                    yes=body.yes,
                    no=body.no,
                    weight=body.weight,
                    **about,
                )
                if body.accepted:
                    self._accepted(body.proposal, about, ledger)
            case e.ParameterEntry():
                self._changed(body, about)
            case e.HumanKeyEntry():
                self._emit(
                    "human-key.changed",
                    action=body.action,
                    name=body.name,
                    key=key_text(body.key),
                    proposal=cid_text(body.proposal),
                    **about,
                )
            case e.StageEntry():
                self._stage(body, about)
            case e.Verdict():
                assert isinstance(entry, e.Submission)
                self._judged(entry.author, body, about)
            case e.Report():
                assert isinstance(entry, e.Submission)
                self._reported(entry.author, body, about, ledger)
            case e.GuiltProof(proof):
                self._guilt(proof.seat, proof.epoch, about, ledger)

    def _judged(self, author: bytes, said: e.Verdict, about: dict[str, object]) -> None:
        """Of what members measure or recompute; that something can be fetched is only counted."""
        kind = _JUDGED.get(said.claim)
        if kind is None:
            return
        measured = _interval(said.interval) if said.claim == "improved" else {}
        self._emit(
            kind,
            proposal=cid_text(said.proposal),
            peer=peer_id_text(author),
            holds=said.holds,
            **measured,
            **about,
        )

    def _opened(self, manifest: bytes, about: dict[str, object], ledger: LedgerState) -> None:
        cid = cid_of(manifest)
        being = ledger.open.get(cid)
        if being is None:  # it was closed again in the same run of entries
            self._emit("proposal.opened", proposal=cid_text(cid), **about)
            return
        terms = being.terms
        self._emit(
            "proposal.opened",
            proposal=cid_text(cid),
            title=terms.manifest.title,
            risk=terms.risk.word,
            author=peer_id_text(terms.author),
            closes=terms.closes_at / 1000,
            **about,
        )

    def _counted(self, poll: e.Poll, about: dict[str, object], ledger: LedgerState) -> None:
        being = ledger.open.get(poll.proposal)
        proposal = cid_text(poll.proposal)
        no, yes, abstain = being.count if being is not None else (None, None, None)
        votes = len(poll.ballots)
        self._emit(
            "proposal.counted",
            proposal=proposal,
            votes=votes,
            yes=yes,
            no=no,
            abstain=abstain,
            **about,
        )
        for ballot in poll.ballots if votes <= MAX_VOTED else ():
            self._emit(
                "proposal.voted",
                proposal=proposal,
                voter=peer_id_text(ballot.voter),
                choice=e.CHOICES[ballot.choice],
                weight=being.weights.points.get(ballot.voter, 0) if being is not None else None,
                **about,
            )

    def _changed(self, entry: e.ParameterEntry, about: dict[str, object]) -> None:
        before = self._params
        self._params = {**before, **{each.name: each.value for each in entry.settings}}
        for each in entry.settings:
            self._emit(
                "parameter.changed",
                name=each.name,
                value=each.value,
                before=before.get(each.name),
                proposal=cid_text(entry.proposal),
                **about,
            )

    def _accepted(self, cid: bytes, about: dict[str, object], ledger: LedgerState) -> None:
        self._trained(cid, about, ledger)
        for each in ledger.executions:  # unless its rollout began in the same run of entries
            if each.proposal == cid and isinstance(each.change, UpgradeChange):
                change = each.change
                self._emit(
                    "upgrade.accepted",
                    slot=change.slot,
                    version=change.version,
                    module=change.module.hex(),
                    proposal=cid_text(cid),
                    begins=each.due_at / 1000,
                    **about,
                )

    def _trained(self, cid: bytes, about: dict[str, object], ledger: LedgerState) -> None:
        for who, found in sorted(ledger.exclusions.items()):
            if found.proposal == cid:
                self._emit(
                    "training.excluded",
                    model=cid_text(found.training),
                    peer=peer_id_text(who),
                    epoch=found.epoch,
                    until=found.until,
                    lost=found.lost,
                    proposal=cid_text(cid),
                    **about,
                )
        for lineage, training in sorted(ledger.trainings.items()):
            model = cid_text(lineage)
            if training.proposal == cid:
                self._emit("training.opened", model=model, proposal=cid_text(cid), **about)
            for each in training.chain:
                if each.proposal == cid:
                    self._emit(
                        "checkpoint.ratified",
                        model=model,
                        checkpoint=cid_text(each.manifest),
                        **_interval(each.interval),
                        proposal=cid_text(cid),
                        **about,
                    )

    def _stage(self, entry: e.StageEntry, about: dict[str, object]) -> None:
        self._slots[entry.proposal] = entry.slot
        self._emit(
            _STAGE_EVENTS[entry.event],
            slot=entry.slot,
            version=entry.version,
            permille=entry.permille,
            reason=entry.reason,
            low=entry.low,
            high=entry.high,
            reports=entry.reports,
            traps=entry.traps,
            proposal=cid_text(entry.proposal),
            **about,
        )

    def _reported(
        self, author: bytes, report: e.Report, about: dict[str, object], ledger: LedgerState
    ) -> None:
        slot = rollout_of(ledger, report.proposal)
        self._emit(
            "upgrade.refused" if report.status == "refused" else "upgrade.reported",
            peer=peer_id_text(author),
            slot=self._slots.get(report.proposal) if slot is None else slot.slot,
            permille=report.stage,
            status=report.status,
            gain=report.gain,
            pairs=report.pairs,
            calls=report.calls,
            traps=report.traps,
            disagreements=report.disagreements,
            fuel=report.fuel,
            proposal=cid_text(report.proposal),
            **about,
        )

    def _guilt(self, seat: int, epoch: int, about: dict[str, object], ledger: LedgerState) -> None:
        councils = {one.epoch: one for one in (*ledger.past, ledger.council)}
        council = councils.get(epoch)
        peer = peer_id_text(council.seats[seat].identity) if council is not None else None
        self._emit("council.guilt", peer=peer, seat=seat, epoch=epoch, **about)

    def _council_of(self, ledger: LedgerState) -> None:
        council, before = ledger.council, self._council
        if council.epoch == before.epoch:
            return
        self._council = council
        self.signed.clear()
        self._emit(
            "council.epoch",
            epoch=council.epoch,
            index=council.start.index,
            seats=[peer_id_text(seat.identity) for seat in council.seats],
            changed=_changed_seats(before, council),
        )
        was, now = before.seat_of(self._me), council.seat_of(self._me)
        if was is None and now is not None:
            self._emit("council.seated", epoch=council.epoch, seat=now)
        elif was is not None and now is None:
            self._emit("council.unseated", epoch=council.epoch, seat=was)


def _interval(found: e.Interval) -> dict[str, int]:
    """Millionths of a nat."""
    return {"low": found.low, "mean": found.mean, "high": found.high}


def certificate_text(certificate: Certificate) -> str:
    """How events name a certificate."""
    said = certificate.said
    return f"{said.epoch}/{said.term}/{said.index}"


def _changed_seats(before: Council, council: Council) -> int:
    """Seats that somebody has who had none."""
    had = {seat.identity for seat in before.seats}
    return sum(seat.identity not in had for seat in council.seats)


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """The median and the 99th percentile; nothing of nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {"p50": ordered[last // 2], "p99": ordered[last * 99 // 100]}
