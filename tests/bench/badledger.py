"""What a stranger can say about the ledger: frames of its protocols, and gossip, all of it bad.

The target is the whole council of a ledger of its own, so everything that a member does is there.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from protocols.council import submitting
from protocols.council.participant import PROTOCOLS, TOPICS
from protocols.follow import messages as follow
from protocols.ledger.council import Certificate, Kind, Statement
from protocols.ledger.entries import Approval, Note, Vote, encode_entry
from protocols.ledger.signing import submit
from protocols.raft import messages as raftmessages
from protocols.realm import Realm
from synapsed.keys import SEED_LENGTH, Identity
from synapsed.ledger import genesis
from synapsed.net import MemoryTable, NetError, NetSettings, PeerBook, Verdict, open_net
from tests.bench.attacks import NETWORK, Draw, Target, many

CONNECTIONS = 24
FRAMES = 400
"""Of each connection, unless it is cut before."""
AT_ONCE = 4
HOUR_MS = 3_600_000

Frame = Callable[[Draw, Identity, Realm], bytes]


async def bad_ledger(target: Target, draw: Draw, share: float) -> int:
    """Strangers who speak the ledger's protocols, and badly; counts the frames they sent."""

    realm = genesis.realm_of(genesis.load(target.daemon.places.genesis))

    async def one(number: int) -> int:
        identity = Identity(draw.randbytes(SEED_LENGTH))
        settings = NetSettings(
            listen=("/ip4/127.0.0.1/tcp/0",), dial_from=f"127.81.{number // 200}.{number % 200 + 1}"
        )
        sent = 0
        book = PeerBook(MemoryTable())
        async with open_net(settings, identity, NETWORK, book, lambda *_, **__: None) as net:
            for topic in TOPICS:
                net.subscribe(f"/synapse/{NETWORK}/{topic}/1", lambda *_: Verdict.ACCEPT, _forget)
            with suppress(NetError):
                peer = await net.connect(target.daemon.address)
                kind = list(KINDS)[number % len(KINDS)]
                protocol, make = KINDS[kind]
                async with net.open_stream(peer, protocol) as stream:
                    while sent < FRAMES:
                        await stream.write_frames([make(draw, identity, realm) for _ in range(8)])
                        sent += 8
                        if sent % 80 == 0:
                            topic = draw.choice(TOPICS)
                            await net.publish(
                                f"/synapse/{NETWORK}/{topic}/1",
                                make(draw, identity, realm)[:60_000],
                            )
        return sent

    return await many(CONNECTIONS, share, AT_ONCE, one)


async def _forget(_peer: bytes, _data: bytes) -> None:
    """Nobody listens."""


def _noise(draw: Draw, _identity: Identity, _realm: Realm) -> bytes:
    return draw.randbytes(draw.choice((0, 1, 3, 4, 100, 5000, 100_000)))


def _certificate(draw: Draw) -> Certificate:
    said = Statement(
        draw.choice((Kind.ACK, Kind.CERTIFICATE_ACK)),
        draw.choice((0, 1, 2, 1 << 40)),
        draw.choice((0, 1, 2, 1 << 40)),
        draw.choice((0, 1, 5, 1 << 60)),
        draw.randbytes(32),
    )
    seats = sorted(draw.sample(range(64), draw.randrange(0, 64)))
    return Certificate(said, seats, [draw.randbytes(64) for _ in seats])


def _follow(draw: Draw, _identity: Identity, _realm: Realm) -> bytes:
    """Questions without end, and answers that nobody asked for."""
    number, index = draw.randrange(1 << 32), draw.choice((0, 1, 2, 1 << 40))
    said: Sequence[follow.Said] = (
        follow.Status(
            network=NETWORK, genesis=draw.randbytes(32), base=index, certificate=_certificate(draw)
        ),
        follow.GetEntries(number=number, start=index, count=follow.MAX_COUNT),
        follow.GetLinks(number=number, epoch=index),
        follow.GetSnapshot(number=number, index=index, offset=index % 4096),
        follow.Prove(number=number, index=index),
        follow.Refused(number=number, why=follow.Why.BUSY, base=index, head=index),
    )
    return _cut(draw, follow.frame(draw.choice(said)))


def _submissions(draw: Draw, identity: Identity, realm: Realm) -> bytes:
    """Notes, votes and approvals that are false, forged, or not worked for."""
    expires = int(time.time() * 1000) + HOUR_MS // 2
    items = []
    for _ in range(draw.choice((1, 10, 100))):
        what = draw.randrange(4)
        if what == 0:
            note = Note(text=str(draw.random()) * draw.choice((1, 40)))
            item = submit(realm, identity.peer_id, note, expires=expires, sign=identity.sign)
            if draw.random() < 0.5:
                item = item[:-1] + bytes((item[-1] ^ 1,))
        elif what == 1:
            cid = bytes.fromhex("01711220") + draw.randbytes(32)
            item = encode_entry(
                Vote(
                    proposal=cid,
                    voter=identity.peer_id,
                    choice=1,
                    epoch=1,
                    number=1,
                    signature=draw.randbytes(64),
                )
            )
        elif what == 2:
            cid = bytes.fromhex("01711220") + draw.randbytes(32)
            item = encode_entry(
                Approval(proposal=cid, key=draw.randbytes(32), signature=draw.randbytes(64))
            )
        else:
            item = draw.randbytes(draw.randrange(1, 2000))
        items.append(item)
    frames = submitting.pack_items(items)
    return _cut(draw, draw.choice(frames))


def _council(draw: Draw, _identity: Identity, _realm: Realm) -> bytes:
    """What only members may say."""
    statement = _certificate(draw).said
    said = raftmessages.Signed(statement, draw.randbytes(64))
    return _cut(draw, raftmessages.pack(said) if draw.random() < 0.9 else draw.randbytes(1000))


def _cut(draw: Draw, frame: bytes) -> bytes:
    """Mostly whole; now and then shorter, or with a byte changed."""
    if frame and draw.random() < 0.2:
        frame = frame[: draw.randrange(len(frame))]
    if frame and draw.random() < 0.2:
        at = draw.randrange(len(frame))
        frame = frame[:at] + draw.randbytes(1) + frame[at + 1 :]
    return frame


KINDS: dict[str, tuple[str, Frame]] = {
    "noise to followers": (follow.PROTOCOL, _noise),
    "noise to members": (raftmessages.PROTOCOL, _noise),
    "noise for the pool": (submitting.PROTOCOL, _noise),
    "questions": (follow.PROTOCOL, _follow),
    "submissions": (submitting.PROTOCOL, _submissions),
    "a council's words": (raftmessages.PROTOCOL, _council),
}
assert {protocol for protocol, _ in KINDS.values()} == set(PROTOCOLS)
