"""What is said and decided: pure. No clock, no I/O, no randomness of its own.

From the ground up; a line stands on those above it alone (import-linter holds it to that):

    (here)      names, codecs, envelopes, manifests, changes, effects: what all others stand on
    tensors     bytes that prove themselves
    ledger      entries, and the state that is their fold
    slots       what an upgrade may replace
    gossip      what everybody tells everybody
    transfer    who fetches what from whom
    raft        the council's log
    learn       tiles that learn
    follow      the ratified ledger at any daemon
    council     a daemon's part in deciding
"""
