"""A newcomer verifies a ledger of 10,000 entries, one in ten a batch of 100 votes, on one core.

The ledger is made with real keys, first, and is not counted. Then a newcomer follows a peer that
has it: what is counted is every second that the newcomer's machine spends, from the first answer
to the last entry folded, with decoding, the chain, the certificate and each signature of each
entry and vote (they are counted). `bytes_ratio` is what the peer sent over the bare entries.
"""

import time
from collections.abc import Callable, Sequence

from protocols.effects import Send
from protocols.follow.follower import Alarm, Follower, Learnt, PeerUp, Received, Start
from protocols.ledger.entries import encode_entry
from protocols.ledger.signing import batch
from synapsed.keys import Identity, verify
from tests.ledger_world import NETWORK, Branch, at

REACH = {"entries_per_s": ">= 1500", "bytes_ratio": "<= 1.1", "unchecked": "0"}

ENTRIES = 10_000
VOTES_EVERY = 10
VOTERS = 100
NUMBERS = 200
"""Votes of one voter on one proposal; then the next proposal is voted on."""
AUTHORS = 50
SEATS = 7

Say = Callable[[str], None]


def key(name: str) -> Identity:
    """The key pair of `name`."""
    return Identity(name.encode().ljust(32, b".")[:32])


class Grown:
    """The ledger that is followed."""

    def __init__(self, say: Say) -> None:
        voters = [key(f"voter {number}") for number in range(VOTERS)]
        authors = [key(f"author {number}") for number in range(AUTHORS)]
        self.branch = branch = Branch(
            SEATS,
            verify=lambda *_: True,  # what is being made needs no proof; the newcomer's verify does
            key=key,
            reputation={one.peer_id: 10 for one in voters + authors},
            council__checkpoint_entries=1 << 20,
        )
        proposal = branch.propose()
        number = 0
        while len(branch.heads) <= ENTRIES:
            if len(branch.heads) % (ENTRIES // 10) == 0:
                say(f"{len(branch.heads)} of {ENTRIES} entries made")
            if len(branch.heads) % VOTES_EVERY:
                author = authors[len(branch.heads) % AUTHORS]
                branch.append(branch.note(f"{len(branch.heads):0100}", author))
                continue
            number += 1
            if number > NUMBERS:
                number = 1
                proposal = branch.propose(f"number {len(branch.heads)}")
                continue
            branch.append(encode_entry(batch(branch.ballots(proposal, voters, number))))
        self.votes = sum(VOTERS for p in branch.payloads if p.startswith(b"\xa2dkindevotes"))
        self.certificate = branch.certify(seats=range(SEATS * 2 // 3 + 1))
        self.signatures = self.votes + ENTRIES - self.votes // VOTERS


class Counted:
    """`verify`, with how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the signature is good."""
        self.count += 1
        return verify(public_key, message, signature)


def server_of(grown: Grown) -> Follower:
    """A peer that has all of it."""
    branch = grown.branch
    server = Follower(NETWORK, branch.genesis, key("server").peer_id, lambda *_: True)
    server.handle(Start(), at(0))
    server.handle(Learnt(branch.payloads[1:], grown.certificate), at(0))
    while server.ledger.head.index < ENTRIES:
        server.handle(Alarm(), at(0))
    return server


def measure(say: Say) -> dict[str, float]:
    """Make the ledger, follow it, and count."""
    grown = Grown(say)
    server = server_of(grown)
    them, us = key("server").peer_id, key("newcomer").peer_id
    counted = Counted()
    newcomer = Follower(NETWORK, grown.branch.genesis, us, counted)
    taken, received = 0.0, 0
    said = newcomer.handle(Start(), at(0)) + newcomer.handle(PeerUp(them), at(0))
    inbox = [data for peer, data in sent(server.handle(PeerUp(us), at(0))) if peer == us]
    now = 0.0
    while newcomer.ledger.head.index < ENTRIES:
        now += 0.01
        for _, data in sent(said):
            inbox += [answer for _, answer in sent(server.handle(Received(us, data), at(now)))]
        event = Received(them, inbox.pop(0)) if inbox else Alarm()
        received += len(event.data) if isinstance(event, Received) else 0
        began = time.process_time()
        said = newcomer.handle(event, at(now))
        taken += time.process_time() - began
        assert newcomer.halted is None, newcomer.halted
    assert newcomer.ledger.head == server.ledger.head
    bare = sum(map(len, grown.branch.payloads[1:]))
    say(f"{ENTRIES} entries and {grown.votes} votes in {taken:.1f} s")
    return {
        "entries_per_s": ENTRIES / taken,
        "bytes_ratio": received / bare,
        "unchecked": max(0, grown.signatures - counted.count),
        "signatures": counted.count,
        "us_per_signature": taken / counted.count * 1e6,
        "us_per_bare_verify": bare_verify(grown),
    }


def bare_verify(grown: Grown) -> float:
    """Microseconds of checking one signature and nothing else, here and now."""
    one = key("somebody")
    message = b"m" * 100
    signature = one.sign(message)
    began = time.process_time()
    for _ in range(2000):
        verify(one.public_key, message, signature)
    return (time.process_time() - began) / 2000 * 1e6


def sent(effects: Sequence[object]) -> list[tuple[bytes, bytes]]:
    """The frames among some effects."""
    return [(effect.peer, effect.data) for effect in effects if isinstance(effect, Send)]
