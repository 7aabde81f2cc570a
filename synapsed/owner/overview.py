"""What the owner asks about the daemon itself: its state, peers, catalog, limits and health."""

import importlib.metadata
import os
import time
from collections import Counter

import msgspec
import trio

from protocols.cid import cid_text
from protocols.gossip.shelf import Entry
from protocols.peerid import peer_id_text
from synapsed import doctor
from synapsed.config.inforce import USED
from synapsed.config.options import plain, value_at
from synapsed.config.quantities import Rate, Size
from synapsed.control import models as shapes
from synapsed.control.ledgermodels import LedgerCounters, LedgerGlance
from synapsed.control.meters import MessageMeter
from synapsed.control.problems import InvalidError, UnknownError
from synapsed.doctor.facts import gather
from synapsed.doctor.report import LedgerHealth, Live
from synapsed.ledger import silence
from synapsed.ledger.news import quantiles
from synapsed.ledger.service import LedgerService
from synapsed.net import Peer
from synapsed.parts import Parts
from synapsed.process.events import EventBus
from synapsed.store.quota import WARN_PERCENT
from synapsed.training.said import TrainingCounters

AGENT = f"synapsed/{importlib.metadata.version('synapsed')}"


class Overview:
    """The other half of NodeApi."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @property
    def bus(self) -> EventBus:
        """Where events come from."""
        return self._parts.bus

    @property
    def meter(self) -> MessageMeter:
        """Counts every message that the daemon takes or sends."""
        return self._parts.meter

    # -- the daemon ---------------------------------------------------------------------------

    async def status(self) -> shapes.Status:
        """Everything but `process` and `jobs`, which the server fills in."""
        parts = self._parts
        now = time.time()
        return shapes.Status(
            peer_id=parts.identity.text,
            network=parts.loaded.config.network,
            version=AGENT.partition("/")[2],
            pid=os.getpid(),
            home=str(parts.paths.data),
            state="paused" if parts.puller.paused else "running",
            started=parts.started,
            uptime=now - parts.started,
            addrs=parts.net.addrs(),
            connected=len(parts.net.peers()),
            target_peers=parts.loaded.config.net.target_peers,
            live=len(parts.liveness.alive()),
            announcements=sum(parts.catalog.catalog.counts().values()),
            models=len(parts.catalog.catalog.models()),
            store=self._store_use(),
            messages_per_second=parts.meter.rate(),
            ledger=None if parts.ledger is None else _glance(parts.ledger),
            warnings=self._warnings(),
        )

    def _store_use(self) -> shapes.StoreUse:
        quota = self._parts.store.quota
        return shapes.StoreUse(used=quota.used, quota=quota.limit)

    def _warnings(self) -> list[str]:
        lines = self._parts.tally.warnings()
        if self._parts.ledger is not None:
            lines += self._parts.ledger.warnings()
            lines += silence.warnings(self._parts.ledger, self._parts.liveness.is_alive)
        if self._parts.upgrades is not None:
            lines += self._parts.upgrades.warnings()
        use = self._store_use()
        if use.used * 100 >= use.quota * WARN_PERCENT:
            full = "over its quota" if use.used > use.quota else "nearly full"
            lines.append(f"the store is {full}: `synapsectl limits --quota`, or remove models")
        return lines

    def counters(self) -> shapes.Counters:
        """Totals and gauges for Prometheus."""
        parts = self._parts
        peers = parts.net.peers()
        counts, totals = parts.bus.counts, parts.net.counters
        return shapes.Counters(
            connected_in=sum(peer.direction == "inbound" for peer in peers),
            connected_out=sum(peer.direction == "outbound" for peer in peers),
            live=len(parts.liveness.alive()),
            bytes_received=totals["bytes_received"],
            bytes_sent=totals["bytes_sent"],
            catalog=parts.catalog.catalog.counts(),
            store=self._store_use(),
            pulls_active=parts.puller.active,
            pulls_done=counts.get("pull.done", 0),
            pulls_failed=counts.get("pull.failed", 0),
            faults=dict(parts.tally.faults),
            ledger=None if parts.ledger is None else _ledger_counters(parts.ledger),
            training=_training_counters(parts),
            loop_lag_ms=parts.lag.read(),
        )

    async def doctor(self) -> shapes.DoctorReport:
        """The production checklist, each with its remedy."""
        parts = self._parts
        live = Live(
            uptime_s=time.time() - parts.started,
            listening=parts.net.addrs(),
            peers=len(parts.net.peers()),
            inbound_ever=parts.tally.inbound,
            bootstrap=dict(parts.tally.bootstrap),
            mdns_error=parts.tally.mdns_error,
            store_used=parts.store.quota.used,
            store_quota=parts.store.quota.limit,
            scrub_age_s=time.time() - parts.tally.scrub[0] if parts.tally.scrub else None,
            scrub_bad=parts.tally.scrub[1] if parts.tally.scrub else 0,
            loop_stall_ms=parts.lag.read()["max"],
            failed_tasks=dict(parts.tally.failed_tasks),
            ledger=None if parts.ledger is None else self._health(parts.ledger),
        )
        facts = await trio.to_thread.run_sync(gather, parts.paths, os.environ, live)
        return shapes.DoctorReport(doctor.examine(facts))

    def _health(self, ledger: LedgerService) -> LedgerHealth:
        lost = ledger.role == "lost-state"
        council = ledger.ledger.council
        return LedgerHealth(
            index=ledger.ledger.head.index,
            behind=ledger.machine.follower.behind,
            trouble=ledger.trouble(),
            seat_lost=lost,
            silence=silence.warnings(ledger, self._parts.liveness.is_alive),
            seats=len(council.seats),
            quorum=council.quorum,
        )

    async def config(self) -> shapes.ConfigReport:
        """Every setting in force and where it came from."""
        loaded = self._parts.loaded
        now = await self.limits()
        changeable = {
            "limits.upload": Rate(now.upload),
            "limits.download": Rate(now.download),
            "limits.max_pulls": now.max_pulls,
            "store.quota": Size(now.quota),
        }
        entries = []
        for key, value, origin in loaded.rows():
            in_force = changeable.get(key)
            if key in USED and in_force is not None:
                why = self._parts.in_force.origin(key)
                entries.append(shapes.ConfigEntry(key, plain(in_force), why))
            elif in_force is not None and in_force != value_at(loaded.config, key):
                entries.append(shapes.ConfigEntry(key, plain(in_force), "limits"))
            else:
                entries.append(shapes.ConfigEntry(key, value, origin))
        return shapes.ConfigReport(path=str(loaded.path) if loaded.path else None, entries=entries)

    # -- limits -------------------------------------------------------------------------------

    async def limits(self) -> shapes.Limits:
        """The limits in force."""
        parts = self._parts
        return shapes.Limits(
            upload=parts.uploads.rate,
            download=parts.puller.downloads.rate,
            quota=parts.store.quota.limit,
            max_pulls=int(parts.pulls.total_tokens),
            max_connections=parts.loaded.config.net.max_connections,
            origins={name: parts.in_force.origin(name) for name in USED},
        )

    async def set_limits(self, change: shapes.LimitsRequest) -> shapes.Limits:
        """Change them until the restart."""
        parts = self._parts
        if change.upload is not msgspec.UNSET:
            parts.in_force.set_own("limits.upload", change.upload)
        if change.download is not msgspec.UNSET:
            parts.in_force.set_own("limits.download", change.download)
        if change.quota is not msgspec.UNSET:
            parts.store.quota.limit = change.quota
            await parts.evictor.fit()
        if change.max_pulls is not msgspec.UNSET:
            parts.pulls.total_tokens = change.max_pulls
        now = await self.limits()
        parts.bus.emit("limits.changed", **msgspec.to_builtins(now))
        return now

    async def pause(self) -> None:
        """Stop moving tensor bytes, both ways. Heartbeats and gossip go on."""
        self._parts.uploads.pause()
        self._parts.puller.pause()
        self._parts.replicator.paused = True
        await self._parts.compute.pause()
        if self._parts.training is not None:
            self._parts.training.able(False)
        self._parts.bus.emit("daemon.paused")

    async def resume(self) -> None:
        """Move again."""
        self._parts.uploads.resume()
        self._parts.puller.resume()
        self._parts.replicator.paused = False
        self._parts.compute.resume()
        if self._parts.training is not None:
            self._parts.training.able(True)
        self._parts.bus.emit("daemon.resumed")

    # -- peers --------------------------------------------------------------------------------

    async def peers(self, which: shapes.Which) -> list[shapes.PeerInfo]:
        """Peers connected, alive by heartbeat, or all with the banned; this daemon is none."""
        banned = self._parts.net.book.bans()
        connected = {peer.id: peer for peer in self._parts.net.peers()}
        live = set(self._parts.liveness.alive()) - {self._parts.identity.peer_id}
        every = connected.keys() | live | banned.keys()
        chosen = {"connected": connected.keys(), "live": live, "all": every}
        found = []
        for peer_id in sorted(chosen[which]):
            info = self._peer(peer_id, connected.get(peer_id))
            info.banned_until = banned.get(peer_id)
            found.append(info)
        return found

    def _peer(self, peer_id: bytes, peer: Peer | None) -> shapes.PeerInfo:
        record = self._parts.net.book.record(peer_id)
        beat = self._parts.liveness.liveness.peer(peer_id)
        info = shapes.PeerInfo(
            peer_id=peer_id_text(peer_id),
            connected=peer is not None,
            live=beat is not None,
            addrs=list(beat.heartbeat.addrs if beat is not None else record.addrs),
            agent=beat.heartbeat.agent if beat is not None else "",
            rtt_ms=record.rtt * 1e3 if record.rtt is not None else None,
            score=self._parts.net.book.worth(peer_id),
            throughput=record.throughput,
            faults=sum(record.fault_counts.values()),
            expires=beat.until if beat is not None else None,
        )
        if peer is not None:
            info.direction = "in" if peer.direction == "inbound" else "out"
            info.local = peer.local
            info.since = peer.since
            info.addrs = info.addrs or [peer.addr]
        return info

    async def ping(self, peer: bytes) -> shapes.Pong:
        """One round trip to a peer, connecting first if need be."""
        parts = self._parts
        if peer == parts.identity.peer_id:
            raise InvalidError("that is this daemon's own id", remedy="name another peer")
        if parts.net.peer(peer) is None and not parts.net.book.record(peer).addrs:
            raise UnknownError(
                f"no address of {peer_id_text(peer)} is known",
                remedy="`synapsectl peers` lists who is; or give an address to `connect`",
            )
        await parts.reach.connect(peer)
        return shapes.Pong(peer_id=peer_id_text(peer), rtt_ms=await parts.net.ping(peer) * 1e3)

    async def connect(self, addr: str) -> shapes.PeerInfo:
        """Dial a multiaddr with /p2p/."""
        peer_id = await self._parts.net.connect(addr)
        return self._peer(peer_id, self._parts.net.peer(peer_id))

    # -- the catalog --------------------------------------------------------------------------

    async def announcements(
        self, kind: shapes.Kind | None, subject: bytes | None
    ) -> list[shapes.AnnouncementInfo]:
        """The live catalog, newest first; of adapters alone, the most suitable first."""
        parts = self._parts
        entries = [
            entry
            for entry in parts.catalog.catalog.entries(kind)
            if subject is None or entry.subject == subject
        ]
        entries.sort(key=lambda entry: (-entry.announcement.issued, entry.id))
        me = parts.identity.peer_id
        if kind != "adapter":
            return [announcement_info(entry, me) for entry in entries]
        scores = {one.cid: one.score for one in await parts.adapters.ranked(shown=True)}
        # What came while they were ranked stands last, without a score.
        entries.sort(key=lambda entry: (-scores.get(entry.subject, -1), entry.subject))
        return [announcement_info(entry, me, scores.get(entry.subject)) for entry in entries]


def _glance(ledger: LedgerService) -> LedgerGlance:
    """The ledger in one line."""
    state, machine = ledger.ledger, ledger.machine
    leader = machine.leader
    return LedgerGlance(
        index=state.head.index,
        hash=state.head.hash.hex(),
        epoch=state.epoch,
        time=state.time / 1000,
        seats=len(state.council.seats),
        role=ledger.role,
        leader=None if leader is None else peer_id_text(leader),
        open_proposals=len(state.open),
        behind=machine.follower.behind,
    )


def _ledger_counters(ledger: LedgerService) -> LedgerCounters:
    """What Prometheus is told of it."""
    state, news = ledger.ledger, ledger.news
    stats = state.stats
    return LedgerCounters(
        index=state.head.index,
        epoch=state.epoch,
        time=state.time / 1000,
        proposals={
            "open": len(state.open),
            "accepted": stats.accepted,
            "rejected": stats.rejected,
        },
        decision_s=stats.decision_ms / 1000,
        seats=len(state.council.seats),
        seats_changed=stats.seats_changed,
        epochs=stats.epochs,
        guilt=stats.guilt,
        entries=dict(news.entries),
        term=ledger.term,
        terms_lost=news.terms_lost,
        consensus_ms=quantiles(news.milliseconds),
        waiting=len(ledger.machine.pool),
    )


def _training_counters(parts: Parts) -> TrainingCounters:
    """What Prometheus is told of training."""
    seen, service = parts.learned, parts.training
    lineages = [] if service is None else list(service.lineages.values())
    roles = {} if service is None else service.traffic.roles
    hosts = [host for one in lineages for host in one.hosts.values()]
    return TrainingCounters(
        trainings=len(lineages),
        joined=sum(one.course is not None for one in lineages),
        groups=dict(Counter("primary" if it.rounds.leading else "replica" for it in hosts)),
        round={cid_text(one.post.lineage): one.round for one in lineages},
        loss=dict(seen.loss),
        rounds=dict(seen.rounds),
        deltas=dict(seen.deltas),
        refused=dict(seen.refused),
        ours=dict(seen.ours),
        done=dict(seen.done),
        audits=dict(seen.audits),
        caught=seen.caught,
        checkpoints=dict(seen.checkpoints),
        steps=seen.steps,
        torch_s=seen.torch_s,
        torch_share=seen.torch_share,
        bytes_in={role: size for (way, role), size in roles.items() if way == "in"},
        bytes_out={role: size for (way, role), size in roles.items() if way == "out"},
        workers=dict(seen.workers),
        worker_running=parts.compute.status().pid != 0,
    )


def announcement_info(entry: Entry, me: bytes, score: int | None = None) -> shapes.AnnouncementInfo:
    """An announcement as people see it."""
    said = entry.announcement
    return shapes.AnnouncementInfo(
        id=entry.cid,
        kind=entry.kind,  # type: ignore[arg-type]  # the catalog holds no other kinds
        issuer=peer_id_text(entry.issuer),
        subject=cid_text(entry.subject),
        seq=said.seq,
        issued=said.issued / 1000,
        expires=said.expires / 1000,
        own=entry.issuer == me,
        body=_shown(msgspec.to_builtins(said.body, builtin_types=(bytes,))),
        score=score,
    )


def _shown(body: dict[str, object]) -> dict[str, object]:
    """A body with its content ids as text."""
    return {
        name: cid_text(value) if isinstance(value, bytes) else value for name, value in body.items()
    }
