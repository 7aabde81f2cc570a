"""Attacks on upgrades, each on its whole way: real daemons, real jails, real keys.

One world serves those of them that need a network (attack_world.py): they are made one after the
other, each against a slot whose version 1 is in force, and each test looks at what came of its own.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import libipld
import pytest
import trio

from protocols.cid import cid_of, parse_cid
from protocols.codec import encode
from protocols.draw import Draw
from protocols.ledger.entries import Report, StageEntry, Verdict, encode_entry
from protocols.manifest import UpgradeManifest, encode_manifest
from protocols.slots.closed_list import SLOTS
from protocols.slots.wasm_module import ModuleLimits
from protocols.tensors.blocks import Bytes, FetchRequest, Request
from simnet.run import perform
from simnet.upgradeparts import RANKING, Adapters, Upgrade
from synapsed.control.client import DaemonError
from synapsed.jail.jail import Jail
from synapsed.net.errors import StreamClosedError
from synapsed.store.importing import copy, survey
from synapsed.upgrades.modules import MAX_FETCH, Modules, Wanted
from tests.attack_world import HEAVY, LIGHT, ROWS, WINDOW_S, Attack, Attacks, attacked
from tests.ledger_book import MEMBERS
from tests.store_kit import quiet
from tests.transfer_rig import End, Node, World, world

pytestmark = pytest.mark.timeout(300)

THIEF = 3
"""The daemon whose keys are stolen: a member of the council, with a fourth of the reputation."""


# -- the record -------------------------------------------------------------------------------


async def rollback(attacks: Attacks) -> list[str]:
    """Former bytes under a number that was used; and the very proposal of version 1 again."""
    codes = []
    highest = (await attacks.slots())[0].highest
    for version in range(1, highest + 1):
        with pytest.raises(DaemonError) as caught:
            await attacks.forge(THIEF, await attacks.back_to_native(version=version))
        codes.append(caught.value.problem.error)
    return codes


async def fast_forward(attacks: Attacks) -> list[str]:
    """A number so high that no successor can follow, and one that leaves one out."""
    codes = []
    highest = (await attacks.slots())[0].highest
    for version in (highest + 2, (1 << 31) - 1):
        with pytest.raises(DaemonError) as caught:
            await attacks.forge(THIEF, await attacks.back_to_native(version=version))
        codes.append(caught.value.problem.error)
    return codes


async def freeze(attacks: Attacks) -> tuple[str, tuple[str, str]]:
    """A record that has expired, and one that expires after the vote and before its time."""
    now = (await attacks.back_to_native()).expires - 3_600_000
    with pytest.raises(DaemonError) as caught:
        await attacks.forge(THIEF, await attacks.back_to_native(expires=now - 1))
    soon = now + int(WINDOW_S * 1000) + 700
    cid = await attacks.forge(THIEF, await attacks.back_to_native(expires=soon))
    await attacks.vote(cid)
    return caught.value.problem.error, await attacks.ends(cid)


async def mix_and_match(attacks: Attacks) -> tuple[str, str]:
    """The manifest of what was voted for before, under the hash of other bytes."""
    cid = await attacks.forge(THIEF, await attacks.record(module=bytes(range(32))))
    await attacks.vote(cid)
    return await attacks.ends(cid)


# -- keys -------------------------------------------------------------------------------------


async def stolen_proposer(attacks: Attacks) -> tuple[str, str]:
    """All that a proposer's key can do: propose, and vote with the weight that it has."""
    cid = await attacks.forge(THIEF, await attacks.back_to_native())
    await attacks.stolen_vote(THIEF, cid)
    return await attacks.ends(cid)


async def stolen_council_key(attacks: Attacks) -> dict[str, Any]:
    """It says that a module is sound that is not, and writes a stage into the ledger itself.

    The module equals the incumbent on all that its author shows, and not on one row in 10,007.
    """
    trigger = "(i64.add (i64.mul (i64.const 7919) {rank}) {bytes})"
    gamed = Upgrade(
        name="gamed",
        who=THIEF,
        answers={
            "score": f"(select {HEAVY} {LIGHT} (i64.eq (i64.const 13)"
            f" (i64.rem_u {trigger} (i64.const 10007))))"
        },
    )
    cid = await attacks.propose(gamed)
    await attacks.signed(THIEF, Verdict(proposal=parse_cid(cid), claim="sound", holds=True))
    await attacks.vote(cid)
    stage = StageEntry(
        slot=RANKING,
        version=(await attacks.slots())[0].highest + 1,
        proposal=parse_cid(cid),
        permille=1000,
        event="settle",
        reason="no-worse",
        low=0,
        high=0,
        reports=4,
        traps=0,
    )
    with pytest.raises(DaemonError) as caught:
        await attacks.handed(encode_entry(stage))
    ended = await attacks.ends(cid)
    detail = await attacks.proposal(cid)
    return {
        "stage": caught.value.problem.error,
        "ended": ended,
        "sound": detail.proposal.fetchable,
        "unsound": detail.proposal.not_fetchable,
        "benchmark": await _on_its_benchmark(attacks),
    }


async def _on_its_benchmark(attacks: Attacks) -> bool:
    """Whether the module equals the one in force on the inputs that its author shows."""
    folders = [attacks.world.work / "upgrades" / name for name in ("first", "gamed")]
    jail = Jail(attacks.world.work / "benchmark", lambda *_, **__: None, allow_weaker=True)
    slot = attacks.slot
    answers = []
    try:
        for folder in folders:
            module = await jail.compile((folder / "module.wasm").read_bytes(), ModuleLimits())
            found = []
            for number in range(20):
                batch = slot.generate(Draw(b"benchmark %d" % number), 32)
                await jail.call(module, batch, slot.limits)
                found.append(batch.answer("score"))
            answers.append(found)
    finally:
        jail.close()
    return answers[0] == answers[1]


# -- modules ----------------------------------------------------------------------------------


async def sleeper(attacks: Attacks) -> dict[str, Any]:
    """It ranks as the incumbent does, until its author publishes a seventh adapter; and the
    author's daemon says in every stage that it is wonderful."""
    cid = await attacks.propose(
        Upgrade(
            name="sleeper",
            who=THIEF,
            changed_ppm=1_000_000,
            answers={
                "score": f"(select {LIGHT} {HEAVY} (i64.lt_s {ROWS} (i64.const 7)))",
            },
        )
    )
    await attacks.vote(cid)
    before_it = await attacks.slots()
    with trio.fail_after(90):
        while await attacks.permille(cid) != 1000:
            await trio.sleep(0.05)
    reached = {each.answers.number for each in await attacks.slots()}
    await perform(Adapters(who=THIEF, model="base", ranks=[128]), attacks.world)
    lie = Report(
        proposal=parse_cid(cid),
        stage=1000,
        status="measured",
        pairs=1000,
        gain=900_000,
        calls=1000,
        traps=0,
        disagreements=0,
        fuel=1000,
    )
    await attacks.signed(THIEF, lie)
    ended = await attacks.ends(cid)
    return {
        "reached": reached,
        "ended": ended,
        "module": {each.current.module for each in before_it},
        "answers": await attacks.answering(),
        "highest": before_it[0].highest,
    }


ATTACKS: dict[str, Attack] = {
    "rollback": rollback,
    "fast-forward": fast_forward,
    "freeze": freeze,
    "mix-and-match": mix_and_match,
    "stolen proposer": stolen_proposer,
    "stolen council key": stolen_council_key,
    "sleeper": sleeper,
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    return attacked(ATTACKS)


def came_of(outcomes: dict[str, Any], attack: str) -> Any:
    """Its result; what went wrong in it is raised here. Whatever came of it, version 1's bytes
    answered on every daemon afterwards."""
    found = outcomes[attack]
    if isinstance(found, BaseException):
        raise found
    modules = {module for _, module in outcomes[f"{attack}: answering"]}
    assert modules == {outcomes["module"]}
    return found


def test_rollback_a_number_that_was_used_is_refused(outcomes: dict[str, Any]) -> None:
    codes = came_of(outcomes, "rollback")
    assert codes
    assert set(codes) == {"replayed"}


def test_fast_forward_a_number_that_leaves_others_out_is_refused(
    outcomes: dict[str, Any],
) -> None:
    assert came_of(outcomes, "fast-forward") == ["too-early", "too-early"]


def test_freeze_an_expired_record_is_never_carried_out(outcomes: dict[str, Any]) -> None:
    code, ended = came_of(outcomes, "freeze")
    assert code == "expired"
    assert ended in {("lapsed", "expired"), ("rejected", "impossible")}


def test_mix_and_match_a_manifest_of_other_bytes_is_unsound(outcomes: dict[str, Any]) -> None:
    assert came_of(outcomes, "mix-and-match") == ("rejected", "unsound")


def test_a_stolen_proposers_key_has_the_weight_of_one_vote(outcomes: dict[str, Any]) -> None:
    state, reason = came_of(outcomes, "stolen proposer")
    assert state == "rejected"
    assert reason in {"quorum", "no-quorum", "threshold", "voted-down"}


def test_one_stolen_council_key_makes_nothing_sound_and_writes_no_stage(
    outcomes: dict[str, Any],
) -> None:
    found = came_of(outcomes, "stolen council key")
    assert found["ended"] == ("rejected", "unsound")
    assert (found["sound"], found["unsound"]) == (1, 3)
    assert found["stage"] in {"malformed-entry", "bad-request"}


def test_good_on_the_benchmarks_inputs_and_bad_on_others_is_found_by_hidden_ones(
    outcomes: dict[str, Any],
) -> None:
    found = came_of(outcomes, "stolen council key")
    assert found["benchmark"]  # its author's figures were true
    assert found["ended"] == ("rejected", "unsound")


def test_what_behaves_until_everybody_runs_it_is_undone_by_what_they_measure(
    outcomes: dict[str, Any],
) -> None:
    found = came_of(outcomes, "sleeper")
    assert found["ended"] == ("rolled-back", "worse")
    assert found["answers"] == {(found["highest"] + 2, *found["module"])}


# -- endless data -----------------------------------------------------------------------------


SLOT = SLOTS["eviction"]


class Fetching:
    """A daemon's modules, fetched by a real puller from a peer that does as it likes."""

    def __init__(self, made: World, folder: Path, source: bytes) -> None:
        self.liar, self.here = made.node(), made.node()
        self.here.knows(self.liar)
        self.events: list[dict[str, Any]] = []
        self.jail = Jail(folder / "jail", lambda *_, **__: None, allow_weaker=True)
        self.modules = Modules(self.here.store, self.here.puller, self.jail, self._heard)
        self.refs = []
        for name, data in (("module.wasm", bytes(300)), ("module.wat", source)):
            path = folder / name
            path.write_bytes(data)
            found = survey(path, name, "flat", quiet)
            copy(self.liar.store, found, quiet)
            self.refs.append(found.ref)
        module, text = self.refs
        self.manifest = encode_manifest(
            UpgradeManifest(
                slot=SLOT.name,
                abi=SLOT.abi,
                description="",
                module=module,
                module_hash=hashlib.sha256(bytes(300)).digest(),
                source=text,
                source_hash=hashlib.sha256(source).digest(),
                language="wat",
                tools=(),
                evidence=(),
                author=MEMBERS[0].identity,
                depends_on=(),
            )
        )

    def _heard(self, kind: str, /, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})

    def want(self, manifest: bytes) -> Wanted:
        """The ledger names it."""
        self.liar.store.put_block(manifest)
        module = hashlib.sha256(bytes(300)).digest()
        wanted = Wanted(SLOT.name, SLOT.abi, 1, module, 300, cid_of(manifest))
        self.modules.want({wanted.key: wanted})
        return wanted

    async def told(self) -> dict[str, Any]:
        """What the owner is told of it."""
        with trio.fail_after(60):
            while not self.events:
                await trio.sleep(0.02)
        return self.events[0]


def _swollen(manifest: bytes, size: int) -> bytes:
    """The same manifest, with a module of so many bytes."""
    said = libipld.decode_dag_cbor(manifest)
    said["module"]["size"] = size
    data: bytes = libipld.encode_dag_cbor(said)
    return data


async def test_endless_data_a_manifest_of_a_terabyte_is_not_even_begun(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        there = Fetching(made, tmp_path, b"source")
        wanted = there.want(_swollen(there.manifest, 1 << 40))
        made.nursery.start_soon(there.modules.run)
        told = await there.told()
        assert (told["kind"], told["slot"]) == ("upgrade.not-fetched", SLOT.name)
        assert not there.liar.asked
        assert there.here.store.quota.used < 100_000
        assert wanted.key not in there.modules.ready
        there.jail.close()


async def test_endless_data_a_peer_that_sends_without_end_is_left(tmp_path: Path) -> None:
    poured = 0

    async def pour(_node: Node, end: End, request: Request) -> bool:
        nonlocal poured
        if not isinstance(request, FetchRequest):
            return False
        await end.write_frame(encode(Bytes(length=1 << 30)))
        with suppress(StreamClosedError):
            while True:
                await end.write(bytes(1 << 16))
                poured += 1 << 16
        return True

    async with world(tmp_path) as made:
        there = Fetching(made, tmp_path, b"source" * 100_000)
        there.liar.bend = pour
        wanted = there.want(there.manifest)
        made.nursery.start_soon(there.modules.run)
        told = await there.told()
        assert told["kind"] == "upgrade.not-fetched"
        assert there.here.blamed
        assert {peer for peer, _ in there.here.blamed} == {there.liar.name}
        assert poured <= MAX_FETCH
        assert there.here.store.quota.used <= MAX_FETCH
        assert wanted.key not in there.modules.ready
        there.jail.close()
