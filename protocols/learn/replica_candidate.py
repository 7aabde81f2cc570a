"""A replica that stands for a term, and what it answers to others that do (rules 1 and 2 of
replica.py; whose promises are enough is in replica_stand.py).
"""

from protocols.learn.replica_follower import Follower
from protocols.learn.replica_lead import append_of, install_of
from protocols.learn.replica_messages import (
    Append,
    Ask,
    Install,
    Promise,
    Pull,
    Resign,
    Stale,
)
from protocols.learn.replica_ports import (
    REPLICAS,
    Orphaned,
    Term,
)
from protocols.learn.replica_stage import Stage
from protocols.learn.replica_stand import Stand

FORCE_AFTER_BEATS = 6
"""Beats that a candidate asks (twice in each) before it takes the old three for lost."""
GIVE_UP_BEATS = 12
"""Beats that a candidate asks at all: one that lacks what another has must not keep it waiting."""


OfTerms = Ask | Promise | Stale | Pull | Resign


class Candidate(Follower):
    """What it does from a silence until it won, or somebody else did."""

    def _maybe_stand(self, now: int) -> None:
        rank = self._rank
        if rank is None or self._lead is not None or self._stand is not None:
            return
        if not self._can_lead or not self._whole or now < self._stand_at:
            return
        self._awaits_tick = not self._fresh(now)
        if self._awaits_tick:
            return
        self._stand_for(self._next_term(rank), now)

    def _next_term(self, rank: int) -> Term:
        above = max(self._log.promised, self._seen, Term(self._newest.epoch, REPLICAS - 1))
        number = above.number + 1
        return Term(self._newest.epoch, number + (rank - number) % REPLICAS)

    def _stand_for(self, term: Term, now: int) -> None:
        """Ask, and promise nothing yet: who is cut off and asks in vain can follow again, and need
        not depose the primary whom it could not hear (Raft's pre-vote, in one message)."""
        self._drop_stage()
        self._follow(self._log.promised, None)
        self._stand = Stand(term, now)
        self._ask(now)

    def _promise_ourselves(self, stand: Stand) -> None:
        """Once another has promised: on disk before it counts, as everybody's (rule 1)."""
        self._log.promise(stand.term)
        self._follow(stand.term, None)
        own = self._log.place
        promise = Promise(stand.term, own.accepted, own.length, self._log.forced, self._born)
        stand.promises[self._me] = promise

    def _ask(self, now: int) -> None:
        stand = self._stand
        assert stand is not None
        if not self._fresh(now):
            self._step_down(now, "its ledger is old")
            return
        if stand.chosen is None and now - stand.began > GIVE_UP_BEATS * self._settings.beat_ms:
            self._step_down(now, "too few promise")
            return
        stand.ask_at = now + self._settings.beat_ms // 2
        if stand.chosen is not None:
            if now - stand.heard_at > self._settings.patience_ms:
                # Whoever has the best log is silent: without its promise, others have to do.
                self._drop_stage()
                stand.promises.pop(stand.chosen, None)
                stand.chosen, stand.stage = None, None
            else:
                self._pull(stand)
        if stand.chosen is None:
            # Those who promised, too: it keeps them from standing themselves.
            for peer in stand.asked(self._seats, self._first):
                if peer != self._me:
                    self._send(peer, Ask(stand.term))
            self._choose(now)

    def _promised_us(self, peer: bytes, message: Promise, now: int) -> None:
        stand = self._stand
        if stand is None or stand.term != message.term or stand.chosen is not None:
            return
        if peer in self._distrusted:
            return
        if self._me not in stand.promises:
            self._promise_ourselves(stand)
        stand.promises[peer] = message
        stand.heard_at = now
        self._choose(now)

    def _choose(self, now: int) -> None:
        """Rule 2, once enough promised."""
        stand = self._stand
        if stand is None or stand.chosen is not None:
            return
        forced = self._forced(now)
        if not stand.decides(self._seats, self._first, forced):
            self._maybe_orphaned(stand, forced)
            return
        unsealed = stand.forces(self._seats, forced)
        for epoch in unsealed:
            self._emit("learn.forced", epoch=epoch)
        chosen, place = stand.best(self._me)
        stand.chosen, stand.heard_at = chosen, now
        stand.forced = stand.term.epoch if unsealed else stand.promises[chosen].forced
        if chosen == self._me:
            self._win(place.accepted, place.length, now)
            return
        stand.stage = Stage(
            self._log,
            stand.term,
            place.accepted,
            place.length,
            forced=stand.forced,
            held=self._held,
        )
        self._pump(now)
        if self._stand is stand:
            self._pull(stand)

    def _forced(self, now: int) -> list[int]:
        """Epochs of which fewer than two seals are enough now (rule 5): their lease is over, and
        they were asked again and again."""
        stand = self._stand
        if self._ticked is None or stand is None:
            return []
        if now - stand.began < FORCE_AFTER_BEATS * self._settings.beat_ms:
            return []
        lease = self._settings.forced_leases * self._settings.lease_ms
        newest = self._newest.started_ms
        return [
            old.epoch
            for new, old in zip(self._seats, self._seats[1:], strict=False)
            # Of an epoch that was slept through it may not be known when it began.
            if self._ticked.tick_ms >= (new.started_ms or newest) + lease
        ]

    def _maybe_orphaned(self, stand: Stand, forced: list[int]) -> None:
        """Nobody is left who has a log: what others know of it may still found a new one."""
        epoch = self._newest.epoch
        if not stand.lost(self._seats, forced):
            return
        if self._refound is None:
            if self._orphaned != epoch:
                self._orphaned = epoch
                self._put(Orphaned(epoch))
            return
        snapshot, self._refound = self._refound, None
        self._emit("learn.forced", epoch=self._seats[1].epoch)
        self._held.update(blob.digest for blob in snapshot.blobs)
        stand.chosen = self._me
        self._log.stage_snapshot(stand.term, snapshot)
        self._log.take_over(stand.term, 0, snapshot, [], stand.term.epoch)
        self._reinstall()
        self._win(stand.term, self._log.length, self._heard_at)

    def _pull(self, stand: Stand) -> None:
        stage = stand.stage
        if stage is None or stand.chosen is None:
            return
        # What waits for blobs only is asked for again: its sender may have folded it meanwhile.
        after = stage.got if stage.got < stage.start else stage.saved
        self._send(stand.chosen, Pull(stand.term, after))

    def _gathered(
        self, peer: bytes, message: Append | Install, parts: list[bytes], now: int
    ) -> bool:
        """Whether it is a part of the log that a candidate of ours asked for; taken, if so."""
        stand = self._stand
        if stand is None or stand.term != message.term:
            return False
        if stand.stage is not None and peer == stand.chosen:
            stand.heard_at = now
            got = stand.stage.got
            self._take(stand.stage, message, parts)
            more = got < stand.stage.got < stand.stage.start
            self._pump(now)
            if self._stand is stand and more:
                self._pull(stand)
        return True

    # -- what others ask ----------------------------------------------------------------------

    def _of_terms(self, peer: bytes, message: OfTerms, now: int) -> None:
        match message:
            case Ask():
                self._asked(peer, message, now)
            case Promise():
                self._promised_us(peer, message, now)
            case Stale():
                self._stale(message.term, now)
            case Pull():
                self._pulled(peer, message, now)
            case Resign():
                self._resigned(peer, message, now)

    def _asked(self, peer: bytes, message: Ask, now: int) -> None:
        term = message.term
        if self._candidate_of(term) != peer or peer == self._me:
            return
        if term < self._log.promised:
            self._send(peer, Stale(self._log.promised))
            return
        if peer in self._distrusted:
            return
        if term > self._log.promised:
            if self._content(term, peer, now) or (self._stand and self._stand.term > term):
                return
            self._step_down(now, "another asks for a term")
            self._log.promise(term)
            self._follow(term, None)
        if self._log.accepted < term:
            # It is alive: whoever promised it waits for it as for a primary.
            self._wait(now, term)
            own = self._log.place
            self._send(peer, Promise(term, own.accepted, own.length, self._log.forced, self._born))

    def _content(self, term: Term, peer: bytes, now: int) -> bool:
        """Whether there is a primary that is heard of, so that nobody need ask: else a replica
        that hears nobody would depose every primary that it cannot hear (Raft, section 9.6)."""
        if term.epoch > self._followed[0].epoch or peer == self._followed[1]:
            return False
        hold = self._settings.patience_ms - self._settings.beat_ms
        if self._lead is not None:
            return self._lead.open and now - self._lead.heard_at() < hold
        return self._followed[1] is not None and now - self._heard_at < hold

    def _pulled(self, peer: bytes, message: Pull, now: int) -> None:
        """Rule 1: only what was promised to this very candidate is shown to it."""
        log = self._log
        if message.term != log.promised or log.accepted >= message.term:
            return
        if self._candidate_of(message.term) != peer or message.after > log.length:
            return
        self._wait(now, message.term)
        if message.after < log.base:
            said, parts = install_of(log, message.term, log.accepted, log.length)
        else:
            what = (message.after, self._settings.chunk, self._settings.chunk_bytes)
            said, parts = append_of(log, message.term, log.accepted, log.length, what)
        self._send(peer, said, parts)

    def _stale(self, term: Term, now: int) -> None:
        """Somebody promised a higher one: ours is over."""
        if self._candidate_of(term) is None:
            return
        self._seen = max(self._seen, term)
        mine = self._lead or self._stand
        if mine is not None and mine.term < term:
            self._step_down(now, "a higher term was promised")
            self._stand_at = now + (self._rank or 0) * self._settings.stagger_ms

    def _lost(self, peer: bytes, now: int) -> None:
        """The primary's connection ended: if it lives, its next heartbeat comes over another, and
        then nobody stands."""
        rank, (term, primary) = self._rank, self._followed
        if rank is None or peer != primary or peer == self._me:
            return
        self._follow(term, None)
        turns = (rank - term.number - 1) % REPLICAS
        soon = now + self._settings.stagger_ms * (1 + turns)
        self._stand_at = min(self._stand_at, soon)

    def _distrust(self, peer: bytes, now: int) -> None:
        """It lied: what it sends and promises does not count, and who of the others comes next
        asks for a term. The third finds the same, and grants."""
        if peer == self._me or peer in self._distrusted or peer not in self._newest.replicas:
            return
        self._distrusted.add(peer)
        rank, (term, primary) = self._rank, self._followed
        if self._lead is not None:
            self._lead.followers.pop(peer, None)
            return
        if self._stand is not None:
            self._stand.promises.pop(peer, None)
            if self._stand.chosen == peer:
                self._step_down(now, "whose log it takes lied")
        if rank is None or primary != peer:
            return
        self._drop_stage()
        self._follow(term, None)
        turns = (rank - term.number - 1) % REPLICAS
        self._stand_at = now + turns * self._settings.stagger_ms
        self._maybe_stand(now)

    def _resigned(self, peer: bytes, message: Resign, now: int) -> None:
        rank = self._rank
        if rank is None or self._followed != (message.term, peer):
            return
        self._follow(message.term, None)
        turns = (rank - message.term.number - 1) % REPLICAS
        self._stand_at = now + turns * self._settings.stagger_ms
        self._maybe_stand(now)
