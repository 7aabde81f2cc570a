"""All mutants, in the order in which they run."""

from tests.mutants import chained, council, follow, ledger, raft

MUTANTS = (*raft.MUTANTS, *ledger.MUTANTS, *follow.MUTANTS, *council.MUTANTS, *chained.MUTANTS)
