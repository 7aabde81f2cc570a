"""What the owner asks of the ledger: to see it, to take part in what it decides, to be shown why.

What is seen are readings of the ratified state (control/ledgerview.py); what is submitted is
signed as this daemon, worked for where a newcomer must, and waited for until the council's
certificate covers it.
"""

import time
from collections.abc import AsyncGenerator
from functools import partial

import trio

from protocols.cid import cid_of, cid_text
from protocols.errors import SynapseError
from protocols.follow.archive import export
from protocols.follow.inclusion import prove_inclusion
from protocols.ledger import entries as e
from protocols.ledger import work
from protocols.ledger.errors import NotAHumanKeyError, NotOpenError, NoWeightError, ReplayedError
from protocols.ledger.possible import check_change
from protocols.ledger.signing import cast, submission_id, submit, work_subject
from protocols.ledger.submissions import work_bits
from protocols.ledger.voting import OpenProposal
from protocols.manifest import encode_manifest
from protocols.realm import Realm
from synapsed.control import drafts, entryview, problems
from synapsed.control import ledgermodels as said
from synapsed.control.ledgerapi import Report
from synapsed.control.ledgerview import View
from synapsed.control.models import Progress
from synapsed.control.problems import NoGenesisError, NotRatifiedError
from synapsed.ledger import silence
from synapsed.ledger.service import LedgerService
from synapsed.parts import Parts

LIFE_MS = 10 * 60 * 1000
"""From the ledger's time at the submission to its expiry: several stalls that heal."""


class Assembly:
    """The ledger's part of NodeApi."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @property
    def _ledger(self) -> LedgerService:
        if self._parts.ledger is None:
            raise NoGenesisError(
                "this daemon was given no genesis, so it follows no ledger",
                remedy="`synapsed init --genesis FILE`, with the file of the network's founders",
            )
        return self._parts.ledger

    def _view(self) -> View:
        service = self._ledger
        me = self._parts.identity.peer_id
        return View(service.ledger, service.history, me, service.genesis)

    # -- seeing --------------------------------------------------------------------------------

    async def ledger(self) -> said.LedgerInfo:
        """The ratified head, and what proves it."""
        service = self._ledger
        machine, state = service.machine, service.ledger
        head = state.head
        return said.LedgerInfo(
            network=service.network,
            genesis=state.genesis.hex(),
            index=head.index,
            hash=head.hash.hex(),
            epoch=state.epoch,
            time=state.time / 1000,
            first=0 if service.history.log.base <= 1 else service.history.log.base,
            heard=head.index + machine.follower.behind,
            role=service.role,
            waiting=len(machine.pool),
            certificate=entryview.covering(service.history, head.index),
            warnings=[
                *service.warnings(),
                *silence.warnings(service, self._parts.liveness.is_alive),
            ],
        )

    async def ledger_entries(self, first: int, count: int) -> said.Entries:
        """Up to `count` entries from `first` (below 0: that many before the end)."""
        return self._view().entries(first, count)

    async def ledger_entry(self, index: int) -> said.EntryDetail:
        """One entry whole; UnknownError."""
        return self._view().entry(index)

    async def ledger_proof(self, index: int) -> bytes:
        """A file that proves one entry to whoever has the genesis; UnknownError."""
        service = self._ledger
        self._view().entry(index)  # raises by what is wrong with the index
        return prove_inclusion(service.network, service.history, index)

    async def ledger_export(self) -> AsyncGenerator[bytes, None]:
        """The ledger with its certificates as a file, in pieces."""
        service = self._ledger
        for piece in export(service.network, service.genesis, service.history):
            yield piece
            await trio.lowlevel.checkpoint()

    async def proposals(self, state: said.ProposalState | None) -> list[said.ProposalInfo]:
        """Those of one state, or all; newest first."""
        return self._view().proposals(state)

    async def proposal(self, cid: bytes) -> said.ProposalDetail:
        """One with its votes, approvals and outcome; UnknownError."""
        view = self._view()
        past = view.past(cid)
        for _ in () if past is None else past.steps():
            await trio.lowlevel.checkpoint()
        return view.proposal(cid, past)

    async def council(self) -> said.CouncilInfo:
        """The council of this epoch."""
        service, alive = self._ledger, self._parts.liveness.is_alive
        found = self._view().council(
            role=service.role, term=service.term, alive=alive, signed=service.news.signed
        )
        found.warnings = silence.warnings(service, alive)
        return found

    async def reputations(self, peer: bytes | None, limit: int) -> said.Reputations:
        """One identity's (zeros for one that the ledger does not know), or the `limit` highest."""
        return self._view().reputations(peer, limit)

    async def params(self) -> list[said.ParamInfo]:
        """All parameters, by name."""
        in_force = self._parts.in_force
        return self._view().params(in_force.local())

    # -- taking part ---------------------------------------------------------------------------

    async def note(self, text: str, wait: bool, report: Report) -> said.Submitted:
        """Put a line into the audit trail."""
        return await self._say("note", e.Note(text=text), None, wait, report)

    async def propose(
        self, request: said.ProposalRequest, wait: bool, report: Report
    ) -> said.Submitted:
        """Open a proposal; `artefact-unavailable` where something that it links cannot be had.

        What could not be changed at all is refused at once, as the ledger would.
        """
        state = self._ledger.ledger
        manifest = drafts.decided_manifest(request, self._parts.identity.peer_id)
        # What the ledger would refuse is not fetched first: that may take minutes.
        check_change(manifest.change, state.params, state.humans)
        report(Progress(stage="fetching what it is about", done=0, total=0))
        await self._parts.examiner.look(manifest)
        data = encode_manifest(manifest)
        body = e.Proposal(manifest=data)
        return await self._say("proposal", body, cid_text(cid_of(data)), wait, report)

    async def vote(
        self, proposal: bytes, choice: said.Choice, wait: bool, report: Report
    ) -> said.Submitted:
        """Cast this daemon's vote; the last before the close counts."""
        service, me = self._ledger, self._parts.identity
        being = self._opened(proposal)
        if me.peer_id not in being.weights.points:
            raise NoWeightError(
                f"this daemon had no reputation at index {being.terms.index}, when it was opened",
                remedy="`synapsectl reputation --own` shows what it has now, which counts in later "
                "votes; it is earned by proposals that are put in force (docs/council.md)",
            )
        number = service.next_vote(proposal)
        ballot = cast(
            service.ledger.realm,
            me.peer_id,
            proposal,
            choice=e.CHOICES.index(choice),
            epoch=being.terms.epoch,
            number=number,
            sign=me.sign,
        )
        return await self._send("vote", e.encode_entry(ballot), cid_text(proposal), wait, report)

    async def approve(
        self, proposal: bytes, key: bytes, signature: bytes, wait: bool, report: Report
    ) -> said.Submitted:
        """Submit a human key's detached signature."""
        being = self._opened(proposal)
        if key not in self._ledger.ledger.humans.values():
            raise NotAHumanKeyError(
                "the ledger does not name this human key, so its approval counts for nothing",
                remedy="`synapsectl genesis show` and `proposal ls --state accepted` tell which it "
                "names; `proposal create --add-human NAME=KEY` proposes another",
            )
        if key in being.approvals:
            raise ReplayedError(
                f"this key has approved it already, at index {being.approvals[key]}",
                remedy="`synapsectl proposal show` tells what it still waits for",
            )
        data = e.encode_entry(e.Approval(proposal=proposal, key=key, signature=signature))
        return await self._send("approval", data, cid_text(proposal), wait, report)

    def _opened(self, proposal: bytes) -> OpenProposal:
        """One that is open; UnknownError, NotOpenError."""
        being = self._ledger.ledger.open.get(proposal)
        if being is None:
            ended = self._view().proposal(proposal).proposal  # raises where there never was one
            raise NotOpenError(
                f"{cid_text(proposal)} is decided already: {ended.reason}, at index {ended.closed}",
                remedy="`synapsectl proposal show` tells more; what is open, `proposal ls`",
            )
        return being

    async def submit(self, submissions: list[bytes]) -> said.Submissions:
        """Send what was signed elsewhere on its way, each if it is valid. Nobody waits."""
        service = self._ledger
        found = said.Submissions(accepted=[])
        for position, data in enumerate(submissions):
            try:
                service.submit(data)
            except SynapseError as error:
                problem = problems.problem_of(error)
                found.refused.append(
                    said.RefusedSubmission(
                        position=position,
                        error=problem.error,
                        message=problem.message,
                        remedy=problem.remedy,
                        status=problem.status,
                    )
                )
            else:
                found.accepted.append(_name(data).hex())
            await trio.lowlevel.checkpoint()
        return found

    # -- how it gets there ---------------------------------------------------------------------

    async def _say(
        self, kind: str, body: e.Body, subject: str | None, wait: bool, report: Report
    ) -> said.Submitted:
        """Sign and submit a body, worked for if need be."""
        service, me = self._ledger, self._parts.identity
        expires = service.ledger.time + LIFE_MS
        bits = work_bits(service.ledger, me.peer_id)
        subject_of_work = work_subject(service.ledger.anchor, me.peer_id, expires, body)
        realm = service.ledger.realm
        nonce, worked = await _work(realm, subject_of_work, bits, report)
        data = submit(realm, me.peer_id, body, expires=expires, sign=me.sign, work=nonce)
        sent = await self._send(kind, data, subject, wait, report)
        sent.work_seconds = worked
        return sent

    async def _send(
        self, kind: str, data: bytes, subject: str | None, wait: bool, report: Report
    ) -> said.Submitted:
        service = self._ledger
        report(Progress(stage="submitting", done=0, total=0))
        began = trio.current_time()
        with service.watching(data) as fate:
            service.submit(data)
            name = _name(data).hex()
            self._parts.bus.emit("ledger.submitted", id=name, what=kind, subject=subject)
            sent = said.Submitted(id=name, kind=kind, subject=subject)
            if not wait:
                return sent
            waits = "waiting for ratification"
            report(Progress(stage=waits, done=0, total=0, sent=subject or name))
            settled = await fate()
        if settled.error is not None:
            raise NotRatifiedError(
                f"the {kind} was not ratified: {settled.error.message}",
                remedy="submit it again; `synapsectl council` shows whether its members are up",
            ) from settled.error
        sent.index = settled.index
        sent.certificate = entryview.covering(service.history, settled.index)
        sent.seconds = trio.current_time() - began
        return sent


async def _work(realm: Realm, subject: bytes, bits: int, report: Report) -> tuple[int, float]:
    """A proof of work, found in a thread, and the seconds of CPU that it took."""
    nonce, start, spent = (0 if bits == 0 else None), 0, 0.0
    expected = work.expected_hashes(bits)
    while nonce is None:
        report(Progress(stage="proof of work", done=min(start, expected), total=expected))
        found = await trio.to_thread.run_sync(partial(_timed_search, realm, subject, bits, start))
        nonce, seconds = found
        spent += seconds
        start += work.STEP
    return nonce, spent


def _timed_search(realm: Realm, subject: bytes, bits: int, start: int) -> tuple[int | None, float]:
    began = time.thread_time()
    return work.search(realm, subject, bits, start), time.thread_time() - began


def _name(data: bytes) -> bytes:
    """The hash that names something submitted."""
    decoded = e.decode_waiting(data)
    signed = decoded.signed if isinstance(decoded.entry, e.Submission) else data
    return submission_id(signed)
