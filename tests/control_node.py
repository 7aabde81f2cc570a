"""A node without a net: a real Store, real models, and peers that are only written down.

`python -m tests.control_node FOLDER` serves it on a loopback TCP port, for fuzzers that speak no
Unix sockets. It holds models and can pull one; FOLDER/ready.json has the port and their CIDs.
"""

import json
import math
import os
import struct
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import trio

from protocols.cid import cid_of, cid_text, parse_cid
from protocols.codec import encode
from protocols.errors import NotHeldError
from protocols.gossip.announcement import AdapterBody, KernelBody
from protocols.manifest import FileRef, encode_manifest
from protocols.peerid import parse_peer_id, peer_id_of, peer_id_text
from synapsed import models as library
from synapsed.config.options import Config, Loaded, schema
from synapsed.control import drafts
from synapsed.control import ledgermodels as said
from synapsed.control import models as shapes
from synapsed.control.meters import MessageMeter
from synapsed.control.problems import (
    ConflictError,
    InvalidError,
    PausedError,
    UnknownError,
)
from synapsed.doctor.report import Check
from synapsed.process.events import EventBus
from synapsed.store import Store
from synapsed.store.importing import copy, survey
from tests.control_learning import MemoryLearning
from tests.control_ledger import MemoryLedger
from tests.control_upgrades import MemoryUpgrades
from tests.ledger_book import MEMBERS

QUOTA = 64 << 20
SELF = MEMBERS[0].identity
FRIEND = peer_id_text(peer_id_of(bytes([1]) * 32))
GONE = peer_id_text(peer_id_of(bytes([2]) * 32))
CHUNK_LEAVES = 4


def write_model(folder: Path, *, megabytes: int = 2) -> Path:
    """A small mixture of experts as Hugging Face lays them out; its bytes are not zeros."""
    folder.mkdir(parents=True)
    expert = b"".join(n.to_bytes(4, "little") for n in range(megabytes << 16))
    tensors = {
        f"model.layers.0.mlp.experts.{index}.gate_proj.weight": bytes([index]) + expert[1:]
        for index in range(4)
    }
    tensors["model.embed.weight"] = expert[: 1 << 16]
    header, offset = {}, 0
    for name, data in tensors.items():
        end = offset + len(data)
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))
    (folder / "config.json").write_text('{"model_type": "test"}')
    return folder


class Gate:
    """Lets as many chunks of a pull through as its test allows; all of them while open."""

    def __init__(self) -> None:
        self._left = math.inf
        self._changed = trio.Event()

    def allow(self, chunks: float) -> None:
        """So many more, from now on."""
        self._left = chunks
        self._changed.set()
        self._changed = trio.Event()

    def open(self) -> None:
        self.allow(math.inf)

    async def enter(self) -> None:
        while self._left < 1:
            await self._changed.wait()
        self._left -= 1


class MemoryNode(MemoryUpgrades, MemoryLearning, MemoryLedger):
    """NodeApi over a real store and a real ledger; `origin` is the store that pulls take from."""

    def __init__(self, folder: Path, origin: Store | None = None) -> None:
        self.bus = EventBus()
        super().__init__(self.bus.emit)
        self.meter = MessageMeter()
        self.folder = folder
        self.store = Store.open(folder / "store", QUOTA, on_event=self.bus.emit)
        self.origin = origin
        self.gate = Gate()
        self.pulled_chunks = 0
        self.cancelled_pulls = 0
        self.paused = False
        self.started = time.time()
        self.change = shapes.LimitsRequest()
        self.catalog: dict[str, shapes.AnnouncementInfo] = {}
        self.friends = [
            shapes.PeerInfo(
                peer_id=FRIEND,
                connected=True,
                live=True,
                addrs=["/ip4/10.0.0.2/tcp/4817"],
                direction="out",
                agent="synapsed \x1b[31mred",
                since=self.started,
                rtt_ms=1.25,
                score=3.5,
                throughput=1e6,
            ),
            shapes.PeerInfo(peer_id=GONE, connected=False, live=True, addrs=[]),
        ]
        self.begin_upgrades()
        self.begin_learning()

    def close(self) -> None:
        self.end_upgrades()
        self.store.close()

    # -- the daemon

    def counters(self) -> shapes.Counters:
        return shapes.Counters(
            connected_in=0,
            connected_out=1,
            live=3,
            bytes_received=1000,
            bytes_sent=2000,
            catalog={"adapter": len(self.catalog)},
            store=self._use(),
            pulls_active=0,
            pulls_done=self.pulled_chunks,
            pulls_failed=0,
            faults={"bad-leaf": 2},
            ledger=self.ledger_counters(),
            training=self.training_counters(),
            loop_lag_ms={"p50": 0.5, "p99": 2.0, "max": 8.0},
        )

    def _use(self) -> shapes.StoreUse:
        return shapes.StoreUse(used=self.store.quota.used, quota=self.store.quota.limit)

    async def status(self) -> shapes.Status:
        return shapes.Status(
            peer_id=peer_id_text(SELF),
            network="test",
            version="0.1.0",
            pid=os.getpid(),
            home=str(self.folder),
            state="paused" if self.paused else "running",
            started=self.started,
            uptime=time.time() - self.started,
            addrs=["/ip4/127.0.0.1/tcp/4817"],
            connected=1,
            target_peers=8,
            live=3,
            announcements=len(self.catalog),
            models=len(library.list_models(self.store)),
            store=self._use(),
            messages_per_second=self.meter.rate(),
            ledger=self.glance(),
            warnings=["bootstrap 10.0.0.9 refused; tried again in 20 s"],
        )

    async def limits(self) -> shapes.Limits:
        values = msgspec.to_builtins(self.change)
        return shapes.Limits(
            **{"upload": 2_500_000, "download": 0, "quota": QUOTA, "max_pulls": 2, **values},
            max_connections=64,
        )

    async def set_limits(self, change: shapes.LimitsRequest) -> shapes.Limits:
        merged = {**msgspec.to_builtins(self.change), **msgspec.to_builtins(change)}
        self.change = shapes.LimitsRequest(**merged)
        return await self.limits()

    async def pause(self) -> None:
        self.paused = True

    async def resume(self) -> None:
        self.paused = False

    async def doctor(self) -> shapes.DoctorReport:
        return shapes.DoctorReport(
            [
                Check("disk", "pass", "50.0 GiB free"),
                Check("ports", "warn", "nobody dialled us", "forward port 4817", "network"),
            ]
        )

    async def config(self) -> shapes.ConfigReport:
        origins = {key: "default" for key, _ in schema()}
        rows = Loaded(Config(), {**origins, "limits.upload": "env SYNAPSED_LIMITS__UPLOAD"}).rows()
        return shapes.ConfigReport(path=None, entries=[shapes.ConfigEntry(*row) for row in rows])

    # -- peers and announcements

    async def peers(self, which: shapes.Which) -> list[shapes.PeerInfo]:
        return [
            peer
            for peer in self.friends
            if which == "all" or (peer.connected if which == "connected" else peer.live)
        ]

    async def ping(self, peer: bytes) -> shapes.Pong:
        if peer != parse_peer_id(FRIEND):
            raise UnknownError(
                f"no address of {peer_id_text(peer)} is known", remedy="synapsectl connect ADDR"
            )
        return shapes.Pong(peer_id=FRIEND, rtt_ms=1.25)

    async def connect(self, addr: str) -> shapes.PeerInfo:
        if not addr.endswith(FRIEND):
            raise InvalidError(f"{addr!r} does not end in /p2p/PEER")
        return self.friends[0]

    async def announcements(
        self, kind: shapes.Kind | None, subject: bytes | None
    ) -> list[shapes.AnnouncementInfo]:
        return [
            entry
            for entry in self.catalog.values()
            if kind in (None, entry.kind) and subject in (None, parse_cid(entry.subject))
        ]

    async def publish(self, draft: shapes.Draft) -> shapes.AnnouncementInfo:
        if isinstance(draft, shapes.ProposalDraft):
            subject = self.store.put_block(encode(_Proposal(title=draft.title, text=draft.text)))
            return self._announce("proposal", subject, {"title": draft.title})
        self._check_inside(Path(draft.file))
        body: AdapterBody | KernelBody
        if isinstance(draft, shapes.AdapterDraft):
            ref = self._take(Path(draft.file), "safetensors")
            adapter = drafts.adapter_manifest(draft, ref, SELF)
            subject = self.store.put_block(encode_manifest(adapter))
            body = drafts.adapter_body(subject, adapter)
            fields = {"name": body.name, "rank": body.rank, "size": body.size}
            return self._announce("adapter", subject, fields)
        kernel = drafts.kernel_manifest(draft, self._take(Path(draft.file), "flat"), SELF)
        subject = self.store.put_block(encode_manifest(kernel))
        body = drafts.kernel_body(subject, kernel, draft.benchmarks[0])
        fields = {"operation": body.operation, "value": body.benchmark.value}
        return self._announce("kernel", subject, fields)

    def _take(self, file: Path, layout: str) -> FileRef:
        surveyed = survey(file, file.name, layout, lambda _count: None)
        copy(self.store, surveyed, lambda _count: None)
        return surveyed.ref

    def _announce(self, kind: shapes.Kind, subject: bytes, body: dict) -> shapes.AnnouncementInfo:
        found = shapes.AnnouncementInfo(
            id=cid_text(cid_of(subject)),
            kind=kind,
            issuer=peer_id_text(SELF),
            subject=cid_text(subject),
            seq=len(self.catalog),
            issued=time.time(),
            expires=time.time() + 3600,
            own=True,
            body=body,
        )
        self.catalog[found.id] = found
        self.bus.emit("announcement.published", id=found.id)
        return found

    def announce_shard(self, subject: str) -> str:
        """As if FRIEND held a model; the model's CID again."""
        found = shapes.AnnouncementInfo(
            id=cid_text(cid_of(subject.encode())),
            kind="shard",
            issuer=FRIEND,
            subject=subject,
            seq=len(self.catalog),
            issued=time.time(),
            expires=time.time() + 3600,
            own=False,
            body={"tiles": [[0, 3]]},
        )
        self.catalog[found.id] = found
        return subject

    async def withdraw(self, announcement: bytes) -> shapes.AnnouncementInfo:
        found = self.catalog.pop(cid_text(announcement), None)
        if found is None:
            raise UnknownError(f"no announcement {cid_text(announcement)} of ours is in force")
        return found

    # -- models

    async def models(self) -> list[shapes.ModelInfo]:
        return [_info(state) for state in library.list_models(self.store)]

    async def model(self, cid: bytes) -> shapes.ModelDetail:
        state = library.model_state(self.store, cid)
        tiles = sum(count for _, count in library.held_tiles(self.store, cid))
        parts = library.experts(self.store, cid)
        return shapes.ModelDetail(
            model=_info(state),
            file_list=[
                shapes.FileInfo(
                    path=file.ref.path,
                    size=file.ref.size,
                    root=file.ref.root.hex(),
                    layout=file.ref.layout,
                    held=file.held,
                    complete=file.complete,
                )
                for file in state.files
            ],
            expert_list=[
                shapes.ExpertInfo(
                    cid=cid_text(cid_of(encode_manifest(part))),
                    name=name,
                    tensors=len(part.tensors),
                    size=0,
                )
                for name, part in parts.items()
            ],
            holders=[shapes.HolderInfo(peer_id_text(SELF), tiles=tiles, proven=True, own=True)],
            tiles=tiles,
            under_replicated=tiles,
        )

    async def import_model(self, path: Path, name: str | None, report) -> shapes.ImportResult:
        self._check_inside(path)

        def say(done: int, total: int) -> None:
            report(shapes.Progress(stage="import", done=done, total=total))

        run = partial(library.import_model, self.store, path, name, say)
        found = await trio.to_thread.run_sync(run)
        self.bus.emit("model.imported", cid=cid_text(found.cid))
        return shapes.ImportResult(
            cid=cid_text(found.cid),
            name=found.manifest.name,
            size=sum(ref.size for ref in found.manifest.files),
            files=len(found.manifest.files),
            experts=len(found.experts),
        )

    def _check_inside(self, path: Path) -> None:
        """A fuzzer names any path; this node reads and writes only below its own folder's."""
        if self.folder.parent not in path.parents:
            raise ConflictError(f"{path} is outside of the test's folder")

    async def pull(self, cid: bytes, experts, tensors, report) -> shapes.PullResult:
        if self.paused:
            raise PausedError("the daemon is paused", remedy="synapsectl resume")
        try:
            return await self._pull(cid, experts, tensors, report)
        except trio.Cancelled:
            self.cancelled_pulls += 1
            raise

    async def _pull(self, cid: bytes, experts, tensors, report) -> shapes.PullResult:
        origin = self.origin
        if origin is None or not origin.has_block(cid):
            raise NotHeldError(f"nobody announces {cid_text(cid)}", remedy="is its CID right?")
        manifest = library.model_manifest(origin, cid)
        self.store.put_block(origin.get_block(cid))
        wanted = library.sections_of(origin, cid, experts, tensors)
        began, done, fetched = time.monotonic(), 0, 0
        total = sum(ref.size for ref in manifest.files)
        for index, ref in enumerate(manifest.files):
            source = origin.file(ref.root)
            fetched += 0 if self.store.file(ref.root) else len(source.header)
            held = self.store.create(ref, source.header or None, source.nodes)
            for section in source.layout.sections:
                is_header = section.index == 0 and ref.layout == "safetensors"
                chosen = section.index in wanted.get(index, ()) or not (experts or tensors)
                if not chosen and not is_header:
                    continue
                held.put_leaf_hashes(section.index, source.section_hashes(section.index))
                for start, end in held.missing(section.first_leaf, section.end_leaf):
                    for lo in range(start, end, CHUNK_LEAVES):
                        await self.gate.enter()
                        await trio.lowlevel.checkpoint()
                        data = source.read(lo, min(lo + CHUNK_LEAVES, end))
                        held.write(lo, data)
                        fetched += len(data)
                        self.pulled_chunks += 1
                        report(shapes.Progress("pull", fetched, total, lo, end, peers=1))
                done += section.length
            held.commit()
        self.store.pin(cid, "pulled")
        return shapes.PullResult(
            cid=cid_text(cid),
            name=manifest.name,
            size=done,
            fetched=fetched,
            seconds=time.monotonic() - began,
            sources=[shapes.SourceReport(FRIEND, bytes=fetched, subtiles=self.pulled_chunks)],
        )

    async def export(self, cid: bytes, path: Path, report) -> shapes.ExportResult:
        self._check_inside(path)

        def say(done: int, total: int) -> None:
            report(shapes.Progress(stage="export", done=done, total=total))

        run = partial(library.export_model, self.store, cid, path, say)
        manifest = await trio.to_thread.run_sync(run)
        return shapes.ExportResult(
            cid=cid_text(cid),
            path=str(path),
            files=len(manifest.files),
            size=sum(ref.size for ref in manifest.files),
        )

    async def pin(self, cid: bytes) -> shapes.ModelInfo:
        library.model_manifest(self.store, cid)
        self.store.pin(cid, "user")
        return _info(library.model_state(self.store, cid))

    async def unpin(self, cid: bytes) -> shapes.ModelInfo:
        library.model_manifest(self.store, cid)
        self.store.unpin(cid)
        return _info(library.model_state(self.store, cid))

    async def remove(self, cid: bytes) -> shapes.Removed:
        return shapes.Removed(cid_text(cid), library.remove_model(self.store, cid))

    async def gc(self) -> shapes.GcResult:
        report = self.store.gc()
        return shapes.GcResult(blocks=report.blocks, files=report.files, freed=report.freed)

    async def scrub(self, report) -> shapes.ScrubResult:
        total, done = self.store.quota.used, 0

        def say(count: int) -> None:
            nonlocal done
            done += count
            report(shapes.Progress(stage="scrub", done=done, total=total))

        began = time.monotonic()
        found = await trio.to_thread.run_sync(self.store.scrub, say)
        return shapes.ScrubResult(
            subtiles=found.checked,
            bad=len(found.bad_leaves) + len(found.bad_blocks),
            bytes=done,
            seconds=time.monotonic() - began,
        )


class _Proposal(msgspec.Struct):
    title: str
    text: str


def _info(state: library.ModelState) -> shapes.ModelInfo:
    return shapes.ModelInfo(
        cid=cid_text(state.cid),
        name=state.manifest.name,
        size=state.size,
        held=state.held,
        complete=state.complete,
        pinned=bool(state.pinned),
        files=len(state.files),
        experts=state.experts,
        reasons=state.pinned,
    )


async def _propose(node: MemoryNode) -> list[str]:
    """Some proposals to vote on; their CIDs."""
    requests = [said.TextProposal(title=f"question {number}") for number in range(4)]
    done = [await node.propose(each, True, lambda _progress: None) for each in requests]
    return [each.subject for each in done]


async def _serve_tcp(folder: Path) -> None:
    """The same application on a loopback port."""
    from synapsed.control.server import start_app

    source = write_model(folder / "mixture")
    origin = Store.open(folder / "origin", QUOTA)
    elsewhere = library.import_model(origin, source, "elsewhere").cid
    home = folder / "home"
    home.mkdir(mode=0o700)
    node = MemoryNode(home, origin)
    held = [library.import_model(node.store, source, f"held {n}").cid for n in range(8)]
    async with trio.open_nursery() as nursery:
        handle = start_app(node, nursery)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        models = [cid_text(cid) for cid in (elsewhere, *held)]
        ready = {"port": port, "cids": [*models, *await _propose(node)]}
        (folder / "ready.new").write_text(json.dumps(ready))
        (folder / "ready.new").rename(folder / "ready.json")
        await trio.serve_listeners(handle, listeners, handler_nursery=nursery)


if __name__ == "__main__":
    trio.run(_serve_tcp, Path(sys.argv[1]))
