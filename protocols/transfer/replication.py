"""Keeping R copies of every tile: who repairs what, when, with nobody asking.

    ModelKnown      a model's manifest is here: its tiles and bytes
    LearnFailed     nobody gave us one that we asked for
    HoldersChanged  who announces which tiles of a model     (from the catalog)
    AliveChanged    who is alive, and how much each may hold (from the heartbeats)
    ProbeResult     what a probe showed                      -> Blame
    RepairEnded     a repair of ours is over
    Tick            time passes        -> Learn, Forget, StartProbe, StartRepair, Emit

Rules of this file:
1. A copy counts while its holder is alive, announces it, and answers probes (audit.py). Our
   own copies count as they are: scrubbing watches those.
2. Tiles are repaired in groups of GROUP_TILES, which share one ranking. Whose turn it is says
   turns.py: as many as copies are missing at once, others only where those do not get on.
3. In which order one daemon takes its groups is drawn by its own id: not everybody fetches the
   same tiles from the same holder first.
4. Too many copies are left alone: they cost only what their holders gave.
5. Which models are watched at all, and how many strangers can make us watch: watch.py. A tick
   does no more than RANKED_PER_TICK allows; whose turn does not come is first in the next one.
"""

from collections.abc import Callable

import msgspec

from protocols.cid import cid_text
from protocols.effects import Blame, Effect, Emit
from protocols.gossip.peerscore import Fault
from protocols.gossip.shelf import Holding
from protocols.ratelimit import TokenBucket
from protocols.rendezvous import cost
from protocols.transfer.audit import Audit
from protocols.transfer.copies import GROUP_TILES, Attempts, Model, count_copies, runs_of
from protocols.transfer.turns import Turns
from protocols.transfer.watch import Watch

MAX_REPAIRS = 2
"""Groups that we repair at a time: the pull of one is several peers wide already."""
PROBE_RATE = 1.0
"""Probes a second, of all models: 256 KiB. With more than PROBE_RATE * probe_interval holders to
audit, each is probed less often, and is given as much longer to prove itself."""
PROBE_BURST = 4.0
RANKED_PER_TICK = 8192
"""Daemons ranked in one tick, for all models and groups together: 35 ms."""
TILES_AS_RANKED = 128
"""Tiles that are counted in the time in which one daemon is ranked."""
SETTLE = 10.0
"""Seconds after a repair in which its announcement gets around."""
MAX_BACKOFF = 600.0
"""Seconds until a group whose repair keeps failing is tried again."""


class Settings(msgspec.Struct, frozen=True):
    """How eagerly. Times in seconds."""

    copies: int = 3
    hold: bool = True
    """Whether we take tiles at all."""
    step: float = 30.0
    """For which those further down the ranking wait: a group's repair at 10 MB/s."""
    delay: float = 5.0
    """Before anybody begins: announcements of one change arrive within two."""
    probe_interval: float = 60.0
    grace: float = 30.0
    """For which a new holder counts unproven: its first probe is due at once."""

    def validate(self) -> None:
        """Raise ValueError where a number cannot be meant."""
        if self.copies < 1 or min(self.step, self.probe_interval, self.grace) <= 0:
            raise ValueError("copies, step, probe_interval and grace are more than 0")


class ModelKnown(msgspec.Struct, frozen=True):
    """A model has so many tiles, and bytes."""

    model: bytes
    tiles: int
    size: int


class LearnFailed(msgspec.Struct, frozen=True):
    """A Learn is over, and the model is not known."""

    model: bytes


class HoldersChanged(msgspec.Struct, frozen=True):
    """Who announces what of a model now; nobody: the model is forgotten."""

    model: bytes
    holdings: tuple[Holding, ...]


class AliveChanged(msgspec.Struct, frozen=True):
    """Who is alive (ourselves too), and the bytes that each may still hold for others."""

    room: dict[bytes, int]


class ProbeResult(msgspec.Struct, frozen=True):
    """`proven`: it held what it announces (True), did not (False), or gave no answer (None)."""

    model: bytes
    peer: bytes
    proven: bool | None


class RepairEnded(msgspec.Struct, frozen=True):
    """A StartRepair is over; `done`: whether all of it is here."""

    model: bytes
    group: int
    done: bool


class Tick(msgspec.Struct, frozen=True):
    """Time passes: one a second or two."""


Event = ModelKnown | LearnFailed | HoldersChanged | AliveChanged | ProbeResult | RepairEnded | Tick


class Learn(msgspec.Struct, frozen=True):
    """Effect: fetch this model's manifest from one of these, and say ModelKnown or LearnFailed."""

    model: bytes
    holders: tuple[bytes, ...]


class Forget(msgspec.Struct, frozen=True):
    """Effect: what was learned of this model is needed no more."""

    model: bytes


class StartProbe(msgspec.Struct, frozen=True):
    """Effect: ask `peer` for a sub-tile of `tile` with its proof, the `pick`-th modulo how many
    it has, and say ProbeResult."""

    peer: bytes
    model: bytes
    tile: int
    pick: int


class StartRepair(msgspec.Struct, frozen=True):
    """Effect: fetch these tiles, runs (start, count), of one group, and say RepairEnded."""

    model: bytes
    group: int
    tiles: tuple[tuple[int, int], ...]


Effects = list[Effect | Learn | Forget | StartProbe | StartRepair]


class Standing(msgspec.Struct, frozen=True):
    """How a model stands: its tiles (0: not known yet), the copies of its rarest and commonest
    tile that count, tiles with too few, and the groups that we are repairing."""

    tiles: int
    copies: int
    most: int
    short: int
    repairing: tuple[int, ...]


class Replication:
    """The machine. `draw(n)` gives a random integer in [0, n)."""

    def __init__(self, me: bytes, settings: Settings, draw: Callable[[int], int]) -> None:
        settings.validate()
        self._me = me
        self._settings = settings
        self._draw = draw
        self._watch = Watch(
            me, lambda: Audit(settings.probe_interval, settings.grace), strangers=settings.hold
        )
        self._turns = Turns(me, copies=settings.copies, delay=settings.delay, step=settings.step)
        self._room: dict[bytes, int] = {}
        self._probes = TokenBucket(PROBE_RATE, PROBE_BURST)
        self._ranked = 0

    def handle(self, event: Event, now: float) -> Effects:
        """What follows from `event` at `now` (seconds of a clock that never runs backwards)."""
        match event:
            case ModelKnown(cid, tiles, size):
                return [] if self._watch.know(cid, tiles, size) else [Forget(cid)]
            case LearnFailed(cid):
                self._watch.not_learned(cid)
            case HoldersChanged(cid, holdings):
                return self._forget(self._watch.hear(cid, holdings, now))
            case AliveChanged(room):
                self._set_alive(room)
            case ProbeResult(cid, peer, proven):
                return self._probed(cid, peer, proven, now)
            case RepairEnded(cid, group, done):
                self._repaired(cid, group, done, now)
            case Tick():
                return self._tick(now)
        return []

    # -- what we are told ----------------------------------------------------------------------

    @staticmethod
    def _forget(*models: Model | None) -> Effects:
        return [Forget(model.cid) for model in models if model is not None]

    def _set_alive(self, room: dict[bytes, int]) -> None:
        changed = room.keys() ^ self._room.keys()
        self._room = self._turns.room = room
        if not changed:
            return
        self._watch.forget_asked(room)
        for model in self._watch.models.values():
            model.left &= room.keys()  # who comes back may want it again
            if not changed.isdisjoint(model.holdings):
                model.recount_at = 0.0

    def _probed(self, cid: bytes, peer: bytes, proven: bool | None, now: float) -> Effects:
        model = self._watch.models.get(cid)
        if model is None:
            return []
        lied = model.audit.answered(peer, proven, now)
        model.recount_at = 0.0
        if not lied:
            return []
        return [Blame(peer, Fault.LIED, f"does not hold what it announces of {cid_text(cid)}")]

    def _repaired(self, cid: bytes, group: int, done: bool, now: float) -> None:
        model = self._watch.models.get(cid)
        if model is None:
            return
        model.repairing.discard(group)
        attempts = model.attempts.setdefault(group, Attempts(0.0))
        attempts.failures = 0 if done else attempts.failures + 1
        backoff = min(self._settings.step * 2 ** min(attempts.failures, 16), MAX_BACKOFF)
        attempts.again_at = now + (SETTLE if done else backoff)

    # -- time ----------------------------------------------------------------------------------

    def _tick(self, now: float) -> Effects:
        effects = self._forget(*self._watch.trim())
        for cid, holders in self._watch.to_learn(self._room, now):
            effects.append(Learn(cid, tuple(holders)))
        self._pace()
        self._ranked = 0
        for model in self._watch.in_turn():
            if now >= model.recount_at:
                effects += self._recount(model, now)
            effects += self._repair(model, now)
            if self._ranked >= RANKED_PER_TICK:
                break
        return effects + self._probe(now)

    def _pace(self) -> None:
        models = self._watch.models.values()
        one_round = sum(len(model.audit) for model in models) / PROBE_RATE
        interval = max(self._settings.probe_interval, one_round)
        grace = max(self._settings.grace, one_round)
        for model in models:
            model.audit.pace(interval, grace)

    def _recount(self, model: Model, now: float) -> Effects:
        """Count copies again, and note since when which groups have had too few."""
        live = [
            holding
            for peer, holding in model.holdings.items()
            if peer != self._me and peer in self._room
        ]
        self._ranked += len(live) + model.tiles // TILES_AS_RANKED
        model.audit.choose(
            self._me + model.cid,
            live,
            tiles=model.tiles,
            width=GROUP_TILES,
            need=self._settings.copies,
            now=now,
        )
        trusted = model.audit.trusted(now)
        counted = [holding for holding in live if holding.peer in trusted]
        if (mine := model.holdings.get(self._me)) is not None:
            counted.append(mine)
        model.counts = count_copies(counted, model.tiles)
        model.recount_at = model.audit.next_change(now)
        short: dict[int, float] = {}
        for group in range(-(-model.tiles // GROUP_TILES)):
            tiles = model.group_tiles(group)
            if min(model.counts[tiles.start : tiles.stop]) < self._settings.copies:
                short[group] = model.short_since.get(group, now)
        model.short_since = short
        model.attempts = {group: it for group, it in model.attempts.items() if group in short}
        return self._tell(model)

    def _tell(self, model: Model) -> Effects:
        is_short = bool(model.short_since)
        if is_short == model.was_short:
            return []
        model.was_short = is_short
        model.weights.clear()
        standing = self.standing(model.cid)
        return [
            Emit(
                "replication.short" if is_short else "replication.restored",
                {
                    "model": cid_text(model.cid),
                    "copies": standing.copies,
                    "wanted": self._settings.copies,
                    "tiles_short": standing.short,
                },
            )
        ]

    # -- probes --------------------------------------------------------------------------------

    def _probe(self, now: float) -> Effects:
        effects: Effects = []
        for model in self._watch.models.values():
            for peer in model.audit.due(now) if model.tiles else ():
                tile = self._random_tile(model.holdings[peer])
                if peer not in self._room or tile is None:
                    continue
                if self._probes.take(1, now) > 0:
                    return effects
                model.audit.asked(peer, now)
                effects.append(StartProbe(peer, model.cid, tile, self._draw(1 << 32)))
        return effects

    def _random_tile(self, holding: Holding) -> int | None:
        total = sum(count for _, count in holding.tiles)
        if total == 0:
            return None
        nth = self._draw(total)
        for start, count in holding.tiles:
            if nth < count:
                return start + nth
            nth -= count
        return None

    # -- repair --------------------------------------------------------------------------------

    def _repair(self, model: Model, now: float) -> Effects:
        effects: Effects = []
        if not (self._settings.hold and model.short_since and self._room.get(self._me)):
            return effects
        for group in self._my_order(model, now):
            running = sum(len(other.repairing) for other in self._watch.models.values())
            if running >= MAX_REPAIRS or self._ranked >= RANKED_PER_TICK:
                break
            lacking = self._turns.lacking(model, group)
            self._ranked += len(self._room) if lacking else 0
            if lacking and self._turns.is_ours(model, group, lacking, now):
                model.repairing.add(group)
                effects.append(StartRepair(model.cid, group, runs_of(lacking)))
                effects.append(_told_repair(model.cid, group, len(lacking)))
        return effects

    def _my_order(self, model: Model, now: float) -> list[int]:
        ready = [
            group
            for group, since in model.short_since.items()
            if group not in model.repairing
            and now >= since + self._settings.delay
            and (group not in model.attempts or now >= model.attempts[group].again_at)
        ]
        most = max(1, RANKED_PER_TICK // max(1, len(self._room)))
        if len(ready) > most:
            # Another part of them each tick, so that none waits behind those of others.
            first = self._draw(len(ready))
            ready = (ready + ready)[first : first + most]
        if len(ready) > 1:
            self._ranked += len(ready)
            key = self._me + model.cid
            ready.sort(key=lambda group: cost(key, group.to_bytes(8, "big"), 1))
        return ready

    # -- queries -------------------------------------------------------------------------------

    def elsewhere(self, cid: bytes) -> list[int]:
        """The copies of each tile of a model that count, ours left out; [] where not known."""
        model = self._watch.models.get(cid)
        if model is None:
            return []
        mine = model.holdings.get(self._me)
        ours = count_copies([] if mine is None else [mine], len(model.counts))
        # What we announce may have changed since the copies were counted.
        return [max(0, count - own) for count, own in zip(model.counts, ours, strict=True)]

    def standing(self, cid: bytes) -> Standing:
        """How a model stands by what we count; all zeros for one that we do not know."""
        model = self._watch.models.get(cid)
        if model is None or not model.counts:
            return Standing(tiles=0, copies=0, most=0, short=0, repairing=())
        return Standing(
            tiles=model.tiles,
            copies=min(model.counts),
            most=max(model.counts),
            short=sum(count < self._settings.copies for count in model.counts),
            repairing=tuple(sorted(model.repairing)),
        )

    def trusts(self, cid: bytes, peer: bytes, now: float) -> bool:
        """Whether the copies of one holder count at `now`; our own do while we announce them."""
        model = self._watch.models.get(cid)
        if model is None or peer not in model.holdings:
            return False
        return peer == self._me or (peer in self._room and peer in model.audit.trusted(now))

    def models(self) -> list[bytes]:
        """The models watched, in order."""
        return sorted(self._watch.models)


def _told_repair(cid: bytes, group: int, tiles: int) -> Emit:
    return Emit("replication.repair", {"model": cid_text(cid), "group": group, "tiles": tiles})
