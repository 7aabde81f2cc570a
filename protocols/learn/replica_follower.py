"""A replica that follows a primary, and how a log comes in (rules 1, 4 and 5 of replica.py)."""

from protocols.learn.replica_messages import (
    Append,
    Install,
    Report,
    Stale,
    entries_of,
    snapshot_of,
)
from protocols.learn.replica_primary import Primary
from protocols.learn.replica_stage import Stage


class Follower(Primary):
    """What it does with what a primary sends."""

    def _brought(
        self, peer: bytes, message: Append | Install, parts: list[bytes], now: int
    ) -> None:
        """Entries or a snapshot, of who leads a term."""
        term = message.term
        if self._candidate_of(term) != peer or peer == self._me:
            return
        if term < self._log.promised:
            self._send(peer, Stale(self._log.promised))
            return
        if peer in self._distrusted:
            return
        if self._rank is None or term.epoch != self._newest.epoch:
            return
        if term > self._log.promised:
            self._step_down(now, "another leads a higher term")
            self._log.promise(term)
        elif self._stand is not None:
            self._step_down(now, "there is a primary")
        self._heard_at = now
        self._wait(now, term)
        self._follow(term, peer)
        if not self._whole or not self._fresh(now):
            return  # rules 4 and 5
        self._take(self._stage_for(message), message, parts)
        self._pump(now, quiet=True)
        if isinstance(message, Append):
            self._commit_as_told(message)
        self._report(peer)

    def _stage_for(self, message: Append | Install) -> Stage:
        if self._stage is None or self._stage.term != message.term:
            self._drop_stage()
            self._stage = Stage(
                self._log,
                message.term,
                message.source,
                message.start,
                forced=message.forced,
                held=self._held,
            )
            if self._stage.ready:
                self._own_from = (message.term, message.start)
            self._pump_stage(self._stage)
        return self._stage

    @staticmethod
    def _take(stage: Stage, message: Append | Install, parts: list[bytes]) -> None:
        if isinstance(message, Append):
            stage.take(message.prev, entries_of(message, parts))
        else:
            stage.take_snapshot(snapshot_of(message, parts))

    def _commit_as_told(self, message: Append) -> None:
        if self._stage is None or not self._stage.ready or message.committed < message.start:
            return
        self._establish(message.term.epoch)
        self._commit(min(message.committed, self._log.length))

    def _report(self, peer: bytes) -> None:
        stage = self._stage
        if stage is not None:
            self._send(peer, Report(stage.term, stage.ready, stage.saved, stage.got))

    def _pump(self, now: int, *, quiet: bool = False) -> None:
        """Put on disk what has become complete, and go on from there."""
        stand = self._stand
        stage = self._stage if stand is None else stand.stage
        if stage is None:
            return
        before = stage.saved
        whole = self._pump_stage(stage)
        source = self._followed[1] if stand is None else stand.chosen
        if source is not None:
            fetch = stage.fetch(source, now, self._settings.beat_ms)
            if fetch is not None:
                self._put(fetch)
        if whole and stand is not None:
            self._win(stand.promises[stand.chosen or self._me].accepted, stage.start, now)
        elif stand is None and source is not None and stage.saved > before and not quiet:
            self._report(source)

    def _pump_stage(self, stage: Stage) -> bool:
        """Whether the log was taken over."""
        whole = stage.pump()
        if whole:
            self._own_from = (stage.term, stage.start)
        if whole and stage.lost:
            self._emit("learn.lost", epoch=stage.term.epoch)
            self._reinstall()
        elif whole and self._log.base > self._applied:
            self._reinstall()
        return whole
