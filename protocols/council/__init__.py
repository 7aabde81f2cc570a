"""A daemon's part in deciding: `participant` joins the council's log, the ledger and the pool."""
