"""Worlds in virtual time: the daemons' own machines, and everything that can go wrong.

One event heap and one seed make a run, and the seed makes it again. Read in this order:

    heap, dice, clock, disk, keys, net   time, chance, clocks, disks, signatures, the network
    node, world                          a machine with its disk, clock and links; all of them
    plan, faults                         what befalls whom and when, drawn before anything runs
    liars                                members that lie
    checks, audit, liveness              what must hold at every step, and after healing
    families, run                        a family of runs (configs/scenarios/virtual), one run
    shrink, cli, chart                   a shorter failure, the command line, a picture

Rules of this package:
1. Nothing reads the wall clock or the hash order of a set; chance comes from `dice` alone.
2. A fault counts that it happened (`World.tally`): a family whose fault never did fails.
3. What is checked is what honest members did; liars are only ever measured by their effect.
"""
