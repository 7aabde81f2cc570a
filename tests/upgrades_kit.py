"""One daemon's upgrades with nothing but a net left out: a real jail, a real store, and a ledger
whose entries are really signed and folded."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import trio

from protocols.changes import UpgradeChange
from protocols.cid import cid_of
from protocols.draw import Draw
from protocols.ledger.entries import YES, Report, Verdict, decode_waiting
from protocols.ledger.errors import InvalidEntryError
from protocols.ledger.rollout import LEAST_COHORT, place
from protocols.manifest import UpgradeManifest, encode_manifest
from protocols.slots.closed_list import SLOTS
from synapsed.config.options import SlotModes, UpgradesConfig
from synapsed.jail.jail import Jail
from synapsed.models import NotAModelManifestError
from synapsed.store import Store
from synapsed.store.importing import copy, survey
from synapsed.store.reasons import PUBLISHED
from synapsed.transfer.errors import PullFailedError
from synapsed.upgrades.board import Board
from synapsed.upgrades.memory import Memory
from synapsed.upgrades.modules import Modules
from synapsed.upgrades.recorder import Recorder
from synapsed.upgrades.service import UpgradeService
from synapsed.upgrades.trials import Trials
from tests.ledger_book import MEMBERS, Book, Person
from tests.store_kit import QUOTA, quiet
from tests.upgrade_book import SLOT, STAGE, begin, change, network, report, rollout

EVICTION = SLOTS[SLOT]
ME = MEMBERS[0]


def wat(worth: str, *, when: str = "") -> bytes:
    """A module for the slot `eviction` whose answer for each row is `worth`, an expression over
    $at, the row's first column; `when` is what it does before (a trap)."""
    head = 8 * (1 + len(EVICTION.context))
    columns = len(EVICTION.tables[0].columns)
    return f"""
(module
  (memory (export "memory") 129 200)
  (func (export "reserve") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param $block i32) (param $size i32) (result i32)
    (local $at i32) (local $end i32) (local $out i32)
    {when}
    (local.set $at (i32.add (local.get $block) (i32.const {head + 8})))
    (local.set $end (i32.mul (i32.const 8)
      (i32.wrap_i64 (i64.load (i32.add (local.get $block) (i32.const {head}))))))
    (local.set $out (i32.add (local.get $at) (i32.mul (local.get $end) (i32.const {columns}))))
    (local.set $end (i32.add (local.get $at) (local.get $end)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (i64.store (local.get $out) {worth})
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (local.set $out (i32.add (local.get $out) (i32.const 8)))
      (br $next)))
    (i32.const 0)))
""".encode()


def constant(value: int) -> bytes:
    """The text of a module that answers the same for every row."""
    return wat(f"(i64.const {value})")


TRAPS = wat("(i64.const 1)", when="(unreachable)")
SPINS = wat("(i64.const 1)", when="(loop $for (br $for))")


class Elsewhere:
    """The puller, and what others hold: `away` is nobody's just now."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.held: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        self.away: set[bytes] = set()
        self.pulled: list[bytes] = []
        self.error: Exception | None = None

    def publish(self, module: bytes, text: bytes, **fields: Any) -> tuple[bytes, UpgradeManifest]:
        """Others have an upgrade; its manifest's CID, and the manifest."""
        refs = [self._survey(name, data).ref for name, data in self._files(module, text)]
        manifest = UpgradeManifest(
            **{
                "slot": SLOT,
                "abi": EVICTION.abi,
                "description": "",
                "module": refs[0],
                "module_hash": hashlib.sha256(module).digest(),
                "source": refs[1],
                "source_hash": hashlib.sha256(text).digest(),
                "language": "wat",
                "tools": (),
                "evidence": (),
                "author": ME.identity,
                "depends_on": (),
            }
            | fields
        )
        data = encode_manifest(manifest)
        self.held[cid_of(data)] = data, module, text
        return cid_of(data), manifest

    def _files(self, module: bytes, text: bytes) -> list[tuple[str, bytes]]:
        return [("module.wasm", module), ("source.wat", text)]

    def _survey(self, name: str, data: bytes) -> Any:
        path = self.folder / name
        path.write_bytes(data)
        return survey(path, name, "flat", quiet)

    async def learn(self, cid: bytes, **_: Any) -> None:
        await trio.lowlevel.checkpoint()
        if cid in self.away:
            raise PullFailedError("nobody has it", {})
        raise NotAModelManifestError("an upgrade")

    async def pull(self, cid: bytes, **_: Any) -> None:
        self.pulled.append(cid)
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        if cid in self.away or cid not in self.held:
            raise PullFailedError("nobody has it", {})
        data, module, text = self.held[cid]
        for name, content in self._files(module, text):
            copy(self.store, self._survey(name, content), quiet)
        self.store.put_block(data)


class BookLedger:
    """The LedgerService that a Book is: what is submitted is ratified at once."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.on_changed: list[Callable[[], None]] = []
        self.submitted: list[Report] = []
        self.down = False
        self.lost = 0
        self.loaded = True

    @property
    def ledger(self) -> Any:
        return self.book.state

    def submit(self, data: bytes) -> None:
        entry = decode_waiting(data).entry
        assert hasattr(entry, "body")
        if self.down:
            self.lost += 1
            return
        self.book.add(data)
        self.submitted.append(entry.body)
        self.changed()

    def changed(self) -> None:
        for tell in tuple(self.on_changed):
            tell()


class Me:
    """An Identity port of a Book's person."""

    def __init__(self, person: Person) -> None:
        self.public_key = person.key
        self.peer_id = person.identity
        self.sign = person.sign


class Desk:
    """One daemon: `start` and `stop` it as often as you like, over one folder and one ledger."""

    def __init__(self, folder: Path, book: Book, nursery: trio.Nursery, person: Person) -> None:
        self.folder, self.book, self.person = folder, book, person
        self.nursery = nursery
        self.config = UpgradesConfig()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.heard = trio.Event()
        self.ledger = BookLedger(book)
        self.others: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        self.record_seconds = 0.0

    def emit(self, kind: str, /, **fields: Any) -> None:
        self.events.append((kind, fields))
        self.heard.set()
        self.heard = trio.Event()

    async def start(self, *, run: bool = True) -> None:
        self.store = Store.open(self.folder / "store", QUOTA, on_event=self.emit)
        self.jail = Jail(self.folder / "jail", self.emit, allow_weaker=True)
        self.elsewhere = Elsewhere(self.store, self.folder)
        self.elsewhere.held = self.others
        self.board = Board(SLOTS, self.emit)
        self.board.jail = self.jail
        self.ledger.on_changed.clear()
        self.service = UpgradeService(
            cast(Any, self.ledger),
            Me(self.person),
            board=self.board,
            slots=SLOTS,
            memory=Memory(self.store.table("upgrades"), self.config),
            modules=Modules(self.store, cast(Any, self.elsewhere), self.jail, self.emit),
            recorder=Recorder(self.folder / "recorded", self.emit, seconds=self.record_seconds),
            trials=Trials(self.store.table("trials", durable=False)),
            emit=self.emit,
        )
        self.scope, self.closed = trio.CancelScope(), trio.Event()
        await self.service.restore()
        if run:
            await self.nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self.scope:
                task_status.started()
                await self.service.run()
        finally:
            self.jail.close()
            self.store.close()
            self.closed.set()

    async def stop(self) -> None:
        self.scope.cancel()
        await self.closed.wait()

    # -- the ledger --

    async def module(self, text: bytes) -> bytes:
        """The bytes of a module, by the jail's own translator."""
        return await self.jail.wat(text)

    async def offer(self, text: bytes, **fields: Any) -> UpgradeChange:
        """An upgrade to a module that others hold: what would be proposed."""
        module = await self.module(text)
        cid, manifest = self.elsewhere.publish(module, text)
        return change(
            self.book,
            **{
                "module": manifest.module_hash,
                "size": manifest.module.size,
                "source": manifest.source_hash,
                "manifest": cid,
                "limits": EVICTION_LIMITS,
            }
            | fields,
        )

    def begin(self, what: UpgradeChange, title: str = "an upgrade") -> bytes:
        """Accepted, and in its shadow stage; this daemon is of the first cohort, three of four."""
        for number in range(100):
            named = f"{title} {number}"
            cid = cid_of(self.book.manifest(MEMBERS[0], what, title=named))
            drawn = sorted(
                place(self.book.state.council.beacon, cid, who.identity) for who in MEMBERS
            )
            mine = place(self.book.state.council.beacon, cid, self.person.identity)
            if mine <= drawn[LEAST_COHORT - 1]:
                break
        begin(self.book, what, named)
        self.ledger.changed()
        return cid

    def finish(self, cid: bytes) -> None:
        """A proposal that is open: voted for, found sound, and in its shadow stage."""
        self.book.vote(cid, dict.fromkeys(MEMBERS, YES))
        terms = self.book.state.open[cid].terms
        for member in MEMBERS[: terms.verdicts]:
            self.book.submit(member, Verdict(proposal=cid, claim="sound", holds=True))
        self.later(self.book.state.params["vote.window_ms"])
        self.later(self.book.state.params["execute.delay_ms"])

    def later(self, milliseconds: int = STAGE) -> None:
        self.book.later(milliseconds)
        self.ledger.changed()

    def others_report(self, **fields: Any) -> None:
        """All members but this daemon say what honest ones do, or `fields`."""
        for who in MEMBERS:
            if who is not self.person:
                self.tries(who, **fields)
        self.ledger.changed()

    def tries(self, who: Person, **fields: Any) -> None:
        """Somebody reports, if the ledger has it."""
        with suppress(InvalidEntryError):
            self.book.submit(who, report(self.book, **fields))

    def stage(self, **fields: Any) -> None:
        """A stage passes, in which this daemon says what `fields` make of it, too."""
        for who in MEMBERS:
            self.tries(who, **fields)
        self.later()

    async def adopt(self, what: bytes | UpgradeChange, title: str = "an upgrade") -> bytes:
        """A module's text, or an upgrade: in force everywhere, and here."""
        if isinstance(what, bytes):
            what = await self.offer(what)
        self.begin(what, title)
        while self.slot.rollout is not None:
            self.stage()
        await self.until(lambda: self.board.lines[SLOT].incumbent == self.slot.current)
        return what.module

    @property
    def slot(self) -> Any:
        return self.book.state.slot(SLOT)

    @property
    def rollout(self) -> Any:
        return rollout(self.book)

    @property
    def permille(self) -> int:
        return rollout(self.book).permille

    # -- what is seen --

    async def until(self, look: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Look again whenever something happens, and now and then."""
        with trio.fail_after(seconds):
            while not (found := look()):
                with trio.move_on_after(0.02):
                    await self.heard.wait()
        return found

    async def tried(self) -> None:
        """The candidate is here, and in the Line."""
        await self.until(lambda: self.board.lines[SLOT].trying)

    async def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait for an event that has been, or comes."""

        def look() -> list[dict[str, Any]]:
            return [it for it in self.named(kind) if fields.items() <= it.items()]

        return (await self.until(look))[0]

    def named(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]

    async def ask(self, name: bytes = b"", achieved: int | None = None) -> tuple[int, list[int]]:
        """One operation of one call: the version that answered, and the answer."""
        operation = self.board.operation(SLOT, name)
        made = EVICTION.generate(Draw(b"asked"), 20)
        batch = operation.batch(made.context, made.rows)
        batch.block.cast("B")[:] = made.block.cast("B")
        await operation.call(batch)
        if achieved is not None:
            operation.achieved(achieved)
        return operation.version, batch.answer("worth")

    async def versions(self, count: int = 64) -> set[int]:
        return {(await self.ask(os.urandom(8)))[0] for _ in range(count)}


EVICTION_LIMITS = change(network()).limits.__class__(1_600_000, 10_000, 200)


def reference_answer() -> list[int]:
    batch = EVICTION.generate(Draw(b"asked"), 20)
    EVICTION.reference(batch)
    return batch.answer("worth")


@asynccontextmanager
async def desk(
    folder: Path, book: Book | None = None, person: Person = ME, **config: Any
) -> AsyncIterator[Desk]:
    async with trio.open_nursery() as nursery:
        made = Desk(folder, book or network(), nursery, person)
        slots = config.pop("slots", {})
        made.config = UpgradesConfig(slots=SlotModes(**slots), **config)
        await made.start()
        yield made
        await made.stop()


def pinned(store: Store, reason: str) -> set[bytes]:
    return {pin.cid for pin in store.pins() if pin.reason == reason}


__all__ = ["PUBLISHED", "Desk", "Iterable", "desk", "pinned"]
