"""That one entry is in the ratified ledger, for whoever has nothing but the genesis.

    the ends of the epochs before   each council names the next, and ratified that it did
    the entry's certificate         by the council of its epoch
    headers                         from there down to the entry: O(log² n) of them

About 300 bytes and an epoch entry for each epoch, 3 KB for the certificate, and 100 headers.
"""

from typing import Annotated

import msgspec

from protocols.codec import Message
from protocols.envelope import Verify
from protocols.errors import MalformedError
from protocols.follow.history import History
from protocols.follow.install import following_council
from protocols.ledger.chain import Head, Header, chain_hash, payload_hash
from protocols.ledger.council import Certificate, Council
from protocols.ledger.errors import WrongGenesisError
from protocols.ledger.fold import LedgerState
from protocols.ledger.proof import (
    Link,
    Proof,
    ProofError,
    WrongNetworkError,
    check_link,
    check_proof,
)
from protocols.packing import cut, pack, unpack

MAX_EPOCHS = 65_536
"""179 years of days."""
MAX_INCLUSION = 256 << 20
"""Bytes of a proof without the payloads: 4 KB for each of so many epochs."""

Length = Annotated[int, msgspec.Meta(ge=0)]


class Inclusion(Message, frozen=True, array_like=True):
    """The proof; behind it the entry's bytes, and the last entry of each epoch before."""

    network: str
    genesis: bytes
    """The chain hash of the genesis entry."""
    links: Annotated[list[Link], msgspec.Meta(max_length=MAX_EPOCHS)]
    header: Header
    proof: Proof
    lengths: Annotated[list[Length], msgspec.Meta(min_length=1, max_length=MAX_EPOCHS + 1)]


class Included(msgspec.Struct, frozen=True):
    """An entry that was proven."""

    index: int
    hash: bytes
    epoch: int
    payload: bytes
    certificate: Certificate
    council: Council
    """Of the certificate's epoch."""


def prove_inclusion(network: str, history: History, index: int) -> bytes:
    """The proof of the entry at `index`. Raises NotHeldError, DamagedRecordError."""
    ended = history.ended[: max(0, history.epoch_at(index) - 1)]
    parts = [history.log.payload(index), *(epoch.payload for epoch in ended)]
    said = Inclusion(
        network=network,
        genesis=history.genesis,
        links=[epoch.link for epoch in ended],
        header=history.header_at(index),
        proof=history.prove(index),
        lengths=[len(part) for part in parts],
    )
    return pack(said, parts)


def check_inclusion(data: bytes, network: str, genesis: bytes, verify: Verify) -> Included:
    """The entry that `data` proves to be in the ledger that begins with the entry `genesis`.

    Raises WrongNetworkError, WrongGenesisError, BadCertificateError, BrokenPathError or another
    MalformedError.
    """
    said, raw = unpack(data, Inclusion, MAX_INCLUSION)
    if said.network != network:
        raise WrongNetworkError(f"a proof of network {said.network!r}, not {network!r}")
    first = LedgerState.from_genesis(network, genesis)
    if said.genesis != first.genesis:
        raise WrongGenesisError("a proof for a ledger with another genesis entry")
    payload, *ends = cut(raw, said.lengths)
    if len(ends) != len(said.links):
        raise MalformedError("a proof with more or fewer ends of epochs than entries for them")
    council = first.council
    for link, end in zip(said.links, ends, strict=True):
        head = check_link(first.realm, council, link, end, verify)
        council = following_council(head, end)
    header = said.header
    if header.payload != payload_hash(payload) or header.epoch != council.epoch:
        raise ProofError("the header is not that of the entry beside it")
    head = Head(header.index, chain_hash(network, header))
    check_proof(first.realm, council, said.proof, head, verify)
    certificate = said.proof.certificate
    return Included(header.index, head.hash, header.epoch, payload, certificate, council)
