"""What is signed on the way into the ledger, and by whom.

    submission   its author, over itself without `signature`
    vote         its voter, over (proposal, choice, epoch, number)
    approval     a person, over the proposal's CID
    seat         a seat key, over (identity, epoch, itself)

Each message begins with the domain of the ledger (realm.py) and the use, and goes on in canonical
DAG-CBOR, so that no signature made for one can be shown as another.
"""

import hashlib
from collections.abc import Iterable

import libipld
import msgspec

from protocols.codec import encode
from protocols.envelope import Sign, Verify
from protocols.errors import MalformedError
from protocols.ledger.entries import (
    Approval,
    Ballot,
    Body,
    Candidacy,
    Poll,
    Submission,
    Vote,
    Votes,
)
from protocols.ledger.errors import BadSignatureError
from protocols.peerid import public_key_of
from protocols.realm import Realm, realm_domain


def submission_message(realm: Realm, unsigned: bytes) -> bytes:
    """What a submission's author signs: `unsigned` is Decoded.signed."""
    return realm_domain(realm, "submission") + unsigned


def submission_id(unsigned: bytes) -> bytes:
    """32 bytes that name a submission whatever its signature; `unsigned` is Decoded.signed."""
    return hashlib.sha256(unsigned).digest()


def _unsigned(author: bytes, expires: int, body: Body, work: int) -> bytes:
    said = msgspec.to_builtins(body, builtin_types=(bytes,))
    return encode(
        {"kind": "submission", "author": author, "expires": expires, "body": said, "work": work}
    )


def work_subject(anchor: bytes, author: bytes, expires: int, body: Body) -> bytes:
    """What a newcomer's proof of work is for: the submission with work 0, and the ledger's
    `anchor`, which nobody knew long before."""
    return hashlib.sha256(anchor + submission_id(_unsigned(author, expires, body, 0))).digest()


def submit(
    realm: Realm, author: bytes, body: Body, *, expires: int, sign: Sign, work: int = 0
) -> bytes:
    """The bytes of a signed submission."""
    signature = sign(submission_message(realm, _unsigned(author, expires, body, work)))
    return encode(
        Submission(author=author, expires=expires, body=body, work=work, signature=signature)
    )


def check_submission(realm: Realm, submission: Submission, unsigned: bytes, verify: Verify) -> None:
    """Raise BadSignatureError unless its author signed it."""
    try:
        key = public_key_of(submission.author)
    except MalformedError as error:
        raise BadSignatureError("a submission whose author is no Ed25519 key") from error
    if not verify(key, submission_message(realm, unsigned), submission.signature):
        raise BadSignatureError("a submission's signature is not its author's, for this ledger")


def vote_message(realm: Realm, proposal: bytes, choice: int, epoch: int, number: int) -> bytes:
    """What a voter signs."""
    said: bytes = libipld.encode_dag_cbor([proposal, choice, epoch, number])
    return realm_domain(realm, "vote") + said


def cast(
    realm: Realm,
    voter: bytes,
    proposal: bytes,
    *,
    choice: int,
    epoch: int,
    number: int,
    sign: Sign,
) -> Vote:
    """A signed vote."""
    signature = sign(vote_message(realm, proposal, choice, epoch, number))
    return Vote(
        proposal=proposal,
        voter=voter,
        choice=choice,
        epoch=epoch,
        number=number,
        signature=signature,
    )


def batch(votes: Iterable[Vote]) -> Votes:
    """The entry of some votes. Of one voter's on one proposal, only the highest is in it."""
    newest: dict[tuple[bytes, bytes], Vote] = {}
    for vote in votes:
        before = newest.get((vote.proposal, vote.voter))
        if before is None or before.number < vote.number:
            newest[vote.proposal, vote.voter] = vote
    polls: dict[bytes, Poll] = {}
    for (proposal, voter), vote in sorted(newest.items()):
        poll = polls.setdefault(proposal, Poll(proposal, vote.epoch, []))
        poll.ballots.append(Ballot(voter, vote.choice, vote.number, vote.signature))
    return Votes(polls=list(polls.values()))


def approval_message(realm: Realm, proposal: bytes) -> bytes:
    """What a person signs to approve a proposal (its CID)."""
    return realm_domain(realm, "approval") + encode([proposal])


def approve(realm: Realm, proposal: bytes, key: bytes, sign: Sign) -> Approval:
    """A person's approval; `key` is the public key of `sign`."""
    return Approval(proposal=proposal, key=key, signature=sign(approval_message(realm, proposal)))


def possession_message(realm: Realm, identity: bytes, epoch: int, key: bytes) -> bytes:
    """What a seat key signs in the candidacy that names it."""
    return realm_domain(realm, "seat") + encode([identity, epoch, key])


def candidacy(
    realm: Realm,
    identity: bytes,
    epoch: int,
    *,
    willing: bool,
    key: bytes,
    secret: bytes,
    sign_seat: Sign,
) -> Candidacy:
    """The body of a candidacy for `epoch`; `key` is the public key of `sign_seat`."""
    return Candidacy(
        epoch=epoch,
        willing=willing,
        key=key,
        possession=sign_seat(possession_message(realm, identity, epoch, key)),
        commitment=commitment_to(secret),
    )


def commitment_to(secret: bytes) -> bytes:
    """What a candidacy commits to: the secret is 32 random bytes."""
    return hashlib.sha256(b"synapse beacon commitment" + secret).digest()
