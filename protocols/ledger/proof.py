"""Proofs that an entry is ratified: a certificate, and the headers that lead down to the entry.

A ratification certificate over the head covers every entry before it, so one certificate and
O(log² n) headers prove any of them (chain.py). Whoever checks needs the council of that
certificate's epoch, which it has from the entry that named it, from the genesis on (Link).

    ProofError
     +- WrongNetworkError    of another network
     +- ForkError            two certificates that contradict each other: a third or more lied

(WrongGenesisError, of this network's name and of another first entry, is ledger_errors'.)
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec

from protocols.envelope import Verify
from protocols.errors import MalformedError
from protocols.ledger.chain import (
    MAX_PATH,
    Head,
    Header,
    ancestor,
    chain_hash,
    path,
    payload_hash,
)
from protocols.ledger.council import (
    BadCertificateError,
    Certificate,
    Council,
    Fork,
    check_certificate,
)
from protocols.realm import Realm


class ProofError(MalformedError):
    """What claims to be of our ledger, and is not."""

    code = "bad-proof"


class WrongNetworkError(ProofError):
    """Of another network."""

    code = "wrong-network"


class ForkError(ProofError):
    """Two certificates of one epoch that are not on one chain: proof that a third lied."""

    code = "fork"


class Proof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """That the chain hash at some index is ratified: `headers` lead there (chain.path)."""

    certificate: Certificate
    headers: Annotated[list[Header], msgspec.Meta(max_length=MAX_PATH)]


def prove(header_at: Callable[[int], Header], certificate: Certificate, index: int) -> Proof:
    """The proof of the entry at `index`, at most the certificate's."""
    return Proof(certificate, path(header_at, certificate.said.index, index))


def check_ratified(
    realm: Realm, council: Council, certificate: Certificate, verify: Verify
) -> None:
    """Raise BadCertificateError unless `certificate` is a ratification by `council`."""
    if not certificate.ratifies or certificate.said.term == 0:
        raise BadCertificateError("a certificate that ratifies nothing")
    check_certificate(realm, council, certificate, verify)


def proven_hash(network: str, proof: Proof, index: int) -> bytes:
    """The chain hash at `index` by a proof whose certificate is checked elsewhere.

    Raises BrokenPathError.
    """
    return ancestor(network, proof.certificate.said.head, proof.headers, index)


def check_proof(realm: Realm, council: Council, proof: Proof, place: Head, verify: Verify) -> None:
    """Raise ProofError or BadCertificateError unless `place` is ratified by `council`."""
    if proven_hash(realm.network, proof, place.index) != place.hash:
        raise ProofError(f"the proof shows another entry at index {place.index}")
    check_ratified(realm, council, proof.certificate, verify)


class Link(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The end of one epoch: its last entry, ratified by its council, names the next one."""

    header: Header
    certificate: Certificate


def check_link(realm: Realm, council: Council, link: Link, payload: bytes, verify: Verify) -> Head:
    """Where the next epoch starts. Raises ProofError or BadCertificateError."""
    header, said = link.header, link.certificate.said
    if header.epoch != council.epoch or header.payload != payload_hash(payload):
        raise ProofError(f"not the last entry of epoch {council.epoch}")
    if said.head != Head(header.index, chain_hash(realm.network, header)):
        raise ProofError("a certificate of another entry than the one beside it")
    check_ratified(realm, council, link.certificate, verify)
    return said.head


def forks(ours: Certificate, theirs: Certificate, headers: Sequence[Header]) -> list[Fork]:
    """What two contradicting ratifications of one term prove, against every seat in both.

    `headers` lead from the upper one to the lower one's index. Certificates of two terms prove
    that somebody lied, and not by themselves who: their acks would show it.
    """
    lower, upper = sorted((ours, theirs), key=lambda certificate: certificate.said.index)
    if (lower.said.epoch, lower.said.term) != (upper.said.epoch, upper.said.term):
        return []
    of_upper = dict(zip(upper.seats, upper.signatures, strict=True))
    return [
        Fork(seat, lower.said, signature, upper.said, of_upper[seat], list(headers))
        for seat, signature in zip(lower.seats, lower.signatures, strict=True)
        if seat in of_upper
    ]
