"""A replica that leads (rules 2 and 3 of replica.py)."""

from protocols.learn.replica_core import Core
from protocols.learn.replica_lead import Lead
from protocols.learn.replica_messages import (
    Report,
)
from protocols.learn.replica_ports import (
    MAX_BODY,
    MAX_ENTRY_BLOBS,
    Declined,
    Entry,
    Leading,
    Propose,
    Term,
)


class Primary(Core):
    """What it does from winning a term until it steps down."""

    def _win(self, source: Term, start: int, now: int) -> None:
        """The log is here: re-stamp it, and have it committed anew."""
        stand = self._stand
        assert stand is not None
        if self._log.accepted != stand.term:
            self._log.take_over(stand.term, start, None, [], stand.forced)
        self._stand, self._stage = None, None
        self._own_from = (stand.term, start)
        self._lead = Lead(stand.term, source, start, self._others(), now)
        for peer, promise in stand.promises.items():
            self._lead.expect(peer, promise, now)
        self._beat_at = now + self._settings.beat_ms
        self._broadcast(always=True)

    def _beat(self, now: int) -> None:
        lead = self._lead
        assert lead is not None
        if not self._fresh(now):
            self._step_down(now, "its ledger is old")
            return
        if now - lead.heard_at() > 2 * self._settings.patience_ms:
            self._step_down(now, "it hears neither of the others")
            return
        lead.beat(now, self._settings.beat_ms, self._log.base)
        self._beat_at = now + self._settings.beat_ms
        self._broadcast(always=True)

    def _broadcast(self, *, always: bool) -> None:
        assert self._lead is not None
        for peer in self._lead.followers:
            self._push(peer, always=always)

    def _push(self, peer: bytes, *, always: bool) -> None:
        assert self._lead is not None
        for said, parts in self._lead.messages(peer, self._log, self._settings, always=always):
            self._send(peer, said, parts)

    def _reported(self, peer: bytes, message: Report, now: int) -> None:
        lead = self._lead
        if lead is None or lead.term != message.term or peer not in lead.followers:
            return
        lead.report(peer, message, now, self._settings.beat_ms // 2)
        self._advance(now)
        if self._lead is lead:
            self._push(peer, always=False)

    def _advance(self, now: int) -> None:
        """Commit what two of three have: ourselves, and one whose log is this term's."""
        lead = self._lead
        assert lead is not None
        stored = min(lead.stored(), self._log.length)
        if stored < lead.start or not self._fresh(now):
            return
        opens = not lead.open
        if not opens and stored <= self._log.committed:
            return
        lead.open = True
        self._establish(lead.term.epoch)
        self._commit(stored)
        if opens:
            self._followed = (lead.term, self._me)
            self._put(Leading(lead.term))
        self._broadcast(always=True)

    def _propose(self, event: Propose, now: int) -> None:
        lead = self._lead
        if lead is None or not lead.open:
            self._put(Declined(event.tag, "not the primary"))
        elif not self._fresh(now):
            self._put(Declined(event.tag, "its ledger is old"))
        elif self.room <= 0:
            self._put(Declined(event.tag, "too much is under way"))
        elif len(event.body) > MAX_BODY or len(event.blobs) > MAX_ENTRY_BLOBS:
            self._put(Declined(event.tag, f"too large: {len(event.body)} bytes"))
        else:
            # Rule 3: the row is on disk before the first message leaves.
            self._log.append(Entry(event.body, event.blobs))
            lead.tags[self._log.length] = event.tag
            self._broadcast(always=False)
