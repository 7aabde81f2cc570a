"""Bugs in the chain of entries and in proofs along it."""

from tests.mutants.catchers import NamedTests
from tests.mutants.mutant import Change, Mutant

FILE = "protocols/ledger/chain.py"
TESTS = "tests/test_chain.py"

MUTANTS = (
    Mutant(
        "path-not-followed",
        "each header of an inclusion proof hashes to what named it",
        (
            Change(
                FILE,
                "or chain_hash(network, header) != expected:",
                "or len(chain_hash(network, header)) != len(expected):",
            ),
        ),
        (NamedTests((f"{TESTS}::test_a_changed_header_breaks_the_path",)),),
    ),
    Mutant(
        "hash-without-the-one-before",
        "the chain hash covers the entry before",
        (
            Change(
                FILE,
                "_HEADER.pack(header.epoch, header.index, header.prev,",
                "_HEADER.pack(header.epoch, header.index, NOTHING,",
            ),
        ),
        (NamedTests((f"{TESTS}::test_every_field_and_the_network_are_in_the_hash",)),),
    ),
)
