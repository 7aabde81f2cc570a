"""What strangers push: looked at before a byte of it is fetched."""

import hashlib
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from protocols.learn import delta, messages
from protocols.learn.claims import Claim, Made, claim_message
from synapsed.keys import Identity
from synapsed.training.blobs import Blobs
from synapsed.training.exchange import Exchange, Traffic
from synapsed.training.links import Links
from tests.pipes import PipeNet
from tests.training_kit import ELEMENTS, REALM, Daemon, World, world
from tests.training_toy import write_delta

LIMIT = 64 << 20


class Stranger:
    """Somebody who learns, or says so."""

    def __init__(self, swarm: World, folder: Path, nursery: trio.Nursery) -> None:
        self.swarm = swarm
        self.identity = Identity(hashlib.sha256(b"stranger").digest())
        self.net = PipeNet(self.identity.peer_id, nursery)
        self.links = Links(self.net, self._connect, lambda _peer: False, Traffic())
        self.exchange = Exchange(self.net, self._connect, Traffic())
        self.blobs = self.exchange.shelves[swarm.model] = Blobs(folder / "stranger", LIMIT)
        self.folder = folder
        nursery.start_soon(self.links.run)

    async def _connect(self, _peer: bytes) -> None:
        await trio.lowlevel.checkpoint()

    def delta(self, data: bytes | None = None) -> tuple[bytes, int]:
        """A blob of ours: digest and size."""
        if data is None:
            blob = write_delta(self.folder, array("f", [0.5] * ELEMENTS), [ELEMENTS])
            return self.blobs.take(Path(blob.path)), blob.size
        return self.blobs.put(data), len(data)

    def claim(self, blob: tuple[bytes, int], primary: Daemon, **fields: Any) -> Claim:
        """One delta for the round that is open, signed."""
        log = primary.lineage.hosts[0].rounds.log
        made = Made(0, log.number, log.head, *blob)
        made = msgspec.structs.replace(made, **fields)
        claim = Claim(
            model=self.swarm.model,
            learner=self.identity.peer_id,
            steps=1,
            made=(made,),
            signature=bytes(64),
        )
        signature = self.identity.sign(claim_message(REALM, claim))
        return msgspec.structs.replace(claim, signature=signature)

    async def push(self, claim: Claim, primary: Daemon) -> messages.Said:
        """What the primary answers."""
        data = messages.pack(messages.Push(said=claim, groups=(0,)))
        self.links.say(primary.id, messages.PROTOCOL, data)
        while True:
            _, _, frame = await self.links.hear()
            said = messages.unpack(frame)
            if isinstance(said, messages.Acked | messages.Refused):
                return said


@asynccontextmanager
async def stranger(folder: Path) -> AsyncIterator[tuple[Stranger, Daemon]]:
    """One, and the primary that it speaks to."""
    async with world(folder, tensors=1) as swarm, trio.open_nursery() as nursery:
        await swarm.until(lambda: swarm.primary() is not None)
        primary = swarm.primary()
        assert primary is not None
        one = Stranger(swarm, folder, nursery)
        assert primary.net is not None
        one.net.connect(primary.net)
        with trio.fail_after(30):
            yield one, primary
        nursery.cancel_scope.cancel()


def taken(primary: Daemon) -> int:
    """Bytes of blobs that it fetched from anybody."""
    assert primary.service is not None
    return primary.service.traffic.bytes["in", "blob"]


async def test_a_signed_delta_of_the_open_round_is_fetched_and_acknowledged(
    tmp_path: Path,
) -> None:
    async with stranger(tmp_path) as (one, primary):
        said = await one.push(one.claim(one.delta(), primary), primary)
        assert isinstance(said, messages.Acked)
        assert taken(primary) == delta.HEADER.size + 4 * ELEMENTS


async def test_a_delta_of_another_base_is_refused_with_the_right_one_unseen(
    tmp_path: Path,
) -> None:
    async with stranger(tmp_path) as (one, primary):
        claim = one.claim(one.delta(), primary, base=bytes(32))
        said = await one.push(claim, primary)
        assert isinstance(said, messages.Refused)
        log = primary.lineage.hosts[0].rounds.log
        assert (said.reason, said.number, said.base) == ("base", log.number, log.head)
        assert taken(primary) == 0


async def test_a_claim_that_is_not_signed_costs_its_sender_and_no_byte(tmp_path: Path) -> None:
    async with stranger(tmp_path) as (one, primary):
        claim = msgspec.structs.replace(one.claim(one.delta(), primary), signature=bytes(64))
        data = messages.pack(messages.Push(said=claim, groups=(0,)))
        one.links.say(primary.id, messages.PROTOCOL, data)
        assert primary.net is not None
        net = primary.net
        await one.swarm.until(lambda: net.blamed)
        assert net.blamed[0][:2] == (one.identity.peer_id, "malformed")
        assert taken(primary) == 0


async def test_a_delta_that_is_larger_than_any_codec_makes_it_is_refused_unseen(
    tmp_path: Path,
) -> None:
    async with stranger(tmp_path) as (one, primary):
        claim = one.claim(one.delta(bytes(8 * ELEMENTS)), primary)
        said = await one.push(claim, primary)
        assert isinstance(said, messages.Refused)
        assert said.reason == "malformed"
        assert taken(primary) == 0


async def test_bytes_that_are_no_delta_are_refused_and_go_into_no_round(tmp_path: Path) -> None:
    async with stranger(tmp_path) as (one, primary):
        claim = one.claim(one.delta(bytes(4 * ELEMENTS)), primary)
        said = await one.push(claim, primary)
        assert isinstance(said, messages.Refused)
        assert said.reason == "malformed"
        assert not primary.lineage.hosts[0].rounds.log.pending
