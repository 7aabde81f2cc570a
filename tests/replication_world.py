"""A small swarm in virtual time around the replication machine: one seed is one run.

Announcements arrive two seconds late, the dead are missed after twenty, repairs take time and
announce their progress, probes are answered with the truth.
"""

import heapq
import random
from itertools import count
from typing import Any

from protocols.effects import Blame
from protocols.gossip.shelf import Holding
from protocols.transfer.copies import GROUP_TILES
from protocols.transfer.replication import (
    AliveChanged,
    HoldersChanged,
    Learn,
    ModelKnown,
    ProbeResult,
    RepairEnded,
    Replication,
    Settings,
    StartProbe,
    StartRepair,
    Tick,
)
from tests.gossip_kit import MacIdentity, cid

MODEL = cid("model")
GOSSIP = 2.0
TTL = 20.0
PROBE = 0.5
TILE_SECONDS = 0.2
PROGRESS = 4.0
SETTINGS = Settings()


class Member:
    """One daemon: what it holds, what it says that it holds, and its machine."""

    def __init__(
        self, peer: bytes, room: int, seed: int, settings: Settings, world: "World"
    ) -> None:
        rng = random.Random(seed)
        self.peer = peer
        self.room = room
        self.tiles: set[int] = set()
        self.claims: set[int] = set()
        self.machine = Replication(peer, settings, rng.randrange)
        self.since = world.now


class World:
    """Members, and events on their way."""

    def __init__(
        self,
        members: int,
        seed: int,
        *,
        tiles: int = 100,
        rooms: list[int] | None = None,
        settings: Settings = SETTINGS,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.tiles = tiles
        self.settings = settings
        self.order = count()
        self.queue: list[tuple[float, int, Any]] = []
        self.members: dict[bytes, Member] = {}
        self.announced: dict[bytes, Holding] = {}
        self.down: dict[bytes, float] = {}
        self.repairs: list[tuple[float, bytes, int, int]] = []
        self.probes: list[tuple[float, bytes, bytes]] = []
        self.blamed: list[tuple[bytes, bytes]] = []
        self.fetched = 0
        for n in range(members):
            self.join(f"{seed} {n}", rooms[n] if rooms else 1 << 40)

    def join(self, name: str, room: int = 1 << 40) -> Member:
        peer = MacIdentity(name).peer_id
        member = Member(peer, room, self.rng.getrandbits(32), self.settings, self)
        self.members[peer] = member
        self.tell(member)
        self.later(self.rng.random(), lambda: self.tick(member))
        self.later(GOSSIP, self.tell_alive)
        return member

    def hold(self, member: Member, tiles: set[int], claims: set[int] | None = None) -> None:
        member.tiles |= tiles
        member.claims |= tiles if claims is None else claims
        self.announce(member)

    def kill(self, member: Member) -> None:
        self.down[member.peer] = self.now
        del self.members[member.peer]
        self.later(TTL, self.tell_alive)

    def announce(self, member: Member) -> None:
        claims = frozenset(member.claims)
        self.tell(member)

        def arrive() -> None:
            self.announced[member.peer] = Holding(member.peer, runs(claims))
            for other in list(self.members.values()):
                self.tell(other)

        self.later(GOSSIP, arrive)

    def tell(self, member: Member) -> None:
        known = dict(self.announced)
        if member.claims:  # we know at once what we hold ourselves
            known[member.peer] = Holding(member.peer, runs(frozenset(member.claims)))
        holdings = tuple(known[peer] for peer in sorted(known))
        member.machine.handle(HoldersChanged(MODEL, holdings), self.now)

    def tell_alive(self) -> None:
        room = {
            peer: member.room - len(member.tiles) * (4 << 20)
            for peer, member in self.members.items()
            if self.now >= member.since
        }
        for member in self.members.values():
            mine = room if member.peer in room else room | {member.peer: member.room}
            member.machine.handle(AliveChanged(mine), self.now)

    def later(self, seconds: float, what: Any) -> None:
        heapq.heappush(self.queue, (self.now + seconds, next(self.order), what))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self.queue)
            what()
        self.now = end

    def tick(self, member: Member) -> None:
        if self.members.get(member.peer) is not member:
            return
        for effect in member.machine.handle(Tick(), self.now):
            self.perform(member, effect)
        self.later(1.0, lambda: self.tick(member))

    def perform(self, member: Member, effect: Any) -> None:
        match effect:
            case Learn(model, _):
                known = ModelKnown(model, self.tiles, self.tiles * (4 << 20))
                self.later(1.0, lambda: member.machine.handle(known, self.now))
            case StartProbe(peer, _, tile, _):
                self.probes.append((self.now, member.peer, peer))
                self.later(PROBE, lambda: self.answer(member, peer, tile))
            case StartRepair(_, group, wanted):
                todo = [t for start, size in wanted for t in range(start, start + size)]
                self.repairs.append((self.now, member.peer, group, len(todo)))
                self.fetch(member, group, todo)

    def answer(self, member: Member, peer: bytes, tile: int) -> None:
        other = self.members.get(peer)
        proven = None if other is None else tile in other.tiles
        result = ProbeResult(MODEL, peer, proven)
        for effect in member.machine.handle(result, self.now):
            if isinstance(effect, Blame):
                self.blamed.append((member.peer, effect.peer))

    def fetch(self, member: Member, group: int, todo: list[int]) -> None:
        """Fetch the next few tiles, announce them, and so on."""
        if self.members.get(member.peer) is not member:
            return
        part, rest = todo[: int(PROGRESS / TILE_SECONDS)], todo[int(PROGRESS / TILE_SECONDS) :]

        def arrive() -> None:
            if self.members.get(member.peer) is not member:
                return
            got = {tile for tile in part if self.sources(tile)}
            self.fetched += len(got)
            self.hold(member, got)
            if rest and len(got) == len(part):
                self.fetch(member, group, rest)
                return
            done = not rest and len(got) == len(part)
            member.machine.handle(RepairEnded(MODEL, group, done), self.now)
            self.tell_alive()

        self.later(len(part) * TILE_SECONDS, arrive)

    def sources(self, tile: int) -> int:
        """Copies that there really are."""
        return sum(tile in member.tiles for member in self.members.values())

    def copies(self) -> int:
        """Of the rarest tile."""
        return min(self.sources(tile) for tile in range(self.tiles))

    def groups(self) -> int:
        return -(-self.tiles // GROUP_TILES)

    def repairers(self, group: int, since: float = 0.0) -> set[bytes]:
        return {peer for at, peer, which, _ in self.repairs if which == group and at >= since}


def runs(tiles: frozenset[int]) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    for tile in sorted(tiles):
        if out and sum(out[-1]) == tile:
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((tile, 1))
    return tuple(out)
