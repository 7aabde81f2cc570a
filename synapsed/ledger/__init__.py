"""The ratified ledger in this daemon: among its peers (`service`), on its disk, in its events."""
