"""Tiles that learn: what learners, aggregators and primaries say to each other, and decide.

    partition   a model's tiles in groups, and a group's values as one file
    claims      what is signed: a learner's deltas, a region's sum, a committed round
    delta       the byte layout of a delta, and what is refused before anything is allocated
    placement   who serves which group: a pure function of the ledger
    replica     a group's log on three replicas, of which two decide
    rounds      what that log means, and when a round closes
    learner, aggregator, regions    the other two roles, and who aggregates for whom

Sources: A. Douillard et al., "DiLoCo" (arXiv 2311.08105) for local steps and the outer optimiser;
B. Liskov, J. Cowling, "Viewstamped Replication Revisited" (2012) and L. Lamport, "Paxos Made
Simple" (2001) for the group's log.
"""
