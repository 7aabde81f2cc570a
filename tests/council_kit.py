"""A council with real keys, and whatever it can be made to sign."""

import hashlib

from protocols.ledger.chain import Head
from protocols.ledger.council import (
    Certificate,
    Council,
    Kind,
    Opening,
    Seat,
    SignedTimeOut,
    Statement,
    TimeOut,
    signed_bytes,
)
from protocols.realm import Realm
from synapsed.keys import Identity

NETWORK = "test"
REALM = Realm(NETWORK, bytes(32))


def key(name: str) -> Identity:
    """The key pair of `name`, always the same."""
    return Identity(hashlib.sha256(name.encode()).digest())


class Members:
    """`count` seats of one epoch with their keys."""

    def __init__(self, count: int, epoch: int = 1, start: Head | None = None) -> None:
        self.keys = [key(f"seat {number}") for number in range(count)]
        self.identities = [key(f"member {number}") for number in range(count)]
        self.council = Council(
            epoch=epoch,
            beacon=hashlib.sha256(b"beacon").digest(),
            seats=tuple(
                Seat(identity.peer_id, seat.public_key, 100)
                for identity, seat in zip(self.identities, self.keys, strict=True)
            ),
            start=start or Head(0, bytes(32)),
        )

    def sign(self, seat: int, said: Statement | TimeOut, realm: Realm = REALM) -> bytes:
        """Seat's signature, whatever it is over."""
        return self.keys[seat].sign(signed_bytes(realm, said))

    def certificate(self, said: Statement, seats: range | list[int]) -> Certificate:
        """Signed by `seats`."""
        return Certificate(said, list(seats), [self.sign(seat, said) for seat in seats])

    def statement(
        self, term: int, head: Head, kind: Kind = Kind.ACK, epoch: int | None = None
    ) -> Statement:
        """An ack, or another kind."""
        return Statement(kind, epoch or self.council.epoch, term, head.index, head.hash)

    def opening(self, term: int, certificate: Certificate, seats: range | list[int]) -> Opening:
        """Time-outs of `seats` that name `certificate`, and it."""
        said = TimeOut(
            self.council.epoch,
            term,
            certificate.said.term,
            certificate.said.index,
            certificate.said.hash,
        )
        signed = [SignedTimeOut(seat, said, self.sign(seat, said)) for seat in seats]
        return Opening(self.council.epoch, term, certificate, signed)
