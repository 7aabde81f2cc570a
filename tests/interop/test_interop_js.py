"""A foreigner, js-libp2p, joins a network of ours, reads what is said there, and misbehaves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from simnet.daemon import Daemon
from simnet.scenario import Import, ModelSource, NobodyDied, Promise, Scenario, Start
from simnet.steps import perform
from simnet.world import World, open_world
from synapsed.control.models import PeerInfo
from tests.interop.jspeer import install_packages, js_peer

NETWORK = "interop"

SCENARIO = Scenario(
    title="interop",
    daemons=1,
    network=NETWORK,
    proxied=False,
    models={"small": ModelSource(made=1)},
    steps=[Start(who=0)],
    promises=[Promise(that=NobodyDied())],
)


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    install_packages()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    path = tmp_path / "interop.toml"
    async with open_world(SCENARIO, path, 1, print, logs=tmp_path / "logs") as world:
        await perform(Start(who=0), world)
        yield world


async def seen_by(daemon: Daemon, peer_id: str) -> PeerInfo | None:
    """What the daemon's `peers` says of a peer."""
    return next((peer for peer in await daemon.peers("all") if peer.peer_id == peer_id), None)


@pytest.mark.timeout(180)  # the first run installs the packages
async def test_it_verifies_an_announcement_and_its_junk_costs_it_its_score(world: World) -> None:
    daemon = world.daemons[0]
    async with js_peer(network=NETWORK, address=daemon.address, kind="shard") as js:
        connected = await js.next("connected")
        assert connected["remote"] == daemon.identity.text
        assert (connected["encryption"], connected["multiplexer"]) == ("/noise", "/yamux/1.0.0")
        await js.next("meshed")

        await perform(Import(who=0, model="small"), world)
        said = await js.next("announcement")
        announced = (await daemon.announcements(kind="shard"))[0]
        assert said["issuer"] == announced.issuer == daemon.identity.text
        assert said["canonical"]
        assert said["payload"]["kind"] == "shard"
        assert said["payload"]["body"]["model"] == world.models["small"].cid
        ids = {announcement.id for announcement in await daemon.announcements(kind="shard")}
        assert said["id"] in ids

        before = await seen_by(daemon, connected["peer"])
        assert before is not None
        assert before.faults == 0
        await js.tell("junk", count=1)
        assert (await js.next("junk"))["sent"] == 2
        with trio.fail_after(30):
            while (after := await seen_by(daemon, connected["peer"])) and not after.faults:
                await trio.sleep(0.05)
        assert after is not None
        assert after.score < before.score

        await js.tell("junk", count=20)
        await js.next("disconnected")
        assert await daemon.peers("connected") == []
    assert not daemon.died
    assert not any(event["event"] == "refused" for event in js.seen)


async def test_another_networks_prologue_is_refused_in_the_handshake(world: World) -> None:
    daemon = world.daemons[0]
    asked = {"network": NETWORK, "address": daemon.address, "kind": "shard"}
    async with js_peer(**asked, prologue="synapse:another") as js:
        failed = await js.next("failed")
    assert not any(event["event"] == "connected" for event in js.seen)
    assert failed["why"]
    assert await daemon.peers("connected") == []
