"""All mutants, in the order in which they run."""

from tests.mutants import (
    chained,
    council,
    follow,
    ledger,
    raft,
    replica,
    rounds,
    training,
    upgrades,
)

MUTANTS = (
    *raft.MUTANTS,
    *ledger.MUTANTS,
    *upgrades.MUTANTS,
    *training.MUTANTS,
    *follow.MUTANTS,
    *council.MUTANTS,
    *chained.MUTANTS,
    *replica.MUTANTS,
    *rounds.MUTANTS,
)
