"""The ratified state in the control socket's words: pure readings of a ledger and its entries."""

from collections.abc import Callable, Mapping
from typing import Literal

from protocols.cid import cid_text
from protocols.errors import NotHeldError
from protocols.keytext import key_text
from protocols.ledger import entries as e
from protocols.ledger.params import REGISTRY, Parameter
from protocols.ledger.quota import left, limit
from protocols.ledger.submissions import work_bits
from protocols.peerid import peer_id_text
from synapsed.control import entryview
from synapsed.control import ledgermodels as said
from synapsed.control.problems import UnknownError
from synapsed.control.proposalview import ProposalView, risk_word

MAX_BYTES = 4 << 20
"""Of entries in one answer."""

MAX_BACK = 1 << 14
"""Entries to look back through for a tick: a council under load ratifies some thousand between two,
and each is a read from the disk."""

_TICK = b"\xa2dkinddtick"
"""How the canonical encoding of every tick begins."""


class View(ProposalView):
    """What one daemon, `me`, has: the folded state, and the entries that it comes from."""

    # -- entries ------------------------------------------------------------------------------

    def entries(self, first: int, count: int) -> said.Entries:
        """A run of entries; below 0 `first` counts from the end. UnknownError."""
        head = self._history.head.index
        start = first if first >= 0 else max(self.oldest, head + 1 + first)
        found: list[said.EntryInfo] = []
        if start <= head:
            time, room = self._time_at(start), MAX_BYTES
            for index in range(start, min(start + count, head + 1)):
                payload = self._payload(index)
                room -= len(payload)
                if room < 0 and found:
                    break
                time = _tick(payload) or time
                found.append(self._entry(index, payload, time))
        return said.Entries(head=head, entries=found)

    def entry(self, index: int) -> said.EntryDetail:
        """One of them, with the certificate that covers it. UnknownError."""
        payload = self._payload(index)
        return said.EntryDetail(
            entry=self._entry(index, payload, self._time_at(index)),
            previous=self._history.log.hash(index - 1).hex() if index else "",
            payload=payload.hex(),
            certificate=entryview.covering(self._history, index),
        )

    def _entry(self, index: int, payload: bytes, time: int | None) -> said.EntryInfo:
        return entryview.entry_info(
            payload,
            index=index,
            epoch=self._history.epoch_at(index),
            chain=self._history.log.hash(index),
            time_ms=time,
        )

    def _payload(self, index: int) -> bytes:
        head = self._history.head.index
        if not 0 <= index <= head:
            raise UnknownError(f"there is no entry {index}: the newest ratified one is {head}")
        if index == 0:
            return self._genesis
        try:
            return self._history.log.payload(index)
        except NotHeldError as error:
            raise UnknownError(
                f"entry {index} is from before the checkpoint that this daemon began with",
                remedy="ask a daemon that has followed since the genesis",
            ) from error

    @property
    def oldest(self) -> int:
        """The lowest index from which on all is here."""
        base = self._history.log.base
        return base if base > 1 else 0

    def _time_at(self, index: int) -> int | None:
        """The ledger's time with an entry applied: the last tick's, or the genesis'."""
        last = max(self._history.log.base, index - MAX_BACK)
        for at in range(index, last - 1, -1):
            time = _tick(self._history.log.payload(at))
            if time is not None:
                return time
        return e.decode_genesis(self._genesis).time if last == 1 else None

    # -- the council, reputation, parameters ------------------------------------------------------

    def council(
        self,
        *,
        role: said.Role,
        term: int,
        alive: Callable[[bytes], bool],
        signed: Mapping[bytes, int],
    ) -> said.CouncilInfo:
        """The council of this epoch.

        `term` is the newest seen (0 for none), `signed` the highest index that each member's
        signature in a certificate covers.
        """
        state, council = self._state, self._state.council
        leads = council.leader(term) if term else None
        seats = [
            said.SeatInfo(
                seat=number,
                peer_id=peer_id_text(seat.identity),
                weight=seat.weight,
                latency_class=seat.latency,
                key=key_text(seat.key),
                live=seat.identity == self._me or alive(seat.identity),
                last_signed=signed.get(seat.identity),
                own=seat.identity == self._me,
                leads=number == leads,
            )
            for number, seat in enumerate(council.seats)
        ]
        sitting = {seat.identity for seat in council.seats}
        standing = [
            said.CandidateInfo(
                peer_id=peer_id_text(identity),
                reputation=state.reputation_of(identity),
                own=identity == self._me,
            )
            for identity, candidate in state.candidates.items()
            if candidate.willing and identity not in sitting
        ]
        standing.sort(key=lambda each: (-each.reputation, each.peer_id))
        return said.CouncilInfo(
            epoch=council.epoch,
            start=council.start.index,
            ends_at=(state.epoch_started + state.params["council.epoch_ms"]) / 1000,
            beacon=council.beacon.hex(),
            term=term,
            leader=None if leads is None else seats[leads].peer_id,
            quorum=council.quorum,
            liars=council.tolerated,
            down=len(council.seats) - council.quorum,
            role=role,
            seats=seats,
            seat=council.seat_of(self._me),
            candidates=standing,
            guilty=[peer_id_text(each) for each in sorted(state.banned) if each in sitting],
        )

    def reputations(self, peer: bytes | None, most: int) -> said.Reputations:
        """One identity's, or the `most` highest."""
        state = self._state
        if peer is not None:
            return said.Reputations(total=1, reputations=[self.reputation(peer)])
        known = {*state.reputation, *state.credits}
        highest = sorted(known, key=lambda who: (-state.reputation_of(who), who))
        found = [self.reputation(who) for who in highest[:most]]
        return said.Reputations(total=len(known), reputations=found)

    def reputation(self, identity: bytes) -> said.ReputationInfo:
        """What the ledger says of one identity; zeros for whom it does not know."""
        state = self._state
        standing, points = state.standing(identity), state.reputation_of(identity)
        return said.ReputationInfo(
            peer_id=peer_id_text(identity),
            reputation=points,
            share=points / state.weights.total if state.weights.total else 0.0,
            credits=state.credits.get(identity, 0),
            trust="trusted" if standing.trusted else "newcomer",
            successes=standing.successes,
            failures=standing.failures,
            quota=limit(standing, state.params),
            left=left(standing, state.day, state.params),
            work_bits=work_bits(state, identity),
            banned=identity in state.banned,
            own=identity == self._me,
            seat=state.council.seat_of(identity),
        )

    def params(self, local: Mapping[str, str]) -> list[said.ParamInfo]:
        """All parameters, by name; `local` says what this daemon uses instead, and why."""
        return [
            self._param(REGISTRY[name], value, local.get(name))
            for name, value in sorted(self._state.params.items())
            if name in REGISTRY
        ]

    def _param(self, known: Parameter, value: int, local: str | None) -> said.ParamInfo:
        origin = self._state.origins.get(known.name)
        source: Literal["default", "genesis", "ledger"]
        source = "default" if value == known.default else "genesis"
        return said.ParamInfo(
            name=known.name,
            value=value,
            default=known.default,
            least=known.least,
            most=known.most,
            unit=known.unit,
            risk=risk_word(known.risk),
            text=known.text,
            origin=source if origin is None else "ledger",
            index=None if origin is None else origin.index,
            proposal=None if origin is None else cid_text(origin.proposal),
            certificate=None if origin is None else entryview.covering(self._history, origin.index),
            local=local,
        )


def _tick(payload: bytes) -> int | None:
    """The time that an entry sets, if it is a tick."""
    if not payload.startswith(_TICK):
        return None
    entry = e.decode_entry(payload).entry
    return entry.time if isinstance(entry, e.Tick) else None
