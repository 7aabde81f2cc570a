"""Bugs in a group's rounds: what is taken and acknowledged, and what a record proves."""

from tests.mutants.catchers import Family, NamedTests
from tests.mutants.mutant import Change, Mutant

ROUNDS = "protocols/learn/rounds.py"
INTAKE = "protocols/learn/intake.py"
FOLDING = "protocols/learn/folding.py"
JUDGING = "protocols/learn/judging.py"
ROUNDLOG = "protocols/learn/roundlog.py"
ENDORSING = "protocols/learn/endorsing.py"
FOLLOWING = "protocols/learn/following.py"


def _mutant(name: str, drops: str, file: str, old: str, new: str, area: str = "rounds") -> Mutant:
    """`area` is a test file, tests/test_learn_AREA.py."""
    test = NamedTests((f"tests/test_learn_{area}.py",))
    return Mutant(name, drops, (Change(file, old, new),), (test,))


LIARS = tuple(
    Mutant(f"{name}, in a world", drops, (change,), (Family("tiles-liar"),))
    for name, drops, change in (
        (
            "signs-without-computing",
            "a replica signs a round that it computed, and found to be right",
            Change(FOLDING, "            if not wrong:\n", "            if wrong is not None:\n"),
        ),
        (
            "unsigned-ends-accused",
            "a round of the log is signed by whoever says to have computed it",
            Change(
                FOLDING,
                "        if not self._verify(public_key_of",
                "        if 0 and (public_key_of",
            ),
        ),
        (
            "liars-followed",
            "whose round is wrong is followed no more",
            Change(
                FOLDING,
                "        return [told] if who is None or who == self._set.me "
                "else [told, Distrust(who)]\n",
                "        return [told]\n",
            ),
        ),
        (
            "writer-blamed-for-what-it-took-over",
            "whoever took a wrong entry over is not taken for its author",
            Change(
                "protocols/learn/replica_core.py",
                "        if term != self._log.accepted or index <= start:\n",
                "        if term != self._log.accepted:\n",
            ),
        ),
    )
)

MUTANTS = (
    *LIARS,
    _mutant(
        "acked-when-offered",
        "a learner is told Acked when its delta is committed, and not before",
        ROUNDS,
        "        return [self._propose(body, (Blob(",
        "        return [Say(peer, self._intake._acked(found.made)), self._propose(body, (Blob(",
    ),
    _mutant(
        "claims-unverified",
        "what is taken is signed by its learner",
        INTAKE,
        "        check_signed(self._set.realm, push.said, self._verify)\n",
        "",
    ),
    _mutant(
        "late-deltas-lost",
        "what was acknowledged and came late is in the next round",
        ROUNDLOG,
        "        self.number += 1\n",
        "        self.number += 1\n        self.pending.clear()\n",
    ),
    _mutant(
        "two-deltas-of-one-learner",
        "a learner has one delta in a round",
        ROUNDLOG,
        "        if twice:\n",
        "        if twice and found.weight > 1:\n",
    ),
    _mutant(
        "same-bytes-count-once",
        "two learners may make the same bytes, and both count",
        ROUNDLOG,
        "        return self.source, self.made.digest\n",
        '        return b"", self.made.digest\n',
    ),
    _mutant(
        "record-of-one",
        "a record has the signatures of two of the three",
        ENDORSING,
        "ENDORSERS = 2\n",
        "ENDORSERS = 1\n",
    ),
    _mutant(
        "former-records-believed",
        "a record of the epoch before is proven by the group of that epoch",
        ENDORSING,
        "            self._check(record)\n",
        "            pass\n",
    ),
    _mutant(
        "former-records-left",
        "who is new takes over the record of the group before",
        ENDORSING,
        "        if self._check is not None:\n",
        "        if self._check is not None and record.round.epoch == self._epoch:\n",
    ),
    _mutant(
        "bad-deltas-kept",
        "what the worker cannot use waits for no other round",
        ROUNDLOG,
        "if key in inputs or key[1] in self.dropped}\n",
        "if key in inputs}\n",
    ),
    _mutant(
        "records-believed",
        "whoever follows a group takes no round that two of its three did not sign",
        FOLLOWING,
        "            check_record(self._realm, record, replicas, self._verify)\n",
        "",
        "learner",
    ),
    _mutant(
        "signs-without-computing",
        "a replica signs a round that it computed, and found to be right",
        FOLDING,
        "            if not wrong:\n",
        "            if wrong is not None:\n",
        "judging",
    ),
    _mutant(
        "inputs-not-held-against-the-log",
        "a round's inputs are deltas that were acknowledged, with all that was carried",
        FOLDING,
        "        why = misfit(self.log, closed)\n",
        "        why = None\n        misfit(self.log, closed)\n",
        "judging",
    ),
    _mutant(
        "carried-left-out",
        "what stood when a round closed is in the next one",
        JUDGING,
        "not log.carried <= named,\n",
        "False,\n",
        "judging",
    ),
    _mutant(
        "state-not-compared",
        "the outer state after a round is part of what is signed",
        JUDGING,
        'if name != "epoch")\n',
        'if name not in ("epoch", "after", "after_size"))\n',
        "judging",
    ),
    _mutant(
        "shares-not-compared",
        "who earns by a round is computed by everybody",
        JUDGING,
        'if name != "epoch")\n',
        'if name not in ("epoch", "inputs"))\n',
        "judging",
    ),
    _mutant(
        "made-up-deltas-folded",
        "a delta of the log is signed by its learner, whoever wrote it there",
        INTAKE,
        "        if not ours:\n            check_signed",
        "        if False:\n            check_signed",
        "judging",
    ),
    _mutant(
        "next-before-the-record",
        "no round closes before the one before it has its record",
        ROUNDS,
        "        return self.leading and idle and proven\n",
        "        return self.leading and idle\n",
        "judging",
    ),
    _mutant(
        "folds-what-is-undecided",
        "the log is cut off behind a record only",
        FOLDING,
        "        if last is None or self._fold_at != last.number:\n",
        "        if last is None:\n",
        "judging",
    ),
    _mutant(
        "liars-followed",
        "whose round is wrong is followed no more",
        FOLDING,
        "        return [told] if who is None or who == self._set.me else [told, Distrust(who)]\n",
        "        return [told]\n",
        "judging",
    ),
    _mutant(
        "states-believed",
        "a state taken over from another is proven by its record",
        FOLDING,
        "            self._endorsing.check(record)\n        except BadClaimError as error:\n",
        "            pass\n        except BadClaimError as error:\n",
        "judging",
    ),
    _mutant(
        "unsigned-ends-blame-the-successor",
        "whoever took a wrong entry over is not taken for its author",
        "protocols/learn/replica_core.py",
        "        if term != self._log.accepted or index <= start:\n            return None\n",
        "",
        "replica",
    ),
    _mutant(
        "distrusted-are-counted",
        "who lied is granted nothing and counted nowhere",
        "protocols/learn/replica_core.py",
        "        return [peer for peer in left if peer not in self._distrusted]\n",
        "        return list(left)\n",
        "replica",
    ),
)
