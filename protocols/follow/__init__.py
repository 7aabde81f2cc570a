"""The ratified ledger, verified by each daemon itself: from peers (`follower`), or from a file."""
