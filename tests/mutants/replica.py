"""Bugs in a tile group's replicas: each rule of CONSENSUS.md, section 2, dropped in turn, and more.

Dropping a rule takes as many changes as there are places that keep it.
"""

from tests.mutants.catchers import Catcher, Family, NamedTests
from tests.mutants.mutant import Change, Mutant

REPLICA = "protocols/learn/replica.py"
CORE = "protocols/learn/replica_core.py"
PRIMARY = "protocols/learn/replica_primary.py"
FOLLOWER = "protocols/learn/replica_follower.py"
CANDIDATE = "protocols/learn/replica_candidate.py"
LOG = "protocols/learn/replica_log.py"
STAND = "protocols/learn/replica_stand.py"
STAGE = "protocols/learn/replica_stage.py"
LEAD = "protocols/learn/replica_lead.py"
CHECKS = "simnet/virtual/tilechecks.py"

OUTCOMES_ONLY = Change(CHECKS, "AUDITING = True", "AUDITING = False")
"""What leaves a replica is not looked at: only what it costs counts. So a mutant shows that the
group's outcome depends on the rule, as the prototype's did."""


def families(*names: str) -> tuple[Catcher, ...]:
    """Families of the simulator, in the order in which they are tried."""
    return tuple(Family(name) for name in names)


def scripted(*names: str) -> tuple[Catcher, ...]:
    """Scripted tests of a group's replicas."""
    return tuple(NamedTests((f"tests/test_learn_replica.py::test_{name}",)) for name in names)


def both(name: str, drops: str, changes: tuple[Change, ...], *names: str) -> tuple[Mutant, ...]:
    """The mutant under all checks, and under those of the outcome alone."""
    return (
        Mutant(name, drops, changes, families(*names)),
        Mutant(f"{name}, by outcome", drops, (*changes, OUTCOMES_ONLY), families(*names)),
    )


FETCH_BEFORE_PROMISE = Mutant(
    "fetch-before-promise",
    "rule 1: a replica promises first, and then reports its log",
    (
        Change(
            CANDIDATE,
            '            self._step_down(now, "another asks for a term")\n'
            "            self._log.promise(term)\n"
            "            self._follow(term, None)\n",
            "",
        ),
    ),
    (
        *families("tiles-storm"),
        *scripted("a_promise_is_on_disk_before_it_is_reported_and_lower_terms_are_refused"),
    ),
)
TERM_OF_CREATION = both(
    "term-of-creation-compared",
    "rule 2: logs are compared by the term in which they were last accepted",
    (
        Change(
            LOG,
            "        return Place(self.accepted, self.length)\n",
            "        written = [s.term for s in self.segments if s.start <= self.length]\n"
            "        return Place(written[-1] if written else NO_TERM, self.length)\n",
        ),
    ),
    "tiles-storm",
    "tiles-epochs",
)
LONGEST_WINS = both(
    "longest-log-wins",
    "rule 2: the log that was accepted in the highest term is taken, however short",
    (
        Change(
            STAND,
            "            if Place(promise.accepted, promise.length) > found[1]:\n",
            "            if promise.length > found[1].length:\n",
        ),
    ),
    "tiles-storm",
    "tiles-epochs",
)
PROMISE_FORGOTTEN = Mutant(
    "promise-forgotten",
    "rule 1: a promise is on disk",
    (
        Change(
            LOG,
            "        self.promised = term\n        self._save_state()\n",
            "        self.promised = term\n",
        ),
    ),
    (*families("tiles-storm"), *scripted("a_promise_survives_a_restart")),
)
WIPED_TAKES_PART = both(
    "wiped-disk-takes-part",
    "rule 4: a wiped replica neither grants nor acknowledges until the next epoch",
    (Change(CORE, "        return max(self._born_at, self._log.since)\n", "        return 0\n"),),
    "tiles-wiped",
)
PARALLEL_AND_RESUMES = both(
    "writes-in-parallel-and-resumes",
    "rule 3: a primary writes first and then sends, and after a restart asks for a new term",
    (
        Change(
            PRIMARY,
            "            self._log.append(Entry(event.body, event.blobs))\n"
            "            lead.tags[self._log.length] = event.tag\n"
            "            self._broadcast(always=False)\n",
            "            at = len(self._effects)\n"
            "            self._log.append(Entry(event.body, event.blobs))\n"
            "            lead.tags[self._log.length] = event.tag\n"
            "            late, self._effects = self._effects[at:], self._effects[:at]\n"
            "            self._broadcast(always=False)\n"
            "            self._effects += late\n",
        ),
        Change(
            REPLICA,
            "            self._maybe_stand(now)\n\n    def _ledger(",
            "            from protocols.learn.replica_lead import Lead\n"
            "            if mine and self._log.accepted == self._log.promised:\n"
            "                term = self._log.accepted\n"
            "                self._lead = Lead(term, term, self._log.length, self._others(), now)\n"
            "            self._maybe_stand(now)\n\n    def _ledger(",
        ),
    ),
    "tiles-storm",
    "tiles-epochs",
)
NO_SEAL = both(
    "no-seal",
    "rule 5: two of the old three seal their epoch before the new group serves",
    (
        Change(
            STAND,
            "            if self._served(each) or each.epoch <= first:\n"
            "                return True\n",
            "            return True\n",
        ),
    ),
    "tiles-epochs",
)
NO_LEASE = Mutant(
    "no-lease",
    "rule 5: who has no fresh tick, or knows of a newer epoch, acknowledges nothing",
    (Change(CORE, "        return age <= self._settings.lease_ms\n", "        return True\n"),),
    (*families("tiles-lease"), *scripted("who_has_no_fresh_tick_acknowledges_and_commits_nothing")),
)

OTHERS = (
    Mutant(
        "no-restamp",
        "rule 2: the old log is committed anew before anything else",
        (Change(PRIMARY, "        if stored < lead.start or not", "        if not"),),
        families("tiles-storm", "tiles-epochs"),
    ),
    Mutant(
        "one-of-three-decides",
        "two of three have an entry on disk before it is committed",
        (
            Change(
                PRIMARY,
                "        stored = min(lead.stored(), self._log.length)\n",
                "        stored = self._log.length\n",
            ),
        ),
        families("tiles-storm"),
    ),
    Mutant(
        "commits-before-ready",
        "rule 2: a follower takes nothing for committed before it has the new primary's log",
        (
            Change(
                FOLLOWER,
                "self._stage is None or not self._stage.ready or message",
                "self._stage is None or message",
            ),
        ),
        families("tiles-storm", "tiles-epochs"),
    ),
    Mutant(
        "keeps-what-is-another-logs",
        "a follower keeps only what the new primary's log has, too",
        (
            Change(
                STAGE,
                "        elif log.accepted == source:\n",
                "        elif log.length >= 0:\n",
            ),
        ),
        families("tiles-storm", "tiles-epochs"),
    ),
    Mutant(
        "blobs-not-awaited",
        "an entry counts as stored only after its blobs are on disk",
        (
            Change(
                STAGE,
                "            if blob.digest not in self._held and blob.digest not in self._known\n",
                "            if False\n",
            ),
        ),
        families("tiles-storm"),
    ),
    Mutant(
        "folded-log-not-sent",
        "a follower that lags behind the snapshot is sent it",
        (Change(LEAD, "            if follower.sent < log.base:\n", "            if False:\n"),),
        families("tiles-storm"),
    ),
    Mutant(
        "lower-terms-taken",
        "lower terms are refused by everybody",
        (
            Change(
                FOLLOWER,
                "        if term < self._log.promised:\n"
                "            self._send(peer, Stale(self._log.promised))\n"
                "            return\n"
                "        if peer in self._distrusted:\n",
                "        if peer in self._distrusted:\n",
            ),
        ),
        families("tiles-storm", "tiles-epochs"),
    ),
    Mutant(
        "anybody-asks",
        "each term has one candidate",
        (
            Change(
                CANDIDATE,
                "        return Term(self._newest.epoch, number + (rank - number) % REPLICAS)\n",
                "        return Term(self._newest.epoch, number + 0 * rank)\n",
            ),
        ),
        families("tiles-storm"),
    ),
)

AT_THE_TURN = (
    Mutant(
        "sealed-by-one",
        "rule 5: two of the old three seal their epoch",
        (
            Change(
                STAND,
                "needed = 1 if each.epoch in forced else QUORUM\n",
                "needed = QUORUM if each is seats[0] else 1\n",
            ),
        ),
        families("tiles-epochs"),
    ),
    Mutant(
        "promised-by-one",
        "two of an epoch's own three promise",
        (
            Change(
                STAND,
                "needed = 1 if each.epoch in forced else QUORUM\n",
                "needed = 1 if each.epoch in forced or each is seats[0] else QUORUM\n",
            ),
        ),
        families("tiles-storm", "tiles-epochs"),
    ),
    Mutant(
        "forced-at-once",
        "rule 5: an epoch is forced after its lease, and not as soon as two are silent",
        (
            Change(
                CANDIDATE,
                "            if self._ticked.tick_ms >= (new.started_ms or newest) + lease\n",
                "            if self._ticked.tick_ms >= (new.started_ms or newest)\n",
            ),
        ),
        families("tiles-lease", "tiles-epochs"),
    ),
    Mutant(
        "commits-with-an-old-ledger",
        "rule 5: who has no fresh tick commits nothing, whatever it hears",
        (
            Change(
                PRIMARY,
                "        if stored < lead.start or not self._fresh(now):\n",
                "        if stored < lead.start:\n",
            ),
        ),
        scripted("a_primary_whose_ledger_became_old_commits_nothing_of_what_followers_report"),
    ),
    Mutant(
        "acknowledges-with-an-old-ledger",
        "rule 5: who has no fresh tick acknowledges nothing",
        (
            Change(
                FOLLOWER,
                "        if not self._whole or not self._fresh(now):\n",
                "        if not self._whole:\n",
            ),
        ),
        scripted("a_follower_whose_ledger_is_old_acknowledges_nothing_to_a_primary_whose_is_not"),
    ),
    Mutant(
        "established-when-won",
        "an epoch is established when two of its three have the log, and not when one won it",
        (
            Change(
                PRIMARY,
                "        self._stand, self._stage = None, None\n",
                "        self._stand, self._stage = None, None\n"
                "        self._establish(self._log.accepted.epoch)\n",
            ),
        ),
        families("tiles-wiped", "tiles-epochs"),
    ),
    Mutant(
        "let-go-unestablished",
        "the old three forget their log when the new ones have it, and not before",
        (
            Change(
                REPLICA,
                "        if self._log.established >= message.epoch:\n"
                "            self._send(peer, Retire(self._log.established))\n",
                "        self._send(peer, Retire(message.epoch))\n",
            ),
        ),
        families("tiles-epochs"),
    ),
)
"""How one epoch follows another. Of the last rule's two halves each is enough where the other is
kept, for an entry needs both replicas: so what the group comes to shows neither, and a scripted
test does."""

MUTANTS = (
    FETCH_BEFORE_PROMISE,
    *TERM_OF_CREATION,
    *LONGEST_WINS,
    PROMISE_FORGOTTEN,
    *WIPED_TAKES_PART,
    *PARALLEL_AND_RESUMES,
    *NO_SEAL,
    NO_LEASE,
    *OTHERS,
    *AT_THE_TURN,
)
