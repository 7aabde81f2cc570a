"""What is said and decided: pure. No clock, no I/O, no randomness of its own.

From the ground up:

    (here)      names, codecs, envelopes, hashes' draw, effects, rates: what all others stand on
    tensors     bytes that prove themselves
    gossip      what everybody tells everybody
    transfer    who fetches what from whom
    ledger      entries, and the state that is their fold
    raft        the council's log
    follow      the ratified ledger at any daemon
    council     a daemon's part in deciding
    slots       what an upgrade may replace
    learn       tiles that learn
"""
