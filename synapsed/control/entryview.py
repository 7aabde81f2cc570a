"""Entries of the ledger as people and scripts read them: pure, from their bytes alone."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from protocols.changes import Change
from protocols.cid import cid_of, cid_text, is_cid
from protocols.errors import NotHeldError
from protocols.follow.history import History
from protocols.keytext import key_text
from protocols.ledger import entries as e
from protocols.ledger.council import Certificate, Council, Fork
from protocols.ledger.errors import MalformedEntryError
from protocols.manifest import ProposalManifest, decode_manifest
from protocols.peerid import PEER_ID_LENGTH, PUBLIC_KEY_LENGTH, peer_id_text
from synapsed.control.ledgermodels import CertificateInfo, EntryInfo

SHORT = 16
"""Characters of an id in a summary, as in the command line's tables."""

_CALENDAR_END = 253_402_300_800_000
"""Milliseconds until the year 10000, which Python's calendar does not reach."""


def certificate_info(certificate: Certificate, council: Council | None) -> CertificateInfo:
    """A certificate of `council`, which is that of its epoch; without it nobody can be named."""
    said = certificate.said
    seats = council.seats if council is not None else ()
    return CertificateInfo(
        kind="ratified" if certificate.ratifies else "certified",
        epoch=said.epoch,
        term=said.term,
        index=said.index,
        hash=said.hash.hex(),
        signers=[peer_id_text(seats[number].identity) for number in certificate.seats if seats],
        seats=len(seats),
    )


def covering(history: History, index: int) -> CertificateInfo | None:
    """The certificate that covers an entry. None for the genesis, and where it is not here."""
    if index == 0:
        return None
    try:
        certificate = history.cover(index)
    except NotHeldError:
        return None
    return certificate_info(certificate, history.council_of(certificate.said.epoch))


def entry_info(
    payload: bytes, *, index: int, epoch: int, chain: bytes, time_ms: int | None
) -> EntryInfo:
    """One entry. `chain` is its chain hash, `time_ms` the ledger's time with it applied."""
    entry = e.decode_genesis(payload) if index == 0 else e.decode_entry(payload).entry
    body = entry.body if isinstance(entry, e.Submission) else entry
    return EntryInfo(
        index=index,
        hash=chain.hex(),
        kind=kind_of(entry),
        epoch=epoch,
        time=None if time_ms is None else time_ms / 1000,
        size=len(payload),
        summary=_SUMMARIES[type(body)](body),
        author=peer_id_text(entry.author) if isinstance(entry, e.Submission) else None,
        body=_shown_body(body),
    )


def kind_of(entry: e.Entry | e.Vote) -> str:
    """The word for an entry's kind; of a submission, that of its body."""
    said = entry.body if isinstance(entry, e.Submission) else entry
    return str(said.__struct_config__.tag)


def proposal_of(body: e.Proposal) -> ProposalManifest:
    """The manifest that a proposal carries."""
    manifest = decode_manifest(body.manifest)
    if not isinstance(manifest, ProposalManifest):
        raise MalformedEntryError("a proposal that carries a manifest of another kind")
    return manifest


# -- in a line ------------------------------------------------------------------------------


def _outcome(said: e.Outcome) -> str:
    word = "accepted" if said.accepted else f"rejected, {said.reason}"
    votes = f"{said.yes} yes, {said.no} no of {said.weight}"
    return f"{_cid(said.proposal)} {word}: {votes}{_gain(said.interval)}"


def _verdict(said: e.Verdict) -> str:
    word = said.claim if said.holds else f"not {said.claim}"
    return f"finds {_cid(said.proposal)} {word}{_gain(said.interval)}"


def _gain(found: e.Interval) -> str:
    """By how much a checkpoint is better, where that was measured."""
    if found == e.NO_INTERVAL:
        return ""
    low, mean, high = (each / 1_000_000 for each in (found.low, found.mean, found.high))
    return f", better by {mean:+.6f} nats ({low:+.6f} to {high:+.6f})"


def _parameters(said: e.ParameterEntry) -> str:
    values = ", ".join(f"{each.name} = {each.value}" for each in said.settings)
    return f"{values}, by {_cid(said.proposal)}"


def _candidacy(said: e.Candidacy) -> str:
    return f"{'stands for' if said.willing else 'would not serve in'} epoch {said.epoch}"


def _stage(said: e.StageEntry) -> str:
    what = f"{said.slot} version {said.version}"
    if said.event == "open":
        step = f"runs for {said.permille / 10:g} %" if said.permille else "is run in shadow"
    else:
        step = {
            "settle": "is settled",
            "rollback": "is the version before again",
            "lapse": "has expired and never begins",
        }[said.event]
    gain = f", gain {_percent(said.low)} to {_percent(said.high)}" if said.low or said.high else ""
    reports = f", {_count(said.reports, 'report')}" if said.reports else ""
    return f"{what} {step} ({said.reason}{gain}{reports})"


def _report(said: e.Report) -> str:
    stage = f"{said.stage / 10:g} %" if said.stage else "shadow"
    what = said.status if said.status != "measured" else f"measured {_percent(said.gain)}"
    traps = f", {_count(said.traps, 'trap')}" if said.traps else ""
    return f"{what} in stage {stage}{traps}: {_cid(said.proposal)}"


def _percent(millionths: int) -> str:
    return f"{millionths / 10_000:+.2f} %"


def _guilt(said: e.GuiltProof) -> str:
    what = "two chains" if isinstance(said.proof, Fork) else "above what its time-out names"
    return f"proves that seat {said.proof.seat} of epoch {said.proof.epoch} signed {what}"


def _poll(poll: e.Poll) -> str:
    counts = dict.fromkeys(("yes", "no", "abstain"), 0)
    for ballot in poll.ballots:
        counts[e.CHOICES[ballot.choice]] += 1
    said = ", ".join(f"{count} {choice}" for choice, count in counts.items() if count)
    return f"{said} on {_cid(poll.proposal)}"


_SUMMARIES: dict[type, Callable[[Any], str]] = {
    e.Genesis: lambda said: (
        f"founds {said.network}: {_count(len(said.seats), 'seat')}, "
        f"{_count(len(said.humans), 'human key')}"
    ),
    e.Tick: lambda said: f"the time is {_utc(said.time)}",
    e.Note: lambda said: said.text,
    e.Proposal: lambda said: f"{_cid(cid_of(said.manifest))} opens: {proposal_of(said).title}",
    e.Votes: lambda said: "; ".join(_poll(poll) for poll in said.polls),
    e.Approval: lambda said: f"{key_text(said.key)[:SHORT]} approves {_cid(said.proposal)}",
    e.Verdict: _verdict,
    e.Outcome: _outcome,
    e.ParameterEntry: _parameters,
    e.HumanKeyEntry: lambda said: (
        f"{said.action}s the key of {said.name}, by {_cid(said.proposal)}"
    ),
    e.StageEntry: _stage,
    e.Report: _report,
    e.Candidacy: _candidacy,
    e.Reveal: lambda said: f"reveals its part of the beacon of epoch {said.epoch}",
    e.Latency: lambda said: (
        f"measured {_count(len(said.measured), 'round trip')} for epoch {said.epoch}"
    ),
    e.GuiltProof: _guilt,
    e.CreditEntry: lambda said: (
        f"{sum(mint.amount for mint in said.mints)} credits for "
        f"{_count(len(said.mints), 'contribution')}"
    ),
    e.ReputationEntry: lambda said: (
        f"the reputation of {_count(len(said.values), 'identity', 'identities')}"
    ),
    e.EpochEntry: lambda said: (
        f"epoch {said.epoch} begins: {_count(len(said.seats), 'seat')}, "
        f"{_count(len(said.members), 'member')}"
    ),
    e.Checkpoint: lambda said: f"the state so far has the digest {said.digest.hex()[:SHORT]}",
}


def _utc(milliseconds: int) -> str:
    if milliseconds >= _CALENDAR_END:
        return f"{milliseconds} ms"
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _cid(cid: bytes) -> str:
    return cid_text(cid)[:SHORT]


def _count(number: int, what: str, several: str = "") -> str:
    return f"{number} {what if number == 1 else several or f'{what}s'}"


# -- in full --------------------------------------------------------------------------------


def _shown_body(said: Any) -> dict[str, Any]:
    """What an entry says, with ids as text."""
    shown: dict[str, Any] = _plain(said)
    if isinstance(said, e.Proposal):
        shown["manifest"] = _plain(proposal_of(said))
        shown["proposal"] = cid_text(cid_of(said.manifest))
    elif isinstance(said, e.Votes):
        for poll in shown["polls"]:
            for ballot in poll["ballots"]:
                ballot["choice"] = e.CHOICES[ballot["choice"]]
    shown.pop("kind", None)
    return shown


def change_shown(change: Change | None) -> dict[str, Any]:
    """What a proposal would change, with ids as text."""
    return {} if change is None else dict(_plain(change))


def _plain(value: Any, field: str = "") -> Any:
    """Structs as named fields (rows too), bytes as the text of what they are."""
    if isinstance(value, bytes):
        return _text(value, field)
    if isinstance(value, msgspec.Struct):
        shown = {name: _plain(getattr(value, name), name) for name in value.__struct_fields__}
        tag = value.__struct_config__.tag
        return shown if tag is None else {"kind": tag, **shown}
    if isinstance(value, list | tuple):
        return [_plain(each, field) for each in value]
    if isinstance(value, Mapping):
        return {str(_plain(name)): _plain(each, field) for name, each in value.items()}
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _text(value: bytes, field: str) -> str:
    if field == "key" and len(value) == PUBLIC_KEY_LENGTH:
        return key_text(value)
    if is_cid(value):
        return cid_text(value)
    return peer_id_text(value) if len(value) == PEER_ID_LENGTH else value.hex()
