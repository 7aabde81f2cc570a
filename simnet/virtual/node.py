"""A node: one machine with its disk, its clock and its links, which may crash at any effect."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from protocols.effects import Blame, Emit, Publish, Save, Send
from protocols.ledger.council import Instant
from simnet.virtual.clock import Clock
from simnet.virtual.disk import Disk
from simnet.virtual.keys import Key

if TYPE_CHECKING:
    from simnet.virtual.world import World

STREAM, GOSSIP = "stream", "gossip"
Message = tuple[str, str, bytes]
"""(STREAM, protocol, data) or (GOSSIP, kind, data)."""

NO_FUSE = -1
MOST_AT_ONCE = 10_000
"""Alarms of one moment before a machine is said to spin: a long range takes it some dozens."""


class Program(Protocol):
    """What runs on a node: a machine of protocols, or a liar that looks like one."""

    def start(self, now: Instant) -> Sequence[object]:
        """The node came up with the disk that it has."""

    def received(self, peer: bytes, protocol: str, data: bytes, now: Instant) -> Sequence[object]:
        """A message came over a stream."""

    def heard(self, peer: bytes, kind: str, data: bytes, now: Instant) -> Sequence[object]:
        """A message came by gossip."""

    def linked(self, peer: bytes, up: bool, now: Instant) -> Sequence[object]:
        """A connection began or ended."""

    def alarm(self, now: Instant) -> Sequence[object]:
        """The time that `wake_at` asked for has come."""

    def wake_at(self) -> float | None:
        """When it wants its `alarm`, by its monotonic clock."""


Boot = Callable[["Node"], Program]


class SpinningError(Exception):
    """A machine that wants to be woken again and again in one moment."""


class Node:
    """One node of a world. `program` is None while it is down."""

    def __init__(self, world: "World", number: int, name: str, key: Key, boot: Boot) -> None:
        self.world = world
        self.number = number
        self.name = name
        self.key = key
        self.boot = boot
        self.disk = Disk()
        self.clock = Clock()
        self.program: Program | None = None
        self.honest = True
        self.lives = 0
        self.fuse = NO_FUSE
        """Effects that are still performed before it crashes."""
        self.cost = 0.0
        """Seconds that it is busy with each event, where it is slow."""
        self.lost = 0
        """Unsynced writes that its last crash cost it."""
        self.sync_s = 0.0
        """Seconds until what it saved is durable and what follows may leave."""
        self.paused_until = 0.0
        self._busy_until = 0.0
        self._alarm_at: float | None = None
        self._wanted: float | None = None
        """By its monotonic clock."""
        self._alarms_now = 0
        self._alarm_moment = -1.0
        self._last = ""

    # -- what comes in ----------------------------------------------------------------------

    def start(self) -> None:
        """Come up."""
        if self.program is not None:
            return
        self.lives += 1
        self._alarm_at = None
        self.clock.reboot(self.world.heap.now)
        self.program = self.boot(self)
        self._after(self.program.start(self._now()))
        if self.program is not None:
            self.world.came_up(self)

    def receive(self, peer: bytes, message: Message) -> None:
        """A message arrived."""
        if self.program is None:
            return
        if self._held(self.receive, peer, message):
            return
        way, name, data = message
        if self.world.recording:
            self.world.record(self, peer, message)
        if way == STREAM:
            self._after(self.program.received(peer, name, data, self._now()))
        else:
            self._after(self.program.heard(peer, name, data, self._now()))

    def linked(self, peer: bytes, up: bool, life: int) -> None:
        """A connection began or ended, while this was its life number `life`."""
        if self.program is not None and self.lives == life:
            self._after(self.program.linked(peer, up, self._now()))

    def _alarm(self, life: int) -> None:
        if self.program is None or self.lives != life:
            return
        now = self.world.heap.now
        if self._alarm_at is None or self._alarm_at > now:
            return  # an earlier one was asked for meanwhile, and rang
        if self.paused_until > now:
            self.world.heap.at(self.paused_until, self._alarm, life)
            return
        self._alarm_at = None
        instant = self._now()
        if self._wanted is None or self._wanted > instant.mono:
            self._ring_at(self._wanted)  # it came to want a later one
            return
        self._alarms_now = self._alarms_now + 1 if self._alarm_moment == now else 1
        self._alarm_moment = now
        if self._alarms_now > MOST_AT_ONCE:
            raise SpinningError(f"{self.name} rang {self._alarms_now} times at {now:.3f} s")
        self._after(self.program.alarm(instant))

    def _held(self, again: Callable[..., None], *args: object) -> bool:
        """Whether the node is paused or busy; then `again(*args)` happens later."""
        now = self.world.heap.now
        if self.paused_until > now:
            self.world.tally["held"] += 1
            self.world.heap.at(self.paused_until, again, *args)
            return True
        if self.cost:
            free = max(self._busy_until, now)
            if free > now:
                self.world.tally["late"] += 1
                self.world.heap.at(free, again, *args)
                return True
            self._busy_until = now + self.cost
        return False

    # -- what goes out ----------------------------------------------------------------------

    def do(self, effects: Sequence[object]) -> None:
        """Perform what its program answered to something that a test or a user did."""
        self._after(effects)

    def _after(self, effects: Sequence[object]) -> None:
        if effects and not self._perform(effects):
            return
        self._set_alarm()
        for check in self.world.after_event:
            check(self)

    def _perform(self, effects: Sequence[object]) -> bool:
        """Perform `effects` in order; False if the node crashed among them."""
        world, disk = self.world, self.disk
        later = 0.0
        for effect in effects:
            kind = type(effect)
            if self.fuse != NO_FUSE:
                if self.fuse == 0:
                    self.crash(f"between {self._last or 'nothing'} and {kind.__name__}")
                    world.tally["crash-between"] += 1
                    return False
                self.fuse -= 1
                self._last = kind.__name__
            if kind is Save:
                assert isinstance(effect, Save)
                disk.save(effect.table, effect.key, effect.value)
                for look in world.on_save:
                    look(self, effect)
            elif kind is Send:
                assert isinstance(effect, Send)
                if disk.sync():
                    later += self.sync_s
                world.send(self, effect, later)
            elif kind is Publish:
                assert isinstance(effect, Publish)
                if disk.sync():
                    later += self.sync_s
                world.publish(self, effect, later)
            elif kind is Emit:
                assert isinstance(effect, Emit)
                world.emitted(self, effect)
            elif kind is Blame:
                assert isinstance(effect, Blame)
                world.blamed(self, effect)
            else:
                world.other(self, effect)
        return True

    def _set_alarm(self) -> None:
        program = self.program
        self._wanted = program.wake_at() if program is not None else None
        self._ring_at(self._wanted)

    def _ring_at(self, wanted: float | None) -> None:
        if wanted is None:
            return
        when = max(self.clock.when(wanted), self.world.heap.now)
        if self._alarm_at is None or when < self._alarm_at:
            self._alarm_at = when
            self.world.heap.at(when, self._alarm, self.lives)

    # -- what befalls it ----------------------------------------------------------------------

    def crash(self, how: str = "") -> None:
        """Stop at once, and lose what was not synced."""
        if self.program is None:
            return
        self.program = None
        self.fuse = NO_FUSE
        self._last = ""
        self.cost = 0.0
        self.paused_until = 0.0
        before = self.disk.lost, self.disk.torn
        self.disk.crash(self.world.chance["disk"])
        lost, torn = self.disk.lost - before[0], self.disk.torn - before[1]
        self.lost = lost
        tally = self.world.tally
        tally["crash"] += 1
        tally["lost-write"] += lost
        tally["torn-write"] += torn
        if self.world.telling:
            words = f"crashes {how}".rstrip()
            if lost:
                words += f"; {lost} unsynced writes are lost{', one is torn' if torn else ''}"
            self.world.tell("crash", words, self)
        self.world.went_down(self)

    def _now(self) -> Instant:
        return self.clock.instant(self.world.heap.now)
