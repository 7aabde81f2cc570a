"""Bugs in the council's log: each of its rules dropped in turn (docs/council.md), and its memory.

Dropping a rule takes as many changes as there are places that keep it.
"""

from tests.mutants.catchers import Catcher, Family, NamedTests
from tests.mutants.mutant import Change, Mutant

CORE = "protocols/raft/core.py"
LEADER = "protocols/raft/leader.py"
LOG = "protocols/raft/log.py"
MEMBER = "protocols/raft/member.py"
STATE = "protocols/raft/state.py"
TERMS = "protocols/raft/terms.py"
PACE = "protocols/raft/pacemaker.py"
GUILT = "protocols/raft/guilt.py"
COUNCIL = "protocols/ledger/council.py"


def families(*names: str) -> tuple[Catcher, ...]:
    """Families of the simulator, in the order in which they are tried."""
    return tuple(Family(name) for name in names)


def rules(*names: str, file: str = "rules") -> tuple[Catcher, ...]:
    """Scripted tests of the council's log."""
    return tuple(NamedTests((f"tests/test_raft_{file}.py::test_{name}",)) for name in names)


ONE_CHAIN = Mutant(
    "one-chain-dropped",
    "rule 1: within a term each ack extends the one before",
    (
        Change(STATE, "if head.index < before.index or not extends(before):", "if False:"),
        Change(
            CORE,
            "if acked is not None and acked.index > head.index - len(path):",
            "if acked is not None and acked.index > head.index:",
        ),
        Change(MEMBER, "fixed = max(fixed, acked.index)", "fixed = max(fixed, 0)"),
    ),
    (
        *families("twins", "leaders"),
        *rules("no_second_branch_in_a_term_even_under_a_higher_certificate"),
    ),
)
FLOOR = Mutant(
    "floor-dropped",
    "rule 2: nothing is signed in a term below the place where it opened",
    (
        Change(STATE, "head.index < floor.index or not extends(floor):", "False:"),
        Change(
            MEMBER,
            "            if not core.align(start):\n",
            "            if not core.align(start):\n"
            "                self._say(core.ack(core.log.end.index))\n",
        ),
    ),
    (
        *families("twins", "crashes"),
        *rules("nobody_signs_below_the_place_where_the_term_opened"),
    ),
)
RULE_3 = (
    Mutant(
        "lock-rule-dropped",
        "rule 3: a term opens at a certificate as high as any that its time-outs name",
        (Change(COUNCIL, "if said.rank > opening.certificate.rank:", "if False:"),),
        (*families("leaders"), *rules("a_false_opening_opens_nothing", file="terms")),
    ),
    Mutant(
        "signing-after-the-time-out",
        "rule 3: after a time-out nothing more is signed in an earlier term",
        (
            Change(
                STATE,
                "return max(acked, 0 if self.time_out is None else self.time_out.said.term)",
                "return acked",
            ),
            Change(
                TERMS,
                "        self._enter(term)\n        signed = core.vows.sign_time_out(term)",
                "        signed = core.vows.sign_time_out(term)",
            ),
        ),
        (
            *families("partitions", "crashes"),
            *rules("after_the_time_out_nothing_is_signed_in_the_term_below", file="terms"),
        ),
    ),
    Mutant(
        "one-leader-for-ever",
        "rule 3: leaders take turns, and nobody stands for election",
        (
            Change(
                COUNCIL,
                "return self._order[term % len(self.seats)]",
                "return self._order[min(term, 2) % len(self.seats)]",
            ),
        ),
        families("leaders", "crashes"),
    ),
    Mutant(
        "suspicion-of-one",
        "rule 3: a term ends when a quorum suspects, not when one member does",
        (
            Change(
                PACE,
                "_nth(suspected.values(), self._council.quorum) + 1",
                "_nth(suspected.values(), 1) + 1",
            ),
        ),
        (*families("liars", "leaders"), *rules("a_third_of_liars_moves_nobody", file="pacemaker")),
    ),
    Mutant(
        "openings-believed",
        "rule 3: an opening is verified, whoever brings it",
        (
            Change(
                TERMS,
                "            check_opening(core.realm, core.council, opening, core.verify)",
                "            len(opening.time_outs)",
            ),
        ),
        (*families("leaders"), *rules("a_false_opening_opens_nothing", file="terms")),
    ),
    Mutant(
        "said-only-once",
        "rule 3: suspicions and time-outs are sent again until they are answered",
        (
            Change(
                TERMS,
                "        if now < self._said_at + core.settings.retry:\n            return\n"
                "        if core.pace.suspecting:",
                "        if self._said_at > -1e8:\n            return\n"
                "        if core.pace.suspecting:",
            ),
        ),
        (*families("crashes"), *rules("a_time_out_is_repeated_until_the_term_opens", file="terms")),
    ),
)
RULE_4 = (
    Mutant(
        "certificate-of-an-old-term",
        "rule 4: certificate-acks only for certificates of the current term",
        (
            Change(STATE, "if self.lost or said.term != term or", "if self.lost or"),
            Change(MEMBER, "if said.term != core.term or certificate", "if certificate"),
        ),
        (
            *rules("certificates_of_an_old_term_are_held_and_not_acknowledged"),
            *families("twins", "crashes"),
        ),
    ),
    Mutant(
        "opening-head-not-acknowledged",
        "rule 4: a new term first acknowledges its opening head again",
        (
            Change(
                LEADER,
                "if start.index > core.ratified.index or (core.term > 1 and acked is None):",
                "if False:",
            ),
        ),
        (*rules("a_new_term_acknowledges_its_opening_head_again"), *families("epochs")),
    ),
)
RULE_5 = (
    Mutant(
        "heartbeat-resets-the-timer",
        "rule 5: only a newly ratified entry resets the timer",
        (
            Change(
                MEMBER,
                "        if core.opening is None or core.over:\n            return\n",
                "        core.pace.progress(core.now.mono)\n"
                "        if core.opening is None or core.over:\n            return\n",
            ),
        ),
        (*families("idle"), *rules("no_message_of_the_leaders_resets_the_timer")),
    ),
    Mutant(
        "censorship-not-suspected",
        "rule 5: a submission left unratified for a time-out counts as suspicion",
        (Change(TERMS, "late = core.pool.overdue(", "late = False and core.pool.overdue("),),
        (*families("leaders"), *rules("a_censoring_leader_is_replaced")),
    ),
    Mutant(
        "idle-leader-without-ticks",
        "rule 5: an idle leader ratifies ticks",
        (Change(LEADER, "if log.end.index == core.tip and self._idle():", "if False:"),),
        (*families("idle"), *rules("an_idle_council_stays_in_its_term")),
    ),
)
EPOCH = Mutant(
    "entries-behind-the-epochs-last",
    "rule 6: nothing follows an epoch entry under the council that it ends",
    (
        Change(
            LOG,
            '        if self.ended:\n            raise AfterEpochError("an',
            '        if False:\n            raise AfterEpochError("an',
        ),
        Change(
            LOG,
            "            if self.ended:\n                return False",
            "            if False:\n                return False",
        ),
        Change(
            LEADER,
            "        if log.ended:\n            return core.tip",
            "        if False:\n            return core.tip",
        ),
        Change(LEADER, "if size > MAX_BATCH_BYTES or log.ended:", "if size > MAX_BATCH_BYTES:"),
    ),
    (*families("epochs"), *rules("nothing_follows_the_entry_that_ends_the_epoch")),
)
RULE_7 = (
    Mutant(
        "lost-state-signs",
        "rule 7: a seat that lost its state refuses to sign",
        (
            Change(
                STATE,
                '            self.lost = "missing"\n            return',
                '            self.lost = ""\n            return',
            ),
            Change(CORE, "        if self.seat not in certificate.seats:", "        if True:"),
        ),
        (*families("disks"), *rules("a_seat_without_its_state_signs_nothing", file="memory")),
    ),
    Mutant(
        "state-of-another-key-counts",
        "rule 7: a state record of another seat key is none",
        (
            Change(
                STATE,
                "if not isinstance(state, Record) or state.key != self._key:",
                "if not isinstance(state, Record):",
            ),
        ),
        rules("a_record_of_another_key_is_no_state", file="memory"),
    ),
    Mutant(
        "old-image-signs",
        "rule 7: who sees a signature of its own that it has forgotten refuses to sign",
        (Change(CORE, "        if self.seat not in certificate.seats:", "        if True:"),),
        (
            *rules(
                "a_forgotten_ack_comes_to_light", "a_forgotten_lock_comes_to_light", file="memory"
            ),
        ),
    ),
)
RULE_8 = (
    Mutant(
        "moved-aside-deleted-early",
        "rule 8: what was acknowledged is moved aside, not deleted",
        (
            Change(
                LOG,
                "            if entry.header.index > self.ledger.head.index:\n"
                "                self._aside[entry.hash] = term\n",
                "            if False:\n                self._aside[entry.hash] = term\n",
            ),
        ),
        (
            *rules("what_was_acknowledged_is_kept_until_a_later_terms_certificate", file="memory"),
            *families("partitions", "crashes"),
        ),
    ),
    Mutant(
        "sent-before-saved",
        "rule 8: what is signed is saved first",
        (
            Change(
                CORE,
                "        taken = self.effects[:]\n",
                "        taken = self.effects[:]\n"
                "        taken.sort(key=lambda one: type(one).__name__ == 'Save')\n",
            ),
        ),
        families("crashes", "twins"),
    ),
    Mutant(
        "entries-not-saved",
        "rule 8: entries are saved before they are acknowledged",
        (
            Change(
                CORE,
                "        self.log.save(index)\n        signed = self.vows.ack",
                "        signed = self.vows.ack",
            ),
        ),
        families("crashes"),
    ),
)
MEMORY = (
    Mutant(
        "vote-not-persisted",
        "what was acknowledged is remembered over a restart",
        (
            Change(
                STATE,
                "self.acked, self.time_out = state.acked, state.time_out",
                "self.time_out = state.time_out",
            ),
        ),
        (
            *families("crashes", "twins"),
            *rules("a_vote_is_not_forgotten_on_restart", file="memory"),
        ),
    ),
    Mutant(
        "lock-not-persisted",
        "the highest certificate is remembered over a restart",
        (
            Change(
                STATE,
                "            if state.high is not None:\n                self.high = state.high",
                "            pass",
            ),
        ),
        (
            *families("crashes", "partitions"),
            *rules("a_lock_is_not_forgotten_on_restart", file="memory"),
        ),
    ),
    Mutant(
        "time-out-not-persisted",
        "a signed time-out is remembered over a restart",
        (
            Change(
                STATE,
                "self.acked, self.time_out = state.acked, state.time_out",
                "self.acked = state.acked",
            ),
        ),
        (
            *families("crashes", "partitions"),
            *rules("a_time_out_is_not_forgotten_on_restart", file="memory"),
        ),
    ),
    Mutant(
        "saved-entries-believed",
        "a saved entry must hash to its own name",
        (Change(LOG, "    if chain_hash(network, header) != entry.hash:", "    if False:"),),
        (*families("disks"), *rules("an_entry_proves_itself_by_its_name", file="log")),
    ),
    Mutant(
        "checksum-not-checked",
        "what a disk gives back is checked against its checksum, its table and its key",
        (
            Change(
                "protocols/records.py",
                "or _checksum(table, key, value) != record[:CHECKSUM_LENGTH]:",
                "or not _checksum(table, key, value):",
            ),
        ),
        (*families("disks"), NamedTests(("tests/test_ledger_store.py",))),
    ),
)
QUORUMS = (
    Mutant(
        "quorum-one-too-small",
        "a quorum is more than two thirds of the seats",
        (
            Change(
                COUNCIL, "return 2 * len(self.seats) // 3 + 1", "return 2 * len(self.seats) // 3"
            ),
        ),
        families("twins", "partitions"),
    ),
    Mutant(
        "certificates-believed",
        "a certificate is verified, whoever brings it",
        (
            Change(
                CORE,
                "check_certificate(self.realm, self.council, certificate, self.verify)",
                "len(certificate.signatures)",
            ),
        ),
        families("liars"),
    ),
    Mutant(
        "acknowledgements-counted-unverified",
        "a leader verifies each signature that it counts",
        (
            Change(
                LEADER,
                "if not core.signed_by(seat, message.said, message.signature):",
                "if not message.signature:",
            ),
        ),
        (*rules("one_seat_counts_once_and_a_forger_not_at_all", file="leader"), *families("liars")),
    ),
    Mutant(
        "fetched-entries-believed",
        "a fetched entry hashes to the name that was asked for",
        (
            Change(LOG, " or chain_hash(self._network, header) != wanted.hash:", ":"),
            Change(LOG, "        if payload_hash(payload) != header.payload:", "        if False:"),
        ),
        (*rules("fetched_entries_are_what_was_asked_for", file="log"), *families("liars")),
    ),
)
GUILTY = (
    Mutant(
        "fork-not-noticed",
        "who signs two chains in one term is accused",
        (
            Change(
                GUILT,
                "if found is not None and found[1] != lower[0].hash:",
                "if found is not None and not found[1]:",
            ),
        ),
        rules("two_at_one_index", file="guilt"),
    ),
    Mutant(
        "honest-accused",
        "an accusation is checked before it is made",
        (
            Change(
                GUILT,
                "            check_guilt(self._realm, self._council, guilt, self._verify)",
                "            repr(guilt)",
            ),
        ),
        rules("a_forged_statement_is_no_proof", file="guilt"),
    ),
    Mutant(
        "unsigned-leader-followed",
        "a leader's batch counts only under its signature of the mark",
        (
            Change(
                MEMBER,
                "if not core.signed_by(core.leader, said, batch.signature):",
                "if not batch.signature:",
            ),
        ),
        (*families("leaders"), *rules("a_leader_that_does_not_sign_its_mark_is_not_followed")),
    ),
)
TALKING = (
    Mutant(
        "nothing-sent-again",
        "what was not answered is sent again",
        (
            Change(
                LEADER,
                "if seat == core.seat or not self._owes(peer) or now < peer.sent",
                "if True or not self._owes(peer) or now < peer.sent",
            ),
        ),
        (
            *rules("what_is_not_answered_is_sent_again_ever_more_rarely", file="leader"),
            *families("crashes"),
        ),
    ),
    Mutant(
        "tick-far-from-the-clock",
        "a member acknowledges a tick only near its own clock",
        (
            Change(
                MEMBER,
                "return core.log.ledger.timely(payload, core.now.unix_ms)",
                "return True",
            ),
        ),
        (*rules("an_untimely_tick_waits_and_blames_nobody", file="memory"), *families("clocks")),
    ),
    Mutant(
        "invalid-entries-acknowledged",
        "a member acknowledges only what the ledger's pure check accepts",
        (
            Change(
                MEMBER,
                "            except SynapseError as error:\n",
                "            except SynapseError as error:\n                return index\n",
            ),
        ),
        (*families("leaders"), *rules("an_invalid_entry_is_the_leaders_fault", file="memory")),
    ),
)

MUTANTS = (
    ONE_CHAIN,
    FLOOR,
    *RULE_3,
    *RULE_4,
    *RULE_5,
    EPOCH,
    *RULE_7,
    *RULE_8,
    *MEMORY,
    *QUORUMS,
    *GUILTY,
    *TALKING,
)
