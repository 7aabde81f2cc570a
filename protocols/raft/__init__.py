"""The council's log: Raft's shape, Byzantine quorums. `replica` is the entry, `ports` the words."""
