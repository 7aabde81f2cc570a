"""Four real daemons with an upgrade in force, and somebody who attacks them with stolen keys.

Starting daemons and checking a module in four jails takes seconds, so the attacks are made one
after the other in one world, and each test asks what came of its own (`Attacks.of`).
"""

import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import trio

from protocols.changes import NATIVE, NO_LIMITS, CallLimits, UpgradeChange
from protocols.cid import cid_of, cid_text, parse_cid
from protocols.errors import SynapseError
from protocols.ledger.entries import YES, Body, Proposal, encode_entry
from protocols.ledger.signing import cast, submit
from protocols.manifest import ProposalManifest, encode_manifest
from protocols.slots.closed_list import SLOTS
from simnet.councilparts import Founding, LedgersAgree
from simnet.councils import ledger, no_progress
from simnet.daemon import Daemon
from simnet.run import perform, wait_for
from simnet.scenario import Import, Met, ModelSource, NobodyDied, Promise, Scenario, Start
from simnet.upgradechecks import slot_of, upgrades
from simnet.upgradeparts import RANKING, Adapters, Choose, Upgrade
from simnet.world import World, open_world
from synapsed.control import ledgermodels as ledger_said
from synapsed.control import upgrademodels as said
from synapsed.ledger import genesis

DAEMONS = 4
WINDOW_S, DELAY_S, STAGE_S = 2.0, 1.0, 0.8
RANKS = [2, 4, 8, 16, 32, 64]
WANTED = 4
LIGHT = "(i64.sub (i64.const 500000) (i64.mul (i64.const 400) {rank}))"
HEAVY = "(i64.mul (i64.const 400) {rank})"
ROWS = "(i64.load offset=32 (local.get $block))"
"""How many adapters there are: it stands behind the three numbers of the context."""
PATIENCE_S = 90.0

FIRST = Upgrade(name="first", who=0, changed_ppm=1_000_000, answers={"score": LIGHT})
SCENARIO = Scenario(
    title="attacks",
    daemons=DAEMONS,
    proxied=False,
    watch=0,
    bootstrap=3,
    models={"base": ModelSource(made=1)},
    council=Founding(
        members="all",
        params={
            "council.time_out_ms": 3000,
            "council.tick_ms": 250,
            "work.bits": 0,
            "vote.window_ms": int(WINDOW_S * 1000),
            "approval.window_ms": 60_000,
            "execute.delay_ms": int(DELAY_S * 1000),
            "upgrade.stage_ms": int(STAGE_S * 1000),
            "upgrade.pairs": 3,
            "upgrade.patience": 60,
        },
    ),
    config={"replication": {"hold": False}, "upgrades": {"allow_weaker_jail": True}},
    steps=[Start(who="all"), FIRST],
    promises=[Promise(that=NobodyDied())],
)


class Attacks:
    """The world, and the attacker: it has what it stole from a daemon, and a socket to others."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.realm = genesis.realm_of(genesis.load(world.daemons[0].places.genesis))
        self.slot = SLOTS[RANKING]
        self.titles = 0

    # -- what the honest do -----------------------------------------------------------------------

    async def begin(self) -> None:
        """An upgrade is in force: version 1."""
        world = self.world
        for step in (
            Start(who="all"),
            Import(who=3, model="base"),
            Adapters(who=3, model="base", ranks=RANKS),
        ):
            await perform(step, world)
        for check in (Met(peers=3), LedgersAgree(index=3)):
            assert (await wait_for(world, check, 30)).holds
        await perform(Choose(who="all", rank=WANTED, every=0.15), world)
        cid = await self.propose(FIRST)
        await self.vote(cid)
        assert await self.ends(cid) == ("settled", "no-worse")

    async def propose(self, upgrade: Upgrade) -> str:
        """By its owner, as owners do."""
        await perform(upgrade, self.world)
        return self.world.council.proposals[upgrade.name]

    async def vote(self, cid: str, who: list[int] | None = None) -> None:
        """All owners, or some, are for it."""

        async def one(daemon: Daemon) -> None:
            while cid not in [each.proposal for each in (await upgrades(daemon)).upgrades]:
                await trio.sleep(0.05)
            asked = ledger_said.VoteRequest(choice="yes")
            await daemon.client.work(
                f"/v1/proposals/{cid}/votes", ledger_said.Submitted, asked, no_progress
            )

        async with trio.open_nursery() as nursery:
            for daemon in self.world.daemons:
                if who is None or daemon.index in who:
                    nursery.start_soon(one, daemon)

    async def state(self, cid: str, daemon: int = 0) -> tuple[str, str]:
        """How far an upgrade is, and why it ended so."""
        found = await upgrades(self.world.daemons[daemon])
        one = next((each for each in found.upgrades if each.proposal == cid), None)
        return ("unknown", "") if one is None else (one.state, one.reason)

    async def ends(self, cid: str) -> tuple[str, str]:
        """Wait until it is over; on every daemon alike."""
        going_on = ("unknown", "open", "due", "shadow", "stage")
        with trio.fail_after(PATIENCE_S):
            while True:
                states = {await self.state(cid, each.index) for each in self.world.daemons}
                if len(states) == 1 and not {state for state, _ in states} & set(going_on):
                    return states.pop()
                await trio.sleep(0.1)

    async def permille(self, cid: str) -> int | None:
        """The stage that an upgrade is in."""
        found = await upgrades(self.world.daemons[0])
        return next((each.permille for each in found.upgrades if each.proposal == cid), None)

    async def proposal(self, cid: str) -> ledger_said.ProposalDetail:
        """With what was said of it."""
        return await self.world.daemons[0].client.call(
            "GET", f"/v1/proposals/{cid}", ledger_said.ProposalDetail
        )

    async def slots(self) -> list[said.SlotStatus]:
        """The slot on each daemon."""
        return [slot_of(await upgrades(each), RANKING) for each in self.world.daemons]

    async def answering(self) -> set[tuple[int, str]]:
        """Version numbers and modules that answer, on all daemons."""
        return {(each.answers.number, each.answers.module) for each in await self.slots()}

    # -- what the attacker does -------------------------------------------------------------------

    async def record(self, **fields: Any) -> UpgradeChange:
        """A record that would be valid now, but for `fields`: of the module in force."""
        info = await ledger(self.world.daemons[0])
        current = (await self.slots())[0].current
        plain: dict[str, Any] = {
            "slot": RANKING,
            "version": (await self.slots())[0].highest + 1,
            "abi": self.slot.abi,
            "module": bytes.fromhex(current.module),
            "size": current.size,
            "limits": CallLimits(*msgspec.structs.astuple(self.slot.limits)),
            "source": bytes(31) + b"\1",
            "previous": bytes.fromhex(current.module) if current.module else NATIVE,
            "expires": int(info.time * 1000) + 3_600_000,
            "manifest": parse_cid(current.manifest) if current.manifest else b"",
            "risks": "",
            "benefits": "",
        }
        return UpgradeChange(**plain | fields)

    async def back_to_native(self, **fields: Any) -> UpgradeChange:
        """A record that needs no module."""
        none: dict[str, Any] = {
            "module": NATIVE,
            "size": 0,
            "limits": NO_LIMITS,
            "source": NATIVE,
            "manifest": b"",
        }
        return await self.record(**none | fields)

    async def signed(self, thief: int, body: Body) -> ledger_said.Submissions:
        """Sign with a stolen identity, and hand it to another daemon. Raises DaemonError where
        that refuses it."""
        key = self.world.daemons[thief].identity
        info = await ledger(self.world.daemons[0])
        expires = int(info.time * 1000) + 300_000
        data = submit(self.realm, key.peer_id, body, expires=expires, sign=key.sign)
        return await self.handed(data)

    async def handed(self, data: bytes) -> ledger_said.Submissions:
        """Have a daemon send on what was signed elsewhere."""
        return await self.world.daemons[0].client.call(
            "POST",
            "/v1/ledger/submissions",
            ledger_said.Submissions,
            ledger_said.SubmissionsRequest(submissions=[data]),
        )

    async def forge(self, thief: int, change: UpgradeChange) -> str:
        """Propose it with a stolen key; the proposal's CID. DaemonError where it is refused."""
        self.titles += 1
        manifest = encode_manifest(
            ProposalManifest(
                title=f"forged {self.titles}",
                description="",
                author=self.world.daemons[thief].identity.peer_id,
                depends_on=(),
                change=change,
            )
        )
        await self.signed(thief, Proposal(manifest=manifest))
        return cid_text(cid_of(manifest))

    async def stolen_vote(self, thief: int, cid: str) -> None:
        """Vote with a stolen key."""
        key = self.world.daemons[thief].identity
        with trio.fail_after(60):
            while (await self.state(cid))[0] == "unknown":
                await trio.sleep(0.05)
        vote = cast(
            self.realm,
            key.peer_id,
            parse_cid(cid),
            choice=YES,
            epoch=(await ledger(self.world.daemons[0])).epoch,
            number=1,
            sign=key.sign,
        )
        await self.handed(encode_entry(vote))


Attack = Callable[[Attacks], Awaitable[Any]]


def attacked(attacks: Mapping[str, Attack]) -> dict[str, Any]:
    """What came of each, in one world: its result, or the exception that it raised."""
    return trio.run(_attacked, attacks)


async def _attacked(attacks: Mapping[str, Attack]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(SCENARIO, Path(), 3, lambda _: None, logs=Path(folder)) as world:
            made = Attacks(world)
            await made.begin()
            ((_, found["module"]),) = await made.answering()
            for name, attack in attacks.items():
                began = time.monotonic()
                try:
                    found[name] = await attack(made)
                except (SynapseError, AssertionError, trio.TooSlowError) as error:
                    found[name] = error
                found[f"{name}: seconds"] = time.monotonic() - began
                found[f"{name}: answering"] = await made.answering()
    return found
