"""The faults: what begins and ends with an episode of each kind.

Each counts in `World.tally`, under its own name or under what it did to messages (net.py) and
writes (node.py), so that a family whose faults never happened is found out.
"""

from collections.abc import Callable, Sequence

from simnet.virtual.disk import Tables
from simnet.virtual.node import Node
from simnet.virtual.plan import Episode
from simnet.virtual.world import World

FUSE_S = 3.0
"""A node that has not come to the effect at which it was to crash by then crashes anyway."""
LONGEST_FUSE = 24
"""Effects until a crash: a batch of entries with its acknowledgement is about so many."""
STATE, LEDGER, STATE_KEY = "council", "ledger", b"state"
"""Tables of a daemon (protocols/council/participant.py)."""

Begin = Callable[["Faults", Episode], None]


class Faults:
    """Puts a plan into effect."""

    def __init__(self, world: World, plan: Sequence[Episode]) -> None:
        self.world = world
        self.victims: frozenset[int] = frozenset()
        """Nodes that may lose what they signed."""
        self.leader: Callable[[], int | None] = lambda: None
        """The number of the node that leads as far as honest members see."""
        self.forgets: Callable[[Node], None] = lambda _: None
        """Told of a node whose memory went back: what it signs is a liar's from now on."""
        self.damages: Callable[[Node], None] = lambda _: None
        """Told of a node whose ledger on disk took harm: it may come back with less."""
        self.loses: Callable[[Node], None] = lambda _: None
        """Told of a node that has its seat's key still, and not what it signed with it."""
        self._running: dict[int, Episode] = {}
        self._links: dict[int, list[tuple[int, int]]] = {}
        self._hit: dict[int, list[Node]] = {}
        self._images: dict[tuple[int, int], Tables] = {}
        for episode in plan:
            world.heap.at(episode.at, self._begin, episode)

    def _begin(self, episode: Episode) -> None:
        self._running[episode.number] = episode
        FAULTS[episode.kind][0](self, episode)
        self.world.heap.at(episode.until, self._end, episode)

    def _end(self, episode: Episode) -> None:
        if self._running.pop(episode.number, None) is not None:
            FAULTS[episode.kind][1](self, episode)

    def heal(self) -> None:
        """End everything that still runs, and have every node up."""
        for episode in sorted(self._running.values(), key=lambda each: each.number):
            self._end(episode)
        self.world.net.heal()
        for node in self.world.nodes:
            node.fuse = -1
            node.cost = node.sync_s = 0.0
            node.paused_until = 0.0
            node.clock.drift(self.world.now, 1.0)
            node.clock.skew_ms = 0
        self.world.tell("heal", "the network heals, and everybody is up")

    def those(self, episode: Episode) -> list[Node]:
        """Whom the episode befalls; remembered, so that it ends for the same."""
        if episode.number not in self._hit:
            numbers = episode.who
            if not numbers:
                leader = self.leader()
                numbers = () if leader is None else (leader,)
            self._hit[episode.number] = [self.world.nodes[number] for number in numbers]
        return self._hit[episode.number]

    def count(self, episode: Episode, text: str, node: Node | None = None) -> None:
        """Count it, and tell it."""
        self.world.tally[episode.kind] += 1
        if self.world.telling:
            self.world.tell("fault", text, node)

    # -- weather ------------------------------------------------------------------------------

    def weather(self, _: Episode) -> None:
        """Of the kinds that run, the worst of each."""
        changes: dict[str, float] = {}
        for episode in self._running.values():
            if episode.kind in WEATHER:
                changes[episode.kind] = max(changes.get(episode.kind, 0.0), episode.amount)
        calm = self.world.net.calm
        far = calm.farthest + changes.pop("delay", 0.0)
        self.world.net.weather = calm
        self.world.net.change(farthest=far, **changes)

    def weather_begins(self, episode: Episode) -> None:
        """`amount` is the share of messages, or of `delay` the seconds at most."""
        self.weather(episode)
        words = f"{episode.kind} of {episode.amount:.0%}"
        if episode.kind == "delay":
            words = f"messages take up to {episode.amount:.1f} s more"
            self.world.tally["delay"] += 1
        self.world.tell("fault", f"{words}, for {episode.until - episode.at:.1f} s")

    # -- links --------------------------------------------------------------------------------

    def cut_begins(self, episode: Episode) -> None:
        """Some one-way links carry nothing; `amount` is their share."""
        rng = self.world.chance["faults"]
        numbers = range(len(self.world.nodes))
        self._cut(
            episode,
            [(a, b) for a in numbers for b in numbers if a != b and rng.random() < episode.amount],
        )

    def isolate_begins(self, episode: Episode) -> None:
        """Nothing reaches a node, or nothing from it reaches others, or both."""
        rng = self.world.chance["faults"]
        links = []
        for node in self.those(episode):
            inward, outward = rng.choice(((True, True), (True, False), (False, True)))
            others = [n for n in range(len(self.world.nodes)) if n != node.number]
            links += [(other, node.number) for other in others if inward]
            links += [(node.number, other) for other in others if outward]
        self._cut(episode, links)

    def split_begins(self, episode: Episode) -> None:
        """The world falls into two parts."""
        rng = self.world.chance["faults"]
        side = [rng.random() < 0.5 for _ in self.world.nodes]
        numbers = range(len(side))
        self._cut(episode, [(a, b) for a in numbers for b in numbers if side[a] != side[b]])

    def _cut(self, episode: Episode, links: list[tuple[int, int]]) -> None:
        self._links[episode.number] = links
        self.world.net.cut(links)
        if self.world.telling:
            self.count(episode, f"nothing passes {self._arrows(links)}")
        else:
            self.count(episode, "")

    def cut_ends(self, episode: Episode) -> None:
        """The links carry again."""
        links = self._links.pop(episode.number)
        self.world.net.mend(links)
        if self.world.telling:
            self.world.tell("mended", f"passes again: {self._arrows(links)}")

    def _arrows(self, links: list[tuple[int, int]]) -> str:
        names = [node.name for node in self.world.nodes]
        both = [f"{names[a]}-{names[b]}" for a, b in links if a < b and (b, a) in links]
        single = [f"{names[a]}>{names[b]}" for a, b in links if (b, a) not in links]
        return " ".join(both + single)

    def swizzle_begins(self, episode: Episode) -> None:
        """Clog some nodes one after another, and open them one after another in another order."""
        rng = self.world.chance["faults"]
        nodes = self.those(episode)
        third = (episode.until - episode.at) / 3
        for node in nodes:
            links = [
                link
                for other in range(len(self.world.nodes))
                if other != node.number
                for link in ((other, node.number), (node.number, other))
            ]
            self.world.heap.after(rng.uniform(0, third), self._clog, episode, node, links)
            opens = episode.until - rng.uniform(0, third)
            self.world.heap.at(opens, self._unclog, node, links)

    def _clog(self, episode: Episode, node: Node, links: list[tuple[int, int]]) -> None:
        if episode.number in self._running:
            self.world.net.clog(links)
            self.count(episode, "its links clog", node)

    def _unclog(self, node: Node, links: list[tuple[int, int]]) -> None:
        self.world.net.unclog(links)
        self.world.tell("mended", "its links open", node)

    # -- nodes --------------------------------------------------------------------------------

    def crash_begins(self, episode: Episode) -> None:
        """Crash after some more effects; `amount` more than 0.5: not before the next of them."""
        rng = self.world.chance["faults"]
        for node in self.those(episode):
            if node.program is not None:
                node.fuse = rng.randint(0, LONGEST_FUSE)
                self.world.heap.after(FUSE_S, self._crash_anyway, node, node.lives)

    def _crash_anyway(self, node: Node, life: int) -> None:
        if node.fuse >= 0 and node.lives == life:
            node.crash()

    def power_begins(self, episode: Episode) -> None:
        """They all lose power at once."""
        for node in self.those(episode):
            node.crash("as the power fails")
        self.world.tally["power"] += 1

    def up(self, episode: Episode) -> None:
        """They start again."""
        for node in self.those(episode):
            node.fuse = -1
            if node.program is None:
                self.world.tell("start", "starts again", node)
                node.start()

    def pause_begins(self, episode: Episode) -> None:
        """They stand still, as under SIGSTOP, and then find everything that waited."""
        for node in self.those(episode):
            node.paused_until = max(node.paused_until, episode.until)
            self.count(episode, f"stands still for {episode.until - episode.at:.1f} s", node)

    def slow_begins(self, episode: Episode) -> None:
        """Each event takes `amount` seconds, and each write to disk ten times that."""
        for node in self.those(episode):
            node.cost, node.sync_s = episode.amount, 10 * episode.amount
            self.count(episode, f"is slow: {episode.amount * 1000:.0f} ms an event", node)

    def slow_ends(self, episode: Episode) -> None:
        """As quick as before."""
        for node in self.those(episode):
            node.cost = node.sync_s = 0.0

    # -- clocks -------------------------------------------------------------------------------

    def skew_begins(self, episode: Episode) -> None:
        """The time of day is wrong by up to `amount` ms, either way."""
        rng = self.world.chance["faults"]
        for node in self.those(episode):
            node.clock.skew_ms = int(rng.uniform(-1, 1) * episode.amount)
            self.count(episode, f"its clock is set {node.clock.skew_ms:+d} ms wrong", node)

    def skew_ends(self, episode: Episode) -> None:
        """Right again: time jumps."""
        for node in self.those(episode):
            node.clock.skew_ms = 0

    def drift_begins(self, episode: Episode) -> None:
        """Clocks run up to `amount` (a share) fast or slow."""
        rng = self.world.chance["faults"]
        for node in self.those(episode):
            rate = 1 + rng.uniform(-1, 1) * episode.amount
            node.clock.drift(self.world.now, rate)
            self.count(episode, f"its clock runs at {rate:.3f}", node)

    def drift_ends(self, episode: Episode) -> None:
        """As fast as others'."""
        for node in self.those(episode):
            node.clock.drift(self.world.now, 1.0)

    # -- disks --------------------------------------------------------------------------------

    def damage_begins(self, episode: Episode) -> None:
        """Crash, and find the disk damaged: `amount` is how many rows."""
        rng = self.world.chance["disk"]
        for node in self.those(episode):
            node.crash()
            damage = node.disk.flip if episode.kind == "flip" else node.disk.misdirect
            for _ in range(max(1, round(episode.amount))):
                table = rng.choice((STATE, LEDGER))
                # A state that is damaged costs the seat: with the liars fewer than a third.
                key = damage(rng, table, b"" if node.number in self.victims else STATE_KEY)
                self.damages(node)
                if key is not None:
                    words = "a bit flips in" if episode.kind == "flip" else "another row stands in"
                    self.count(episode, f"{words} {table} {key[:12].hex()}", node)

    def wipe_begins(self, episode: Episode) -> None:
        """Crash, and lose everything."""
        for node in self.those(episode):
            node.crash()
            node.disk.restore({})
            self.damages(node)
            self.count(episode, "its disk is wiped", node)

    def unledger_begins(self, episode: Episode) -> None:
        """Crash, and lose the ledger but not what was signed: it restarts from a snapshot."""
        for node in self.those(episode):
            node.crash()
            image = node.disk.image()
            image.pop(LEDGER, None)
            node.disk.restore(image)
            self.damages(node)
            self.count(episode, "loses its ledger", node)

    def forget_begins(self, episode: Episode) -> None:
        """Crash, and lose what the seat has signed, but not its key."""
        for node in self.those(episode):
            node.crash()
            image = node.disk.image()
            image.pop(STATE, None)
            node.disk.restore(image)
            self.damages(node)
            self.loses(node)
            self.count(episode, "loses its seat's state", node)

    def rollback_begins(self, episode: Episode) -> None:
        """A backup is made of the disk now."""
        for node in self.those(episode):
            self._images[episode.number, node.number] = node.disk.image()
            self.forgets(node)

    def rollback_ends(self, episode: Episode) -> None:
        """Crash, and start from the backup: what was signed since is forgotten."""
        for node in self.those(episode):
            node.crash()
            node.disk.restore(self._images.pop((episode.number, node.number)))
            self.count(episode, "starts from an old image of its disk", node)
            node.start()

    # -- people -------------------------------------------------------------------------------

    def join_begins(self, episode: Episode) -> None:
        """A newcomer starts, with an empty disk."""
        for node in self.those(episode):
            if node.lives == 0:
                self.count(episode, "joins", node)
                node.start()

    def reface_begins(self, episode: Episode) -> None:
        """Everybody comes to talk with the one, the other or both of each pair of twins."""
        rng = self.world.chance["faults"]
        for peer, numbers in self.world.twins():
            for node in self.world.nodes:
                if node.number in numbers:
                    continue
                faces = rng.choice((numbers[:1], numbers[1:], numbers))
                self.world.faces[node.number, peer] = faces
            self.count(episode, self._seen(peer))

    def _seen(self, peer: bytes) -> str:
        nodes = self.world.nodes
        return ", ".join(
            f"{nodes[viewer].name} sees {'/'.join(nodes[n].name for n in faces)}"
            for (viewer, seen), faces in sorted(self.world.faces.items())
            if seen == peer
        )

    def nothing(self, _: Episode) -> None:
        """Some episodes only begin."""


WEATHER = ("delay", "loss", "duplicate", "replay", "straggle")

FAULTS: dict[str, tuple[Begin, Begin]] = {
    **dict.fromkeys(WEATHER, (Faults.weather_begins, Faults.weather)),
    "cut": (Faults.cut_begins, Faults.cut_ends),
    "isolate": (Faults.isolate_begins, Faults.cut_ends),
    "split": (Faults.split_begins, Faults.cut_ends),
    "swizzle": (Faults.swizzle_begins, Faults.nothing),
    "crash": (Faults.crash_begins, Faults.up),
    "power": (Faults.power_begins, Faults.up),
    "pause": (Faults.pause_begins, Faults.nothing),
    "slow": (Faults.slow_begins, Faults.slow_ends),
    "skew": (Faults.skew_begins, Faults.skew_ends),
    "drift": (Faults.drift_begins, Faults.drift_ends),
    "flip": (Faults.damage_begins, Faults.up),
    "misdirect": (Faults.damage_begins, Faults.up),
    "wipe": (Faults.wipe_begins, Faults.up),
    "unledger": (Faults.unledger_begins, Faults.up),
    "forget": (Faults.forget_begins, Faults.up),
    "rollback": (Faults.rollback_begins, Faults.rollback_ends),
    "reface": (Faults.reface_begins, Faults.nothing),
    "join": (Faults.join_begins, Faults.nothing),
}
"""kind -> (what begins it, what ends it)."""
