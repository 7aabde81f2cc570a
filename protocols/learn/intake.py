"""Deltas on their way into a group's log, at its primary: what is refused, proposed, and answered.

A learner's delta is looked at twice: `screen` sees what is signed, before its bytes are fetched,
and `pushed` offers it to the log. Whoever asks for an answer gets it when it is committed.
"""

from protocols.envelope import Verify
from protocols.learn.claims import Claim, Made, Sum, check_signed
from protocols.learn.closing import Closing
from protocols.learn.messages import MAX_NAMED, Acked, Push, Reason, Refused
from protocols.learn.round_ports import MAX_FAN_IN, RoundsSettings, Say
from protocols.learn.roundlog import Key, Pending, RoundLog, Taken, pending_of


class Intake:
    """Of one group. Nothing is lost with its primary: what was not acknowledged comes again."""

    def __init__(
        self, settings: RoundsSettings, log: RoundLog, closing: Closing, verify: Verify
    ) -> None:
        self._set = settings
        self._log = log
        self._closing = closing
        self._verify = verify
        self.leading = False
        """Whether we are the primary, and know where the log stands."""
        self.primary: bytes | None = None
        self._answers: dict[Key, dict[bytes, None]] = {}
        """Who waits for an answer to which delta that is proposed, by Pending.key."""
        self._coming: dict[tuple[int, bytes], bytes] = {}
        """(round, learner) of what is proposed and not committed, and its digest."""

    def turn(self, settings: RoundsSettings) -> None:
        """Another epoch."""
        self._set = settings

    def clear(self) -> None:
        """Somebody else leads, or we do anew."""
        self._answers.clear()
        self._coming.clear()

    def screen(self, push: Push) -> Refused | None:
        """Why a delta of ours in `push` is refused without a look at its bytes; None: fetch them,
        and say Heard. Raises BadClaimError where the message is not what it says."""
        found = self._found(push)
        reason: str | None = "not-here"
        if found is not None:
            if self.leading and (self._log.has(found) or self._is_coming(found)):
                return None  # it is answered as before
            reason = self._why_not(push.said, found)
        if reason is not None:
            return self._refused(found, reason)
        check_signed(self._set.realm, push.said, self._verify)
        return None

    def pushed(self, peer: bytes, push: Push, now_ms: int) -> tuple[list[Say], Pending | None]:
        """A delta whose bytes are here: answers, and what is to be proposed."""
        refused = self.screen(push)
        if refused is not None:
            return [Say(peer, refused)], None
        found = self._found(push)
        assert found is not None
        if self._log.has(found):
            return [Say(peer, self._acked(found.made))], None
        digest = found.made.digest
        self._answers.setdefault(found.key, {})[peer] = None
        if self._is_coming(found):
            return [], None
        for learner in found.learners:
            self._coming[(found.made.number, learner)] = digest
        self._closing.came(found, now_ms)
        return [], found

    def declined(self, found: Pending) -> None:
        """The log did not take it: whoever made the offer makes it again."""
        self._answers.pop(found.key, None)
        self._forget_coming(found)

    def taken(self, body: Taken, *, ours: bool) -> list[Say]:
        """It is committed; `ours`: we looked at it before we proposed it.

        Raises BadClaimError for what nobody signed: its primary made it up.
        """
        found = pending_of(body.said, self._set.group)
        if found is None:
            return []
        self._forget_coming(found)
        waiting = self._answers.pop(found.key, {})
        if not ours:
            check_signed(self._set.realm, body.said, self._verify)
        self._log.apply(body)
        if self._log.has(found):
            return [Say(peer, self._acked(found.made)) for peer in waiting]
        refused = self._refused(found, self._log.why_not(found) or "stale")
        return [Say(peer, refused) for peer in waiting]

    def _why_not(self, said: Claim | Sum, found: Pending) -> str | None:
        if not self.leading:
            return "not-leading"
        if found.made.size > self._set.max_delta:
            return "malformed"
        if not self._may(said):
            return "full"
        return self._log.why_not(found) or self._crossing(found)

    def _found(self, push: Push) -> Pending | None:
        if push.said.model != self._set.model or self._set.group not in push.groups:
            return None
        return pending_of(push.said, self._set.group)

    def _may(self, said: Claim | Sum) -> bool:
        if isinstance(said, Claim):
            return self._set.may_learn(said.learner)
        return len(said.inputs) <= MAX_FAN_IN and self._set.may_aggregate(said.aggregator)

    def _is_coming(self, found: Pending) -> bool:
        number, digest = found.made.number, found.made.digest
        return all(self._coming.get((number, learner)) == digest for learner in found.learners)

    def _crossing(self, found: Pending) -> Reason | None:
        """Whether something that is on its way through the log stands against it."""
        if not any((found.made.number, learner) in self._coming for learner in found.learners):
            return None
        return "duplicate" if found.weight == 1 else "overlap"

    def _refused(self, found: Pending | None, reason: str) -> Refused:
        learners: tuple[bytes, ...] = ()
        if found is not None and reason == "overlap":
            number, seen = found.made.number, self._log.seen_of(found.made.number)
            learners = tuple(
                learner
                for learner in found.learners
                if learner in seen or (number, learner) in self._coming
            )
        return Refused(
            model=self._set.model,
            group=self._set.group,
            number=self._log.number,
            base=self._log.head,
            digest=bytes(32) if found is None else found.made.digest,
            reason=reason,  # type: ignore[arg-type]  # why_not gives Reasons
            hint=None if self.leading else self.primary,
            learners=learners[:MAX_NAMED],
        )

    def _forget_coming(self, found: Pending) -> None:
        for learner in found.learners:
            self._coming.pop((found.made.number, learner), None)

    def _acked(self, made: Made) -> Acked:
        return Acked(
            model=self._set.model, group=self._set.group, number=made.number, digest=made.digest
        )
