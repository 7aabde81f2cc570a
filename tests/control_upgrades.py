"""Upgrades at a node without a net: the owner's side and the service behind it are the daemon's,
over the ledger of control_ledger.py and a real store; the jail's worker starts when it is used."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import trio

from protocols.cid import cid_text
from protocols.gossip.announcement import UpgradeBody
from protocols.slots.closed_list import SLOTS
from synapsed.config.options import Config, Loaded
from synapsed.control import ledgermodels as said
from synapsed.jail.jail import Jail
from synapsed.owner.upgrading import Upgrading
from synapsed.upgrades.board import Board
from synapsed.upgrades.memory import Memory
from synapsed.upgrades.modules import Modules
from synapsed.upgrades.recorder import Recorder
from synapsed.upgrades.service import UpgradeService
from synapsed.upgrades.trials import Trials
from tests.upgrades_kit import Elsewhere, Me


class NodeLedger:
    """The LedgerService that a node's ledger is: what is submitted is ratified at once."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.on_changed: list[Callable[[], None]] = []

    @property
    def loaded(self) -> bool:
        """Nothing is read from a disk here."""
        return True

    @property
    def ledger(self) -> Any:
        return self._node.there.state

    @property
    def history(self) -> Any:
        return self._node.history

    @property
    def genesis(self) -> bytes:
        return self._node.there.payloads[0]

    def submit(self, data: bytes) -> None:
        self._node.ratify(data)


class NodeUpgrading(Upgrading):
    """Upgrading, with what it submits ratified by the node."""

    def __init__(self, node: Any, parts: Any, ledger: NodeLedger) -> None:
        super().__init__(parts)
        self._node, self._book = node, ledger

    @property
    def _ledger(self) -> Any:
        self._node.there  # noqa: B018 - NoGenesisError
        return self._book

    async def _say(self, kind, body, subject, wait, report) -> said.Submitted:
        done = await self._node._submit(body, kind, wait, report)
        done.subject = subject
        return done

    async def proposal(self, cid: bytes) -> said.ProposalDetail:
        return await self._node.proposal(cid)


class Near(Elsewhere):
    """Who asks for what it has, has it."""

    paused = False

    async def pull(self, cid: bytes, **more: Any) -> None:
        if not self.store.has_block(cid):
            await super().pull(cid, **more)


class Catalog:
    """What of upgrades is announced."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.withdrawn: list[bytes] = []

    def announce(self, body: UpgradeBody) -> None:
        fields = {"upgrade": cid_text(body.upgrade), "slot": body.slot, "size": body.size}
        self._node._announce("upgrade", body.upgrade, fields)

    def withdraw(self, kind: str, subject: bytes) -> None:
        assert kind == "upgrade"
        self.withdrawn.append(subject)


def _asked(name: str) -> property:
    return property(lambda node: getattr(node.upgrading, name))


class MemoryUpgrades:
    """The part of NodeApi that is about upgrades, for a node with `store`, `folder` and `bus`."""

    upgrades = _asked("upgrades")
    upgrade = _asked("upgrade")
    fetch_upgrade = _asked("fetch_upgrade")
    module_in_force = _asked("module_in_force")
    propose_upgrade = _asked("propose_upgrade")
    propose_rollback = _asked("propose_rollback")
    say_of_upgrade = _asked("say_of_upgrade")
    set_upgrade_mode = _asked("set_upgrade_mode")
    replay = _asked("replay")

    def begin_upgrades(self) -> None:
        """Once the node has all else."""
        node = cast(Any, self)
        ledger, emit = NodeLedger(node), node.bus.emit
        node.elsewhere = elsewhere = Near(node.store, node.folder)
        node.jail = jail = Jail(node.folder / "jail", emit, allow_weaker=True)
        board = Board(SLOTS, emit)
        board.jail = jail
        config = Config()
        node.upgrade_service = service = UpgradeService(
            cast(Any, ledger),
            cast(Any, Me(node.me)),
            board=board,
            slots=SLOTS,
            memory=Memory(node.store.table("upgrades"), config.upgrades),
            modules=Modules(node.store, cast(Any, elsewhere), jail, emit),
            recorder=Recorder(node.folder / "recorded", emit, seconds=0.0),
            trials=Trials(node.store.table("trials")),
            emit=emit,
        )
        node.upgrade_catalog = Catalog(node)
        parts = SimpleNamespace(
            store=node.store,
            puller=elsewhere,
            catalog=node.upgrade_catalog,
            evictor=SimpleNamespace(room=_room),
            jail=jail,
            loaded=Loaded(config, {}),
            identity=Me(node.me),
            upgrades=service,
            bus=node.bus,
        )
        node.upgrading = NodeUpgrading(node, parts, ledger)
        node.bus.observe(lambda event: _changed(ledger, event.kind))
        service.refresh()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """With the service's tasks under way."""
        node = cast(Any, self)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.upgrade_service.run)
            yield
            nursery.cancel_scope.cancel()

    def end_upgrades(self) -> None:
        cast(Any, self).jail.close()


def _changed(ledger: NodeLedger, kind: str) -> None:
    if kind == "ledger.ratified":
        for tell in ledger.on_changed:
            tell()


@contextmanager
def _room() -> Iterator[Any]:
    yield SimpleNamespace(make_from_thread=None)
