"""Finding liars in what passes by: who signed two things that no honest member signs both.

Everything that is looked at is signed, so that a proof convinces whoever was not there
(PeerReview: Haeberlen, Kuznetsov, Druschel, SOSP 2007). What is remembered is bounded: of each
seat and kind the highest statement and a few that did not fit to it.
"""

from collections.abc import Callable

from protocols.effects import Effect
from protocols.envelope import Verify
from protocols.ledger.chain import Header, next_on_path
from protocols.ledger.council import (
    MAX_PROOF_HEADERS,
    BadGuiltError,
    Certificate,
    Council,
    Fork,
    Guilt,
    Kind,
    Retreat,
    SignedTimeOut,
    Statement,
    check_guilt,
)
from protocols.raft.log import Log
from protocols.raft.ports import Accuse
from protocols.realm import Realm

MAX_ODD = 4
"""Statements of one seat and kind that are off our chain: a twin makes one more a term."""

Said = tuple[Statement, bytes]


class Witness:
    """What the other seats signed, as far as this member saw it."""

    def __init__(
        self,
        realm: Realm,
        council: Council,
        log: Log,
        verify: Verify,
        emit: Callable[[Effect | Accuse], None],
    ) -> None:
        self._realm = realm
        self._council = council
        self._log = log
        self._verify = verify
        self._emit = emit
        self._last: dict[tuple[int, Kind], Said] = {}
        self._odd: dict[tuple[int, Kind], list[Said]] = {}
        self._time_outs: dict[int, SignedTimeOut] = {}
        self.guilty: set[int] = set()
        """Whom this member has accused."""

    def certificate(self, certificate: Certificate) -> None:
        """A certificate was verified: each of its seats signed it."""
        for seat, signature in zip(certificate.seats, certificate.signatures, strict=True):
            self.saw(seat, certificate.said, signature)

    def saw(self, seat: int, said: Statement, signature: bytes) -> None:
        """A seat signed a statement. The signature may be unverified: a proof is checked."""
        key = (seat, said.kind)
        before = self._last.get(key)
        if before is None:
            self._last[key] = (said, signature)
        elif before[0] != said:
            self._compare(key, before, (said, signature))
        if said.kind is Kind.CERTIFICATE_ACK and seat in self._time_outs:
            self._retreat(seat)

    def _compare(self, key: tuple[int, Kind], before: Said, new: Said) -> None:
        fits = self._log.has(new[0].head)
        if not fits or key in self._odd:
            odd = self._odd.setdefault(key, [])
            for other in (before, *odd):
                self._fork(key[0], other, new)
            if not fits:
                odd.append(new)
                del odd[:-MAX_ODD]
        elif not self._log.has(before[0].head):
            self._fork(key[0], before, new)
        place, old = (new[0].term, new[0].index), (before[0].term, before[0].index)
        if place > old and (fits or place[0] > old[0]):
            self._last[key] = new

    def timed_out(self, signed: SignedTimeOut) -> None:
        """A time-out was verified."""
        known = self._time_outs.get(signed.seat)
        if known is None or known.said.term <= signed.said.term:
            self._time_outs[signed.seat] = signed
            self._retreat(signed.seat)

    def _retreat(self, seat: int) -> None:
        """Rule 3: a certificate-ack above what the same seat's later time-out names."""
        acked = self._last.get((seat, Kind.CERTIFICATE_ACK))
        time_out = self._time_outs[seat]
        if acked is None or acked[0].term >= time_out.said.term:
            return
        if time_out.said.rank < (acked[0].term, acked[0].index):
            self._accuse(Retreat(seat, *acked, time_out.said, time_out.signature))

    def _fork(self, seat: int, one: Said, other: Said) -> None:
        """Rule 1: two acks of one term that are not on one chain."""
        lower, upper = sorted((one, other), key=lambda said: said[0].index)
        if lower[0].term != upper[0].term or lower[0].hash == upper[0].hash:
            return
        found = self._descend(upper[0], lower[0].index)
        if found is not None and found[1] != lower[0].hash:
            self._accuse(Fork(seat, *lower, *upper, found[0]))

    def _descend(self, said: Statement, target: int) -> tuple[list[Header], bytes] | None:
        """The headers from a statement's place down to `target`, and the chain hash there."""
        headers: list[Header] = []
        index, name = said.index, said.hash
        while index > target:
            entry = self._log.entry(name)
            if entry is None or entry.header.index != index or len(headers) >= MAX_PROOF_HEADERS:
                return None
            headers.append(entry.header)
            following = next_on_path(index, target)
            name = entry.header.prev if following == index - 1 else entry.header.skip
            index = following
        return headers, name

    def _accuse(self, guilt: Guilt) -> None:
        if guilt.seat in self.guilty:
            return
        try:
            check_guilt(self._realm, self._council, guilt, self._verify)
        except BadGuiltError:
            return  # a signature that nobody had verified yet
        self.guilty.add(guilt.seat)
        self._emit(Accuse(guilt))
