"""Announced adapters: ranked for what is here, and the best held for others."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import trio

from protocols.gossip.announcement import AdapterBody
from protocols.manifest import AdapterManifest, FileRef
from protocols.slots.abi import Batch
from protocols.slots.adapter_ranking import ADAPTERS, SCORE
from synapsed.control.drafts import adapter_body
from synapsed.gossip.catalog import CatalogService
from synapsed.holdings.adapters import Adapters
from synapsed.holdings.replicas import Declined, Replicas
from synapsed.models import import_artefact, import_model
from synapsed.process.events import EventBus
from synapsed.store.reasons import IMPORTED, PUBLISHED, REPLICA
from tests.eviction_kit import Elsewhere, Slots, Told
from tests.gossip_kit import NETWORK, NOW, identity, sealed
from tests.pipes import MemoryTable, PipeNet
from tests.store_kit import check_store, model_folder, safetensors
from tests.transfer_rig import Node, World, world

MIB = 1 << 20
ME = identity(1)
AUTHORS = [identity(number) for number in range(2, 6)]


class Daemon:
    """A daemon's adapters: a real store, puller and catalog, and a network made up."""

    def __init__(self, node: Node, slots: Slots | None = None, me: bytes = ME.peer_id) -> None:
        self.now = NOW
        self.node = node
        self.table = MemoryTable()
        self.told = Told()
        self.elsewhere = Elsewhere()
        self.reputation: dict[bytes, int] = {}
        self.slots = slots or Slots()
        net = PipeNet(ME.peer_id, node.world.nursery)
        emit = EventBus().emit
        self.catalog = CatalogService(net, ME, NETWORK, self.table, emit, clock=self.clock)
        declined = Declined(MemoryTable())
        self.replicas = Replicas(node.store, declined, lambda *_, **__: None)
        self.adapters = Adapters(
            node.store,
            self.catalog,
            node.puller,
            self.replicas,
            self.elsewhere,
            me=me,
            wanted=3,
            hold=True,
            reputation=self._reputation,
            tell=self.told,
            slots=self.slots,
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.now

    def _reputation(self) -> Mapping[bytes, int]:
        return self.reputation

    def heard(self, author: int, body: AdapterBody) -> None:
        """Somebody announces an adapter, and is alive."""
        who = AUTHORS[author]
        self.table.put(who.peer_id + b"adapter" + body.adapter, sealed(who, body))
        self.elsewhere.offered.setdefault(body.adapter, []).append(who.peer_id)

    async def start(self) -> None:
        """What was heard is in the catalog."""
        self.node.world.nursery.start_soon(self.catalog.run)
        await self.catalog.restored()
        await trio.testing.wait_all_tasks_blocked()

    async def names(self) -> list[str]:
        return [one.body.name for one in await self.adapters.ranked(shown=True)]

    def holds(self, cid: bytes) -> bool:
        pinned = (cid, REPLICA) in self.node.store.pins()
        own = self.catalog.catalog.own("adapter", cid)
        assert pinned == (own is not None and own.live)
        return pinned


class Author:
    """Somebody with a base model, who makes adapters for it."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self._folder = node, folder
        self.source = model_folder(folder / "base", {"w": MIB})
        self.base = import_model(node.store, self.source, "base").cid

    def adapter(self, name: str, size: int = 4096, base: bytes | None = None) -> AdapterBody:
        """One more, in the author's store; what is announced of it."""
        path = self._folder / f"{name}.safetensors"
        path.write_bytes(safetensors({name: size}))

        def describe(ref: FileRef) -> AdapterManifest:
            return AdapterManifest(
                name=name,
                description="",
                base=base or self.base,
                target_modules=("q_proj",),
                target_experts=(),
                rank=8,
                alpha_milli=16_000,
                file=ref,
                author=AUTHORS[0].peer_id,
                approved_by_human=False,
                depends_on=(),
            )

        return adapter_body(
            *import_artefact(self.node.store, path, "safetensors", describe, reason=PUBLISHED)
        )


@pytest.fixture
async def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("synapsed.transfer.crew.LONELY_SECONDS", 0.3)
    with trio.fail_after(30):
        async with world(tmp_path) as made:
            yield made


@pytest.fixture
async def author(swarm: World, tmp_path: Path) -> Author:
    return Author(swarm.node(), tmp_path)


@pytest.fixture
async def daemon(swarm: World, author: Author) -> Daemon:
    """With the author's base model, and the author to ask."""
    node = swarm.node()
    node.knows(author.node)
    import_model(node.store, author.source, "base")
    return Daemon(node)


async def test_what_suits_this_machine_stands_first(author: Author, daemon: Daemon) -> None:
    other = import_model(author.node.store, author.source, "another base").cid
    daemon.heard(0, author.adapter("foreign", base=other))
    daemon.heard(0, author.adapter("plain"))
    daemon.heard(0, author.adapter("heavy", 2 * MIB))
    esteemed = author.adapter("esteemed")
    daemon.heard(1, esteemed)
    daemon.reputation = {AUTHORS[1].peer_id: 500}
    await daemon.start()
    assert await daemon.names() == ["esteemed", "plain", "heavy", "foreign"]
    (batch,) = daemon.slots.batches
    assert sorted(batch.column(ADAPTERS, "base").tolist()) == [0, 1000, 1000, 1000]


async def test_another_policy_in_force_lists_and_fetches_another_first(
    swarm: World, author: Author, tmp_path: Path
) -> None:
    """The heaviest first, which the reference puts last: in the list and in what is held."""

    def heaviest(batch: Batch) -> None:
        batch.answered(SCORE, batch.column(ADAPTERS, "bytes").tolist())

    light, heavy = author.adapter("light"), author.adapter("heavy", MIB)
    found = []
    for slots in (Slots(), Slots(adapter_ranking=heaviest)):
        node = swarm.node()
        node.knows(author.node)
        import_model(node.store, author.source, "base")
        daemon = Daemon(node, slots)
        for body in (light, heavy):
            daemon.heard(0, body)
        await daemon.start()
        names = await daemon.names()
        await daemon.adapters.look()
        found.append((names, [daemon.holds(body.adapter) for body in (light, heavy)]))
    assert found == [(["light", "heavy"], [True, False]), (["heavy", "light"], [False, True])]


async def test_a_copy_is_held_announced_and_counted_as_others(
    author: Author, daemon: Daemon
) -> None:
    body = author.adapter("one")
    daemon.heard(0, body)
    await daemon.start()
    await daemon.adapters.look()
    assert daemon.holds(body.adapter)
    own = daemon.catalog.catalog.own("adapter", body.adapter)
    assert own is not None
    assert own.announcement.body == body
    assert [it["adapter"] for it in daemon.told.of("replication.adapter")]
    check_store(daemon.node.store)
    await daemon.adapters.look()  # held: nothing more to do
    assert len(daemon.told) == 1


async def test_what_is_not_wanted_is_not_fetched(author: Author, daemon: Daemon) -> None:
    """Enough copies, no base, no room, taken back by the owner, somebody else's turn."""
    other = import_model(author.node.store, author.source, "another base").cid
    enough, foreign = author.adapter("enough"), author.adapter("foreign", base=other)
    for number in range(3):
        daemon.heard(number, enough)
    daemon.heard(0, foreign)
    declined = author.adapter("declined")
    daemon.heard(0, declined)
    await daemon.replicas.declined.add(declined.adapter)
    large = author.adapter("large", 3 * MIB)
    daemon.heard(0, large)
    daemon.node.store.quota.limit = daemon.node.store.quota.used + 2 * MIB
    await daemon.start()
    await daemon.adapters.look()
    assert daemon.told == []
    daemon.node.store.quota.limit += 8 * MIB
    await daemon.adapters.look()
    assert daemon.holds(large.adapter)


async def test_of_many_that_could_take_one_a_few_begin(
    swarm: World, author: Author, tmp_path: Path
) -> None:
    body = author.adapter("one")
    crowd = [identity(number).peer_id for number in range(10, 16)]
    took = 0
    for me in crowd:
        node = swarm.node()
        node.knows(author.node)
        import_model(node.store, author.source, "base")
        daemon = Daemon(node, me=me)
        daemon.elsewhere.has(author.base, 1, *(peer for peer in crowd if peer != me))
        daemon.heard(0, body)
        await daemon.start()
        await daemon.adapters.look()
        took += node.store.has_block(body.adapter)
    assert took == 2  # of three copies there is one


async def test_a_lie_about_its_size_brings_nothing(author: Author, daemon: Daemon) -> None:
    body = author.adapter("one", 2 * MIB)
    lie = AdapterBody(
        adapter=body.adapter, base=body.base, name=body.name, rank=body.rank, size=1000
    )
    daemon.heard(0, lie)
    before = daemon.node.store.quota.used
    await daemon.start()
    await daemon.adapters.look()
    assert not daemon.holds(body.adapter)
    assert daemon.node.store.quota.used == before
    assert len(daemon.told.of("replication.adapter-failed")) == 1
    await daemon.adapters.look()  # not again at once
    assert len(daemon.told) == 1


async def test_a_copy_goes_with_its_base_and_never_keeps_that_here(
    author: Author, daemon: Daemon
) -> None:
    body = author.adapter("one")
    daemon.heard(0, body)
    await daemon.start()
    await daemon.adapters.look()
    assert daemon.holds(body.adapter)
    store = daemon.node.store
    store.unpin(author.base, IMPORTED)
    assert store.gc().files > 0
    daemon.now += 10  # we do not say two things about one adapter at once
    await daemon.adapters.look()
    assert not daemon.holds(body.adapter)
    assert (store.files(), store.pins()) == ([], [])


async def test_what_the_owner_takes_back_is_let_go_of_for_good(
    author: Author, daemon: Daemon
) -> None:
    body = author.adapter("one")
    daemon.heard(0, body)
    await daemon.start()
    await daemon.adapters.look()
    daemon.now += 10  # we do not say two things about one adapter at once
    daemon.catalog.withdraw("adapter", body.adapter)
    await daemon.adapters.decline(body.adapter)
    assert not daemon.node.store.has_block(body.adapter)
    await daemon.adapters.look()
    assert not daemon.holds(body.adapter)


async def test_a_list_is_judged_by_what_the_owner_then_pulls(
    author: Author, daemon: Daemon
) -> None:
    daemon.heard(0, author.adapter("small"))
    second = author.adapter("larger", MIB)
    daemon.heard(0, second)
    await daemon.start()
    daemon.adapters.chosen(second.adapter)  # no list was shown
    assert await daemon.names() == ["small", "larger"]
    daemon.adapters.chosen(author.base)
    assert daemon.slots.achieved == []
    daemon.adapters.chosen(second.adapter)
    daemon.adapters.chosen(second.adapter)
    assert daemon.slots.achieved == [("adapter_ranking", 2)]
