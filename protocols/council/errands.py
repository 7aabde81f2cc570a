"""What a daemon that would serve in the council says by itself, without being asked.

    candidacy   each epoch: willing or not, under which seat key, with a commitment
    reveal      of that commitment's secret, when candidacies have ended
    latency     the round trips that it measured, once an epoch, if it has a seat
    verdict     on what a proposal names: the service looks (Examine), we sign what it found

All of it is read from the ledger: what stands there already is not said again, and what does not
get there is said again after a while, signed anew.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from protocols.envelope import Sign
from protocols.ledger.election import reveal_phase
from protocols.ledger.entries import (
    MAX_MEASURED,
    NO_INTERVAL,
    YES,
    Body,
    Interval,
    Latency,
    Measured,
    Reveal,
    Verdict,
)
from protocols.ledger.fold import LedgerState
from protocols.ledger.signing import candidacy, commitment_to
from protocols.ledger.training import is_judge
from protocols.ledger.voting import OpenProposal, judged
from protocols.manifest import ProposalManifest

AGAIN = 60.0
"""Seconds until what did not get onto the ledger is said once more."""
MAX_ASKED = 512
"""Proposals that the service was asked about: twice as many as can be open."""


class Examine(msgspec.Struct, frozen=True):
    """Effect: find out whether what this proposal names can be fetched, and say `Examined`."""

    proposal: bytes
    manifest: ProposalManifest


class Finding(msgspec.Struct, frozen=True):
    """What the service found out about a proposal."""

    holds: bool
    interval: Interval = NO_INTERVAL
    """Of a checkpoint."""


class SeatKey(msgspec.Struct, frozen=True):
    """What a seat signs with, and the secret from which its commitments are derived."""

    public_key: bytes
    sign: Sign
    secret: bytes

    def beacon_secret(self, genesis: bytes, epoch: int) -> bytes:
        """What this seat commits to for an epoch's beacon: one secret does for all epochs, and what
        it reveals in one ledger says nothing about another."""
        return hashlib.sha256(
            b"synapse beacon secret" + self.secret + genesis + epoch.to_bytes(8, "big")
        ).digest()


class Errands:
    """What is to be said, as the ledger stands."""

    def __init__(self, me: bytes, key: SeatKey, *, willing: bool) -> None:
        self.willing = willing
        self.round_trips: Mapping[bytes, int] = {}
        """Milliseconds, by identity, as last measured."""
        self.findings: dict[bytes, Finding] = {}
        """By proposal."""
        self._me = me
        self._key = key
        self._said: dict[tuple[str, object], float] = {}
        self._asked: dict[bytes, None] = {}

    def bodies(self, ledger: LedgerState, now: float) -> list[Body]:
        """What is to be submitted at `now` (mono seconds)."""
        seat = ledger.council.seat_of(self._me)
        found = [self._candidacy(ledger, seat, now)]
        if seat is not None:
            found += [self._reveal(ledger, seat, now), self._latency(ledger, seat, now)]
        found += self._verdicts(ledger, now)
        return [body for body in found if body is not None]

    def _once(self, what: str, about: object, now: float) -> bool:
        """Whether this was not said of late; it counts as said from here on."""
        last = self._said.get((what, about))
        if last is not None and now < last + AGAIN:
            return False
        self._said = {key: at for key, at in self._said.items() if now < at + AGAIN}
        self._said[what, about] = now
        return True

    def _candidacy(self, ledger: LedgerState, seat: int | None, now: float) -> Body | None:
        epoch, key = ledger.epoch + 1, self._key
        stands = ledger.candidates.get(self._me)
        if stands is None:
            wanted = self.willing or seat is not None
        else:
            wanted = stands.willing != self.willing or stands.key != key.public_key
        ends, _ = reveal_phase(ledger.epoch_started, ledger.params["council.epoch_ms"])
        if not wanted or ledger.time >= ends or not ledger.reputation_of(self._me):
            return None
        if not self._once("candidacy", (epoch, self.willing), now):
            return None
        return candidacy(
            ledger.realm,
            self._me,
            epoch,
            willing=self.willing,
            key=key.public_key,
            secret=key.beacon_secret(ledger.genesis, epoch),
            sign_seat=key.sign,
        )

    def _reveal(self, ledger: LedgerState, seat: int, now: float) -> Body | None:
        epoch = ledger.epoch + 1
        begins, ends = reveal_phase(ledger.epoch_started, ledger.params["council.epoch_ms"])
        stands = ledger.candidates.get(self._me)
        secret = self._key.beacon_secret(ledger.genesis, epoch)
        if stands is None or stands.commitment != commitment_to(secret):
            return None
        if not begins <= ledger.time < ends or seat in ledger.reveals:
            return None
        return Reveal(epoch=epoch, secret=secret) if self._once("reveal", epoch, now) else None

    def _latency(self, ledger: LedgerState, seat: int, now: float) -> Body | None:
        epoch, length = ledger.epoch + 1, ledger.params["council.epoch_ms"]
        halfway = ledger.epoch_started + length // 2
        due = halfway <= ledger.time < ledger.epoch_started + length
        if not due or not self.round_trips or seat in ledger.measured:
            return None
        if not self._once("latency", epoch, now):
            return None
        nearest = sorted(self.round_trips.items(), key=lambda one: (one[1], one[0]))
        rows = sorted(nearest[:MAX_MEASURED])
        measured = tuple(Measured(identity, milliseconds) for identity, milliseconds in rows)
        return Latency(epoch=epoch, measured=measured)

    def _verdicts(self, ledger: LedgerState, now: float) -> list[Body]:
        found: list[Body] = []
        for cid in sorted(self.findings):
            proposal = ledger.open.get(cid)
            if proposal is None or self._me in proposal.verdicts:
                del self.findings[cid]
            elif self._may_judge(ledger, proposal) and self._once("verdict", cid, now):
                finding = self.findings[cid]
                nothing = finding.interval == NO_INTERVAL
                found.append(
                    Verdict(
                        proposal=cid,
                        claim=proposal.terms.claim,
                        holds=finding.holds,
                        # This very object is left out of the bytes.
                        interval=NO_INTERVAL if nothing else finding.interval,
                    )
                )
        return found

    def _may_judge(self, ledger: LedgerState, proposal: OpenProposal) -> bool:
        """Whether our verdict counts: of a checkpoint it does when its sample is drawn, also where
        we have lost that epoch's seat since."""
        if proposal.terms.drawn:
            return is_judge(ledger, proposal.terms, self._me)
        return ledger.council.seat_of(self._me) is not None

    def questions(self, ledger: LedgerState) -> list[Examine]:
        """What the service is to find out, each once: only what the votes would accept as they
        stand, by their weight. Nobody's word alone makes the council fetch anything, and after
        the close there is time to look (Terms.lapses_at). What nobody votes on is looked at at
        once: one at a time of each who has reputation (ledger/exclusion.py)."""
        if not ledger.open:
            return []
        wanted = [
            (-proposal.count[YES], cid, proposal.terms.manifest)
            for cid, proposal in ledger.open.items()
            if proposal.terms.verdicts
            and cid not in self._asked
            and self._me not in proposal.verdicts
            and self._may_judge(ledger, proposal)
            and (
                proposal.terms.by_verdicts
                or judged(proposal.terms, proposal.count, proposal.weights.total).accepted
            )
        ]
        found = []
        for _, cid, manifest in sorted(wanted, key=lambda one: one[:2]):
            if len(self._asked) >= MAX_ASKED:
                del self._asked[next(iter(self._asked))]
            self._asked[cid] = None
            found.append(Examine(cid, manifest))
        return found
