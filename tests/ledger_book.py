"""A ledger for tests: identities that really sign, and a short way to every kind of entry."""

import hashlib
from collections.abc import Iterable, Mapping

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from protocols.changes import Change
from protocols.cid import cid_of
from protocols.ledger.entries import Body, Founder, Proposal, Vote, encode_entry
from protocols.ledger.fold import LedgerState
from protocols.ledger.genesis import compose
from protocols.ledger.signing import approve, batch, candidacy, cast, submit
from protocols.manifest import ProposalManifest, encode_manifest
from protocols.peerid import peer_id_of

NETWORK = "test"
START = 1_700_000_000_000
QUICK = {
    "vote.window_ms": 10_000,
    "approval.window_ms": 10_000,
    "execute.delay_ms": 5_000,
    "council.epoch_ms": 400_000,
    "council.tick_ms": 1_000,
    "council.seats": 4,
    "council.checkpoint_entries": 10_000,
    "work.bits": 6,
    "limits.upload": 0,
}


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except BadSignatureError:
        return False
    return True


class Person:
    """An identity with a seat key, or a human key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = SigningKey(hashlib.sha256(name.encode()).digest())
        self.key = bytes(self._key.verify_key)
        self.identity = peer_id_of(self.key)
        self.secret = hashlib.sha256(b"secret" + name.encode()).digest()

    def sign(self, message: bytes) -> bytes:
        return bytes(self._key.sign(message).signature)

    @property
    def seat(self) -> "Person":
        return Person(self.name + " seat")


def people(*names: str) -> list[Person]:
    return sorted((Person(name) for name in names), key=lambda each: each.identity)


MEMBERS = people("ada", "ben", "cleo", "dan")
HUMAN = Person("human")
OTHER_HUMAN = Person("other human")
STRANGER = Person("stranger")


def genesis(
    members: Iterable[Person] = MEMBERS,
    *,
    reputation: Mapping[bytes, int] | None = None,
    parameters: Mapping[str, int] | None = None,
    network: str = NETWORK,
) -> bytes:
    members = list(members)
    return compose(
        network,
        START,
        [Founder(each.identity, each.seat.key, each.name) for each in members],
        reputation={each.identity: 1000 for each in members} | dict(reputation or {}),
        humans={"alice": HUMAN.key, "bob": OTHER_HUMAN.key},
        parameters=QUICK | dict(parameters or {}),
    )


class Book:
    """A ledger state, and what was folded into it."""

    def __init__(self, payload: bytes | None = None, network: str = NETWORK) -> None:
        self.payloads = [payload or genesis()]
        self.state = LedgerState.from_genesis(network, self.payloads[0])

    def add(self, payload: bytes) -> None:
        self.state.apply(payload, verify)
        self.payloads.append(payload)

    def later(self, milliseconds: int) -> list[bytes]:
        """Ticks on, and folds in what is due; those payloads."""
        before = len(self.payloads)
        now = self.state.time + milliseconds
        while payloads := self.state.due(now):
            for payload in payloads:
                self.add(payload)
        return self.payloads[before:]

    def submission(self, author: Person, body: Body, *, life: int = 60_000, work: int = 0) -> bytes:
        return submit(
            self.state.realm,
            author.identity,
            body,
            expires=self.state.time + life,
            sign=author.sign,
            work=work,
        )

    def submit(self, author: Person, body: Body) -> None:
        self.add(self.submission(author, body))

    def manifest(
        self,
        author: Person,
        change: Change | None = None,
        *,
        title: str = "a title",
        depends_on: tuple[bytes, ...] = (),
    ) -> bytes:
        return encode_manifest(
            ProposalManifest(
                title=title,
                description="",
                author=author.identity,
                depends_on=depends_on,
                change=change,
            )
        )

    def propose(
        self,
        author: Person,
        change: Change | None = None,
        *,
        title: str = "a title",
        depends_on: tuple[bytes, ...] = (),
    ) -> bytes:
        manifest = self.manifest(author, change, title=title, depends_on=depends_on)
        self.submit(author, Proposal(manifest=manifest))
        return cid_of(manifest)

    def ballot(self, voter: Person, proposal: bytes, choice: int, number: int = 1) -> Vote:
        return cast(
            self.state.realm,
            voter.identity,
            proposal,
            choice=choice,
            epoch=self.state.open[proposal].terms.epoch,
            number=number,
            sign=voter.sign,
        )

    def vote(self, proposal: bytes, choices: Mapping[Person, int], number: int = 1) -> None:
        votes = [self.ballot(who, proposal, choice, number) for who, choice in choices.items()]
        self.add(encode_entry(batch(votes)))

    def approve(self, proposal: bytes, human: Person) -> None:
        self.add(encode_entry(approve(self.state.realm, proposal, human.key, human.sign)))

    def candidacy(self, who: Person, *, willing: bool = True, seat: Person | None = None) -> Body:
        seat = seat or who.seat
        return candidacy(
            self.state.realm,
            who.identity,
            self.state.epoch + 1,
            willing=willing,
            key=seat.key,
            secret=who.secret,
            sign_seat=seat.sign,
        )
