"""LedgerApi over a real ledger whose four members all live here: each submission is ratified at
once, with a certificate that they really sign."""

from collections.abc import AsyncGenerator, Callable

import trio

from protocols.cid import cid_of, cid_text
from protocols.errors import SynapseError
from protocols.follow import archive
from protocols.follow.history import History
from protocols.follow.inclusion import prove_inclusion
from protocols.follow.log import MemoryLog
from protocols.ledger import work
from protocols.ledger.council import Certificate, Kind, Statement, signed_bytes
from protocols.ledger.entries import (
    CHOICES,
    Approval,
    EpochEntry,
    Note,
    Proposal,
    decode_entry,
    encode_entry,
)
from protocols.ledger.proof import Link
from protocols.ledger.signing import batch, cast, submission_id, submit, work_subject
from protocols.ledger.submissions import work_bits
from protocols.manifest import encode_manifest
from protocols.realm import Realm
from synapsed.control import drafts, entryview
from synapsed.control import ledgermodels as said
from synapsed.control import models as shapes
from synapsed.control.ledgerview import View
from synapsed.control.problems import (
    ArtefactUnavailableError,
    NoGenesisError,
    UnknownError,
    problem_of,
)
from tests.ledger_book import MEMBERS, NETWORK, Book, Person, genesis, verify

TERM = 3
"""Not the first: what shows it shows that it is read."""


class MemoryLedger:
    """The ledger's part of NodeApi, as `me`."""

    def __init__(self, emit: Callable[..., None], me: Person = MEMBERS[0]) -> None:
        self._emit = emit
        self.me = me
        self.book: Book | None = Book(genesis(MEMBERS))
        self.silence: list[str] = []
        """What is said of a council that ratifies nothing."""
        self.stuck = False
        """Whether what is submitted is never ratified."""
        self.fetchable: set[str] = set()
        """Links that could be had."""
        log = MemoryLog()
        log.begin(self.book.state.spine)
        self.history = History(log, self.book.state.council)

    @property
    def there(self) -> Book:
        if self.book is None:
            raise NoGenesisError(
                "this daemon was given no genesis, so there is no ledger that it could follow",
                remedy="synapsed init --genesis FILE, with the file of a founder",
            )
        return self.book

    @property
    def view(self) -> View:
        book = self.there
        return View(book.state, self.history, self.me.identity, book.payloads[0])

    # -- ratifying

    def ratify(self, payload: bytes) -> None:
        """The next entry, with a certificate of three of the four."""
        book, council = self.there, self.there.state.council
        header = book.state.spine.next_header(council.epoch, payload)
        book.add(payload)
        self.history.log.append(book.state.head.hash, payload)
        certificate = self._certificate(council)
        if isinstance(decode_entry(payload).entry, EpochEntry):
            self.history.end_epoch(Link(header, certificate), payload, book.state.council)
        else:
            self.history.certificate = certificate
        self._emit("ledger.ratified", index=header.index)

    def _certificate(self, council) -> Certificate:
        head = self.there.state.head
        statement = Statement(Kind.CERTIFICATE_ACK, council.epoch, TERM, head.index, head.hash)
        message = signed_bytes(self.there.state.realm, statement)
        signers = {each.identity: each.seat for each in MEMBERS}
        numbers = list(range(council.quorum))
        signatures = [signers[council.seats[n].identity].sign(message) for n in numbers]
        return Certificate(statement, numbers, signatures)

    def later(self, milliseconds: int) -> None:
        """Ticks on, and ratifies what is due."""
        state = self.there.state
        now = state.time + milliseconds
        while due := state.due(now):
            for payload in due:
                self.ratify(payload)

    # -- looking

    async def ledger(self) -> said.LedgerInfo:
        state = self.there.state
        certificate = self.history.certificate
        return said.LedgerInfo(
            network=NETWORK,
            genesis=state.genesis.hex(),
            index=state.head.index,
            hash=state.head.hash.hex(),
            epoch=state.epoch,
            time=state.time / 1000,
            first=0,
            heard=state.head.index,
            role="member",
            waiting=0,
            certificate=None if certificate is None else self._info(certificate),
        )

    def _info(self, certificate: Certificate) -> said.CertificateInfo:
        council = self.history.council_of(certificate.said.epoch)
        return entryview.certificate_info(certificate, council)

    def glance(self) -> said.LedgerGlance | None:
        if self.book is None:
            return None
        state = self.book.state
        return said.LedgerGlance(
            index=state.head.index,
            hash=state.head.hash.hex(),
            epoch=state.epoch,
            time=state.time / 1000,
            seats=len(state.council.seats),
            role="member",
            leader=self._council().leader,
            open_proposals=len(state.open),
        )

    async def ledger_entries(self, first: int, count: int) -> said.Entries:
        return self.view.entries(first, count)

    async def ledger_entry(self, index: int) -> said.EntryDetail:
        return self.view.entry(index)

    async def ledger_export(self) -> AsyncGenerator[bytes, None]:
        self.there  # noqa: B018 - NoGenesisError
        for part in archive.export(NETWORK, self.there.payloads[0], self.history):
            await trio.lowlevel.checkpoint()
            yield part

    async def ledger_proof(self, index: int) -> bytes:
        self.view.entry(index)
        return prove_inclusion(NETWORK, self.history, index)

    async def proposals(self, state: said.ProposalState | None) -> list[said.ProposalInfo]:
        return self.view.proposals(state)

    async def proposal(self, cid: bytes) -> said.ProposalDetail:
        view = self.view
        past = view.past(cid)
        for _ in () if past is None else past.steps():
            await trio.lowlevel.checkpoint()
        return view.proposal(cid, past)

    async def council(self) -> said.CouncilInfo:
        return self._council()

    def _council(self) -> said.CouncilInfo:
        certificate = self.history.certificate
        signed = {}
        if certificate is not None:
            seats = self.there.state.council.seats
            signed = {seats[n].identity: certificate.said.index for n in certificate.seats}
        found = self.view.council(
            role="member", term=TERM, alive=lambda who: who != MEMBERS[3].identity, signed=signed
        )
        found.warnings = self.silence
        return found

    async def reputations(self, peer: bytes | None, limit: int) -> said.Reputations:
        return self.view.reputations(peer, limit)

    async def params(self) -> list[said.ParamInfo]:
        return self.view.params({"limits.upload": "20 Mbit/s, by /etc/config.toml:3"})

    # -- submitting

    async def propose(self, request: said.ProposalRequest, wait: bool, report) -> said.Submitted:
        self.there  # noqa: B018 - NoGenesisError
        for link in request.links:
            report(shapes.Progress(stage=f"fetching {link}", done=0, total=0))
            if link not in self.fetchable:
                raise ArtefactUnavailableError(
                    f"nobody could give {link}, which the proposal links",
                    remedy="is its author up? `synapsectl announcements --subject` tells",
                )
        manifest = encode_manifest(drafts.decided_manifest(request, self.me.identity))
        done = await self._submit(Proposal(manifest=manifest), "proposal", wait, report)
        done.subject = cid_text(cid_of(manifest))
        return done

    async def note(self, text: str, wait: bool, report) -> said.Submitted:
        return await self._submit(Note(text=text), "note", wait, report)

    async def _submit(self, body, kind: str, wait: bool, report) -> said.Submitted:
        state = self.there.state
        expires = state.time + 60_000
        bits = work_bits(state, self.me.identity)
        nonce = 0
        if bits:
            report(shapes.Progress(stage="proof of work", done=0, total=0))
            subject = work_subject(state.anchor, self.me.identity, expires, body)
            nonce = await trio.to_thread.run_sync(_search, state.realm, subject, bits)
        data = submit(
            state.realm, self.me.identity, body, expires=expires, sign=self.me.sign, work=nonce
        )
        if wait and self.stuck:
            name = submission_id(decode_entry(data).signed).hex()
            sent = cid_text(cid_of(body.manifest)) if isinstance(body, Proposal) else name
            stage = "waiting for ratification"
            report(shapes.Progress(stage=stage, done=0, total=0, sent=sent))
            await trio.sleep_forever()
        return self._send(data, kind, wait, bool(bits))

    def _send(self, data: bytes, kind: str, wait: bool, worked: bool) -> said.Submitted:
        state = self.there.state
        state.check_waiting(data, verify)
        done = said.Submitted(
            id=submission_id(decode_entry(data).signed).hex(),
            kind=kind,
            work_seconds=0.01 if worked else 0.0,
        )
        if wait:
            self.ratify(data)
            self._settle(done)
        return done

    def _settle(self, done: said.Submitted) -> None:
        done.index = self.there.state.head.index
        done.seconds = 0.25
        assert self.history.certificate is not None
        done.certificate = self._info(self.history.certificate)

    async def vote(self, proposal: bytes, choice: str, wait: bool, report) -> said.Submitted:
        state = self.there.state
        if proposal not in state.open and proposal not in state.closed:
            raise UnknownError(f"the ledger has no proposal {cid_text(proposal)}")
        being = state.open.get(proposal)
        epoch = being.terms.epoch if being is not None else state.epoch
        number = 1 if being is None else being.number_of(self.me.identity) + 1
        vote = cast(
            state.realm,
            self.me.identity,
            proposal,
            choice=CHOICES.index(choice),
            epoch=epoch,
            number=number,
            sign=self.me.sign,
        )
        state.check_waiting(encode_entry(vote), verify)
        done = said.Submitted(id=vote.signature[:32].hex(), kind="vote")
        done.subject = cid_text(proposal)
        if wait:
            self.ratify(encode_entry(batch([vote])))
            self._settle(done)
        return done

    async def approve(
        self, proposal: bytes, key: bytes, signature: bytes, wait: bool, report
    ) -> said.Submitted:
        state = self.there.state
        if proposal not in state.open and proposal not in state.closed:
            raise UnknownError(f"the ledger has no proposal {cid_text(proposal)}")
        data = encode_entry(Approval(proposal=proposal, key=key, signature=signature))
        state.check_waiting(data, verify)
        done = said.Submitted(id=cid_of(data)[4:].hex(), kind="approval")
        done.subject = cid_text(proposal)
        if wait:
            self.ratify(data)
            self._settle(done)
        return done

    async def submit(self, submissions: list[bytes]) -> said.Submissions:
        found = said.Submissions(accepted=[])
        for position, data in enumerate(submissions):
            try:
                self.there.state.check_waiting(data, verify)
                self.ratify(data)
            except SynapseError as error:
                problem = problem_of(error)
                found.refused.append(
                    said.RefusedSubmission(
                        position, problem.error, problem.message, problem.remedy, problem.status
                    )
                )
            else:
                found.accepted.append(submission_id(decode_entry(data).signed).hex())
        return found

    def ledger_counters(self) -> said.LedgerCounters | None:
        if self.book is None:
            return None
        state = self.book.state
        stats = state.stats
        return said.LedgerCounters(
            index=state.head.index,
            epoch=state.epoch,
            time=state.time / 1000,
            proposals={
                "open": len(state.open),
                "accepted": stats.accepted,
                "rejected": stats.rejected,
            },
            decision_s=stats.decision_ms / 1000,
            seats=len(state.council.seats),
            seats_changed=stats.seats_changed,
            epochs=stats.epochs,
            guilt=stats.guilt,
            entries={"note": 1},
            term=TERM,
            terms_lost=2,
            consensus_ms={"p50": 120.0, "p99": 480.0},
            waiting=0,
        )


def _search(realm: Realm, subject: bytes, bits: int) -> int:
    start = 0
    while (found := work.search(realm, subject, bits, start)) is None:
        start += work.STEP
    return found
