"""Bugs in what counts as proof: quorums, certificates, openings, guilt."""

from tests.mutants.catchers import NamedTests
from tests.mutants.mutant import Change, Mutant

FILE = "protocols/ledger/council.py"


def _mutant(name: str, drops: str, old: str, new: str, *nodes: str) -> Mutant:
    return Mutant(name, drops, (Change(FILE, old, new),), (NamedTests(nodes),))


WORDS = "tests/test_council_words.py"
PROOFS = "tests/test_council_proofs.py"
REALM = "tests/test_realm.py"
BAD_CERTIFICATES = f"{WORDS}::test_what_is_no_quorum_over_one_statement_is_refused"
ANOTHER_EPOCH = f"{WORDS}::test_another_epochs_and_another_networks_certificates_are_refused"
OPENINGS = f"{WORDS}::test_a_term_opens_with_a_quorum_of_time_outs_at_a_certificate_that_none_tops"
NO_GUILT = f"{WORDS}::test_what_does_not_contradict_is_no_guilt"
RETREAT = f"{WORDS}::test_a_certificate_ack_above_what_a_later_time_out_names_is_guilt"
ALL_SIGNED = f"{PROOFS}::test_every_field_is_signed"
ONE_FORGED = f"{PROOFS}::test_one_forged_signature_anywhere_spoils_a_certificate"
NAMES_MORE = f"{PROOFS}::test_one_time_out_that_names_more_keeps_a_term_from_opening"

MUTANTS = (
    _mutant(
        "certificate-seat-twice",
        "a certificate counts each seat once",
        "if len(seats) != len(signatures) or any(a >= b for a, b in itertools.pairwise(seats)):",
        "if len(seats) != len(signatures) or any(a > b for a, b in itertools.pairwise(seats)):",
        BAD_CERTIFICATES,
    ),
    _mutant(
        "certificate-signature-unchecked",
        "every signature of a certificate is verified",
        "    for number, signature in zip(seats, signatures, strict=True):\n",
        "    for number, signature in list(zip(seats, signatures, strict=True))[1:]:\n",
        ONE_FORGED,
    ),
    _mutant(
        "certificate-wrong-epoch",
        "a certificate of another epoch's council is refused",
        '    if said.epoch != council.epoch:\n        raise WrongEpochError(f"a certificate',
        '    if said.epoch > council.epoch:\n        raise WrongEpochError(f"a certificate',
        ANOTHER_EPOCH,
    ),
    _mutant(
        "signature-without-term",
        "a signature covers the term",
        "packed = _STATEMENT.pack(said.kind, said.epoch, said.term, said.index, said.hash)",
        "packed = _STATEMENT.pack(said.kind, said.epoch, 0, said.index, said.hash)",
        ALL_SIGNED,
    ),
    _mutant(
        "opening-below-a-time-out",
        "rule 3: a term opens at a certificate as high as any that its time-outs name",
        "if said.rank > opening.certificate.rank:",
        "if said.rank[0] > opening.certificate.rank[0]:",
        NAMES_MORE,
    ),
    _mutant(
        "opening-with-time-outs-of-another-term",
        "rule 3: the time-outs are for the term that opens",
        "if said.epoch != opening.epoch or said.term != opening.term:",
        "if said.epoch != opening.epoch or said.term < opening.term - 1:",
        OPENINGS,
    ),
    _mutant(
        "guilt-signature-unverified",
        "an accused seat has signed what is held against it",
        "        if not verify(seat.key, signed_bytes(realm, said), signature):\n"
        "            raise BadGuiltError(",
        "        if not signature:\n            raise BadGuiltError(",
        NO_GUILT,
        RETREAT,
    ),
    _mutant(
        "guilt-on-one-chain",
        "two acks on one chain are no guilt",
        "if found == lower.hash:",
        "if found == upper.hash:",
        NO_GUILT,
    ),
    _mutant(
        "guilt-of-an-earlier-time-out",
        "a time-out signed before the certificate-ack is no guilt",
        "if acked.term >= later.term or later.rank >= (acked.term, acked.index):",
        "if later.rank >= (acked.term, acked.index):",
        RETREAT,
    ),
    Mutant(
        "signatures-name-no-genesis",
        "what is signed in one ledger says nothing in another of the same name and people",
        (Change("protocols/realm.py", "domain(str(realm), use)", "domain(realm.network, use)"),),
        (
            NamedTests(
                (
                    f"{REALM}::test_a_seat_that_serves_both_histories_is_guilty_in_neither",
                    f"{REALM}::"
                    "test_a_submission_a_vote_and_an_approval_of_one_are_refused_by_the_other",
                )
            ),
        ),
    ),
)
