"""Worlds in virtual time: the daemons' own machines, and everything that can go wrong.

One event heap and one seed make a run, and the seed makes it again (docs/simulation.md). Read in
this order:

    heap, dice, clock, disk, keys, net   time, chance, clocks, disks, signatures, the network
    node, world                          a machine with its disk, clock and links; all of them
    plan, faults                         what befalls whom and when, drawn before anything runs
    kits, real, bare, bareprogram        daemons: the whole participant, or the council's log alone
    roles, liar, liarlead, liarserve     who lies, and how
    checks, audit, polls, rollouts       what must hold: of all that is ratified, signed, decided
    lessons                              ... and of checkpoints that members evaluate
    families, case, town, runs           a family (configs/scenarios/virtual), one run of it, many
    shrink, cli, words, chart            a shorter failure, the command line, the story, a picture
    failover, wan, crowd                 what the benches measure
    tiledaemon, tiletown, tilechecks     a tile group's replicas instead of a council,
    tilefailover                         ... and how long their primary is missed

Rules of this package:
1. Nothing reads the wall clock or the hash order of a set; chance comes from `dice` alone. (The
   command line tells how long it took, and nothing depends on that.)
2. A fault counts that it happened (`World.tally`): a family whose fault never did fails.
3. What is checked is what honest members did; liars are only ever measured by their effect.
"""
