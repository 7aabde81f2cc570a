"""Which ledger a signature is for: the network's name, and the chain hash of its genesis entry.

Whoever founds a network again under its old name keeps its keys, and with them the seats' keys:
what one ledger's seats, voters and authors sign says nothing in the other, and a seat that serves
both histories has not forked either.
"""

from functools import lru_cache
from typing import NamedTuple

from protocols.envelope import domain


class Realm(NamedTuple):
    """One ledger, as its signatures name it."""

    network: str
    genesis: bytes
    """The chain hash of the first entry."""

    def __str__(self) -> str:
        """NETWORK/HASH, as it stands in domains: a network's name has no `/` in it."""
        return f"{self.network}/{self.genesis.hex()}"


@lru_cache(maxsize=256)
def realm_domain(realm: Realm, use: str) -> bytes:
    """The domain of one use in one ledger: no use on a network (envelope.py) has the same."""
    return domain(str(realm), use)
