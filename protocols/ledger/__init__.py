"""The ledger: entries in a chain, the state that is their fold, and the rules that both keep.

chain, entries, signing     the bytes: hashed, chained, signed
council, proof              seats, certificates, and that an entry is ratified
fold                        `check` and `advance`: the one entry to all below
submissions, system         what authors submit, and what the ledger itself says next
state, codec, forkmap       the state, its saved form, and its forks
"""
