"""One ledger among daemons that are joined by pipes: ratified, followed, kept, and repaired."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from protocols.changes import ParameterChange, Setting
from protocols.cid import cid_of
from protocols.effects import Save
from protocols.ledger import entries as e
from protocols.ledger.errors import BadSignatureError, ReplayedError, WrongGenesisError
from protocols.ledger.signing import cast
from protocols.manifest import ProposalManifest, encode_manifest
from protocols.raft import ports as raftports
from protocols.raft import state as raftstate
from synapsed.config.inforce import InForce
from synapsed.config.load import load
from synapsed.config.options import Loaded
from synapsed.ledger import service as ledger_service
from synapsed.ledger.service import Costs, open_founded
from synapsed.store.errors import DiskFullError
from tests.ledger_kit import Daemon, World, world

UPLOAD = "limits.upload"
SECOND = 1000


async def test_four_members_ratify_ticks_and_a_note(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(60):
            for daemon in made.daemons:
                await daemon.reaches(2)
            note = made.daemons[2].note("hello")
            made.daemons[2].service.submit(note)
            indexes = [await daemon.has(note) for daemon in made.daemons]
        assert len(set(indexes)) == 1
        (settled,) = [one for one in made.daemons[2].settled if one.data == note]
        assert (settled.index, settled.error) == (indexes[0], None)
        assert {daemon.service.role for daemon in made.daemons} == {"member"}


async def test_a_daemon_outside_the_council_follows_and_submits(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, others=1) as made:
        outside = made.daemons[4]
        with trio.fail_after(60):
            note = outside.note("from outside")
            outside.service.submit(note)
            assert await outside.has(note) == await made.daemons[0].has(note)
        assert outside.service.role == "follower"
        assert outside.service.machine.replica is None


async def test_what_is_wrong_with_a_submission_is_said_at_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        one = made.daemons[0]
        note = one.note("once")
        with pytest.raises(BadSignatureError):
            one.service.submit(note[:-1] + bytes((note[-1] ^ 1,)))
        one.service.submit(note)
        with trio.fail_after(60):
            await one.has(note)
        with pytest.raises(ReplayedError):
            one.service.submit(note)


async def test_one_of_four_may_be_away_and_catches_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(300):
            for daemon in made.daemons:
                await daemon.reaches(3)
            away = made.daemons[1]
            await away.stop()
            here = made.daemons[0]
            await here.reaches(here.head + 40)
            before = away.head
            await away.start()
            assert away.head <= before  # from the disk, and not from anywhere else
            await away.reaches(here.head)
        assert away.ratified[before + 1] == here.ratified[before + 1]


async def test_all_killed_at_once_go_on_where_they_were(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(300):
            notes = [daemon.note(f"before {daemon.number}") for daemon in made.daemons]
            for daemon, note in zip(made.daemons, notes, strict=True):
                daemon.service.submit(note)
            for daemon in made.daemons:
                for note in notes:
                    await daemon.has(note)
            for daemon in made.daemons:
                await daemon.stop()
            for daemon in made.daemons:
                await daemon.start()
            after = made.daemons[3].note("after")
            made.daemons[3].service.submit(after)
            for daemon in made.daemons:
                await daemon.has(after)
        assert all(daemon.service.role == "member" for daemon in made.daemons)


async def test_a_member_whose_disk_was_wiped_follows_and_signs_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(300):
            wiped = made.daemons[2]
            await wiped.reaches(5)
            key = wiped.service.store.key.public_key
            await wiped.stop()
            wiped.path.unlink()
            wiped.seed = 77
            await wiped.start()
            await wiped.reaches(made.daemons[0].head + 5)
        assert wiped.service.store.key.public_key != key
        assert wiped.service.role == "lost-state"
        assert wiped.service.machine.replica is None
        assert any("signs nothing" in line for line in wiped.service.warnings())


async def test_a_full_disk_stops_the_signing_and_room_starts_it_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(600):
            full = made.daemons[0]
            await full.reaches(3)
            me, driver = full.identity.peer_id, full.service._driver
            save, room = driver._save_together, False
            assert save is not None

            def save_if_there_is_room(saves: Sequence[Save], durable: bool) -> None:
                if not room:
                    raise DiskFullError("no room on the disk", remedy="free some")
                save(saves, durable)

            driver._save_together = save_if_there_is_room
            other = made.daemons[1]
            before = other.head
            await other.reaches(before + 20)  # three of four are enough
            assert other.service.news.signed[me] <= before + 2
            assert "free some" in full.service.warnings()[0]
            assert full.kinds().count("store.failed") == 1
            room = True
            while other.service.news.signed[me] <= before + 20:
                await other.news.wait()
            assert full.service.stalled == ""
        assert "store.recovered" in full.kinds()
        assert full.service.role == "member"


@pytest.mark.parametrize("how", ["torn", "edited", "gone"])
async def test_a_damaged_entry_is_named_and_fetched_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(300):
            hurt = made.daemons[3]
            await hurt.reaches(12)
            await hurt.stop()
            with hurt.opened() as store:
                table = store.table("ledger")
                key, record = table.items(b"e")[5]
                if how == "gone":
                    table.delete(key)
                else:
                    table.put(key, record[:-3] if how == "torn" else record[:-1] + b"!")
            was = hurt.ratified.copy()
            hurt.ratified.clear()
            await hurt.start()
            await hurt.reaches(max(was) + 5)
        damaged = [event for event in hurt.events if event.kind == "ledger.damaged"]
        assert len(damaged) == 1
        assert hurt.service.role == "member"
        index = int.from_bytes(key[1:], "big")
        with hurt.opened() as store:
            assert store.table("ledger").get(key) == record
        assert str(index) in damaged[0].fields["what"]


async def test_a_parameter_that_was_voted_on_is_in_force_everywhere_at_one_index(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    windows = {"vote__window_ms": 5 * SECOND, "approval__window_ms": SECOND}
    async with world(tmp_path, others=1, execute__delay_ms=SECOND, **windows) as made:
        forces = [_force(daemon, load(None, {})) for daemon in made.daemons]
        owners = _force(made.daemons[4], load(None, {"SYNAPSED_LIMITS__UPLOAD": "9 MB/s"}))
        with trio.fail_after(600):
            proposer = made.daemons[4]
            await proposer.reaches(1)
            data = encode_manifest(
                ProposalManifest(
                    title="slower",
                    description="",
                    author=proposer.identity.peer_id,
                    depends_on=(),
                    change=ParameterChange(settings=(Setting(UPLOAD, 1_234_567),)),
                )
            )
            proposer.service.submit(proposer.signed(e.Proposal(manifest=data)))
            cid = cid_of(data)
            for daemon in made.daemons[:3]:
                await _opened(daemon, cid)
                vote = cast(
                    daemon.service.ledger.realm,
                    daemon.identity.peer_id,
                    cid,
                    choice=e.YES,
                    epoch=1,
                    number=daemon.service.next_vote(cid),
                    sign=daemon.identity.sign,
                )
                daemon.service.submit(e.encode_entry(vote))
            for daemon in made.daemons:
                while UPLOAD not in daemon.service.ledger.origins:
                    await daemon.news.wait()
        assert {force.value(UPLOAD) for force, _ in forces} == {1_234_567}
        assert {applied[-1] for _, applied in forces} == {1_234_567}
        (origin,) = {force.origin(UPLOAD) for force, _ in forces}
        assert owners[0].value(UPLOAD) == 9_000_000
        assert owners[0].origin(UPLOAD) == "env SYNAPSED_LIMITS__UPLOAD"
        told = [_changes(daemon) for daemon in made.daemons]
        assert all(fields == told[0] for fields in told)
        assert origin == f"ledger {told[0]['index']}"
        assert (told[0]["value"], told[0]["before"]) == (1_234_567, 2_500_000)
        for kind in ("proposal.opened", "proposal.voted", "proposal.closed"):
            assert all(kind in daemon.kinds() for daemon in made.daemons)


def _force(daemon: Daemon, loaded: Loaded) -> tuple[InForce, list[int]]:
    applied: list[int] = []
    force = InForce(loaded, lambda _name, value: applied.append(value))
    daemon.service.on_changed.append(lambda: force.advanced(daemon.service.ledger))
    return force, applied


def _changes(daemon: Daemon) -> dict[str, Any]:
    (event,) = [event for event in daemon.events if event.kind == "parameter.changed"]
    fields: dict[str, Any] = dict(event.fields)
    epoch, _, index = fields.pop("certificate").split("/")
    assert epoch == "1"
    assert int(index) >= fields["index"]
    return fields


async def _opened(daemon: Daemon, cid: bytes) -> None:
    while cid not in daemon.service.ledger.open:
        await daemon.news.wait()


async def test_a_service_that_failed_begins_again_from_the_disk(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(300):
            one = made.daemons[0]
            await one.reaches(5)
            machine = one.service.machine
            await one.restart_service()
            await one.reaches(one.head + 5)
        assert one.service.machine is not machine
        assert one.service.role == "member"


async def test_who_was_given_another_genesis_is_warned_and_nobody_is_blamed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(300):
            misled = made.add()
            misled.payload = World.founding(tmp_path, 4, created=1)
            await misled.start()
            await trio.sleep(30)
            index = made.daemons[0].head
            assert index > 10
            await trio.sleep(30)
            assert made.daemons[0].head > index
        assert not any(daemon.net.blamed for daemon in made.daemons)
        assert misled.head == 0
        (line,) = misled.service.warnings()
        assert line.startswith("all 4 peers that were asked follow another genesis (")
        for daemon in made.daemons[:4]:
            assert not daemon.service.warnings()
            assert daemon.kinds().count("ledger.wrong-genesis") == 1
        with trio.fail_after(300):
            for daemon in made.daemons[:4]:
                await daemon.stop()
            assert not misled.service.warnings()
            await made.daemons[1].start()
            await trio.sleep(5)
            for one, other in ((misled, made.daemons[1]), (made.daemons[1], misled)):
                (line,) = one.service.warnings()
                ours, theirs = (each.service.history.genesis.hex()[:16] for each in (one, other))
                assert line.startswith(
                    "the only peer that was asked follows another genesis"
                    f" ({theirs}...; ours is {ours}...): compare"
                )


async def test_a_seat_with_another_genesis_of_the_same_seats_is_as_one_that_is_down(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as made:
        with trio.fail_after(300):
            misled = made.daemons[3]
            await misled.stop()
            misled.path.unlink()
            misled.ratified.clear()
            misled.payload = World.founding(tmp_path / "other", 4, created=1)
            await misled.start()
            await trio.sleep(30)
            index = made.daemons[0].head
            await trio.sleep(30)
            assert made.daemons[0].head > index + 10
        assert misled.service.machine.replica is not None  # and it sends what a seat sends
        assert misled.head == 0
        assert not [one.net.blamed for one in made.daemons if one.net.blamed]
        assert misled.service.warnings()


def test_another_genesis_than_the_disks_is_refused(tmp_path: Path) -> None:
    one, other = (World.founding(tmp_path, 4, created=created) for created in (1, 2))
    with World.opened_at(tmp_path, 1) as store:
        saves = World.begin(one, store)
        store.save(saves)
        with pytest.raises(WrongGenesisError):
            World.begin(other, store)


def test_without_a_genesis_there_is_no_ledger(tmp_path: Path) -> None:
    from synapsed import paths

    places = paths.find(tmp_path, None, {})
    assert open_founded("test", places, lambda _kind, **_fields: None) is None
    assert not places.ledger.exists()


def test_a_genesis_of_another_network_is_refused(tmp_path: Path) -> None:
    from synapsed import paths
    from synapsed.ledger import genesis

    places = paths.find(tmp_path, None, {})
    genesis.install(places, World.founding(tmp_path, 4))
    with pytest.raises(WrongGenesisError, match="test"):
        open_founded("other", places, lambda _kind, **_fields: None)


def test_strangers_pay_for_what_they_cost_and_nobody_else_does() -> None:
    burst, share = ledger_service.STRANGER_BURST, ledger_service.STRANGER_SHARE
    costs = Costs(share, burst)
    costs.charge(b"a", burst * 0.9, now=100.0)
    assert costs.pause(b"a", 100.0) == 0
    costs.charge(b"a", burst, now=100.0)
    assert costs.pause(b"a", 100.0) == pytest.approx(0.9 * burst / share)
    assert costs.pause(b"a", 100.0 + 0.9 * burst / share) == pytest.approx(0)
    assert costs.pause(b"b", 100.0) == 0
    for number in range(ledger_service.MAX_STRANGERS):
        costs.charge(number.to_bytes(4, "big"), 1e-6, now=100.0)
    assert costs.pause(b"a", 100.0) == 0  # forgotten last: its place was needed


async def test_a_seat_whose_record_is_gone_never_signs_under_its_key_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, council__epoch_ms=60 * SECOND) as made:
        with trio.fail_after(600):
            hurt = made.daemons[1]
            await hurt.reaches(5)
            await hurt.stop()
            with hurt.opened() as store:
                key = store.key.public_key
                store.table(raftports.TABLE).delete(raftstate.STATE)
            hurt.seed = 88
            await hurt.start()
            me = hurt.identity.peer_id
            signed = made.daemons[0].service.news.signed.get(me, 0)
            await made.daemons[0].reaches(made.daemons[0].head + 20)
            assert made.daemons[0].service.news.signed.get(me, 0) <= signed + 1
            assert hurt.service.store.key.public_key != key
            assert hurt.service.role == "lost-state"
            while hurt.service.ledger.epoch == 1:  # an epoch entry seats it under its new key
                await hurt.news.wait()
            await hurt.reaches(hurt.head + 20)
        assert hurt.service.role == "member"
        assert {"council.lost-state", "council.new-key"} <= set(hurt.kinds())
