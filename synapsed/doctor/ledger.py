"""Checks of the ledger: whether it is the network's, is followed, and is still written."""

from synapsed.doctor.report import Check, Facts, by_network, by_resource, passed

FAR_BEHIND = 1000
"""Ratified entries: under load a council ratifies some hundred while one batch travels."""
SHORT_HASH = 16
"""Characters of a genesis' hash that people compare at a glance."""


def ledger(facts: Facts) -> Check:
    """The network's ledger is there, is the right one, and is followed."""
    health = facts.live.ledger if facts.live else None
    known = f"genesis {facts.genesis[:SHORT_HASH]}"
    if not facts.genesis:
        return _without_genesis(facts)
    if health is None and facts.live is not None:
        return by_resource("ledger", f"{known} came after the start", "restart the daemon", "warn")
    if health is None:
        return passed("ledger", f"{known}; not asked: no daemon answers")
    if health.trouble:
        return by_network(
            "ledger",
            "; ".join(health.trouble),
            "`synapsectl ledger show` and its log tell more; compare the hash of "
            "`synapsectl genesis show` with a founder's",
            "fail",
        )
    if health.behind > FAR_BEHIND:
        return by_network(
            "ledger",
            f"{known}, at index {health.index}: {health.behind} entries behind",
            "it fetches them by itself; if it does not rise, `synapsectl connect` to more peers",
        )
    return passed("ledger", f"{known}, at index {health.index}")


def _without_genesis(facts: Facts) -> Check:
    if facts.genesis_error:
        return by_resource("ledger", facts.genesis_error, facts.genesis_remedy)
    if facts.ledger_there:
        return by_resource(
            "ledger",
            "a ledger is here without its genesis.toml, so nothing is followed",
            "`synapsed init --genesis FILE` with a founder's file, and restart the daemon",
            "warn",
        )
    return passed("ledger", "none: this daemon was given no genesis, and follows no votes")


def council(facts: Facts) -> Check:
    """The council ratifies, and our seat signs."""
    health = facts.live.ledger if facts.live else None
    if health is None:
        return passed("council", "none is followed" if facts.live else "not asked")
    if health.silence:
        return by_network(
            "council",
            "; ".join(health.silence),
            "`synapsectl council` shows who is missing: their owners must start them, or let "
            "them be reached",
            "fail",
        )
    if health.seat_lost:
        return by_resource(
            "council",
            "our seat lost what it had signed, and signs nothing in this epoch",
            "nothing: the next epoch seats it anew; restore no backup of ledger.db",
            "warn",
        )
    return passed("council", f"it ratifies; {health.quorum} of {health.seats} seats must sign")


LEDGER_CHECKS = (ledger, council)
