"""The network between nodes: it delays, loses, repeats and reorders, and parts of it stop.

`Weather` is what the whole network does to each message; a *cut* loses everything that one node
sends another, as an asymmetric partition; a *clog* holds it until it is opened, as a full buffer
does (swizzle-clogging, FoundationDB's simulator).
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from simnet.virtual.heap import Heap

Deliver = Callable[[int, int, Any], None]
"""(from node, to node, message) when it arrives."""

REMEMBERED = 64
"""Messages of each link that may be replayed: older ones are as good as newer ones to confuse."""


@dataclass(slots=True)
class Weather:
    """What happens to each message."""

    nearest: float = 0.002
    """Seconds of the shortest way."""
    farthest: float = 0.03
    """Seconds of the longest; delays are drawn evenly between, so messages overtake each other."""
    loss: float = 0.0
    duplicate: float = 0.0
    replay: float = 0.0
    """The share of messages that bring along an old one of their link."""
    straggle: float = 0.0
    """The share that takes up to `straggling` seconds more."""
    straggling: float = 5.0

    @property
    def fair(self) -> bool:
        """Nothing but a delay."""
        return not (self.loss or self.duplicate or self.replay or self.straggle)


class Network:
    """Links between nodes, by their numbers."""

    def __init__(
        self, heap: Heap, rng: random.Random, deliver: Deliver, tally: Counter[str]
    ) -> None:
        self.calm = Weather()
        """The weather when nothing is wrong."""
        self.weather = self.calm
        self.sent = 0
        self._heap = heap
        self._rng = rng
        self._deliver = deliver
        self._tally = tally
        self._cut: Counter[tuple[int, int]] = Counter()
        self._clogged: Counter[tuple[int, int]] = Counter()
        self._held: dict[tuple[int, int], list[Any]] = {}
        self._past: dict[tuple[int, int], list[Any]] = {}
        self._ways: dict[tuple[int, int], float] = {}

    def way(self, source: int, target: int, seconds: float) -> None:
        """Have one direction of a link take exactly `seconds` (in fair weather)."""
        self._ways[source, target] = seconds

    def send(self, source: int, target: int, message: Any, later: float = 0.0) -> None:
        """Take a message that leaves in `later` seconds; it arrives, or not, or repeatedly."""
        self.sent += 1
        link = (source, target)
        if self._cut and self._cut[link]:
            self._tally["cut"] += 1
            return
        weather, rng = self.weather, self._rng
        if weather.fair:
            self._carry(link, message, later)
            return
        if weather.replay:
            self._replay(link, message)
        if rng.random() < weather.loss:
            self._tally["loss"] += 1
            return
        if rng.random() < weather.straggle:
            self._tally["straggle"] += 1
            later += rng.random() * weather.straggling
        self._carry(link, message, later)
        if rng.random() < weather.duplicate:
            self._tally["duplicate"] += 1
            self._carry(link, message, rng.random() * weather.straggling)

    def _replay(self, link: tuple[int, int], message: Any) -> None:
        past = self._past.setdefault(link, [])
        if past and self._rng.random() < self.weather.replay:
            self._tally["replay"] += 1
            self._carry(link, self._rng.choice(past), 0.0)
        if len(past) < REMEMBERED:
            past.append(message)
        else:
            past[self._rng.randrange(REMEMBERED)] = message

    def _carry(self, link: tuple[int, int], message: Any, later: float) -> None:
        way = self._ways.get(link) if self._ways else None
        if way is None:
            weather = self.weather
            way = weather.nearest + self._rng.random() * (weather.farthest - weather.nearest)
        self._heap.after(way + later, self._arrive, link, message)

    def _arrive(self, link: tuple[int, int], message: Any) -> None:
        if self._clogged and self._clogged[link]:
            self._tally["clog"] += 1
            self._held.setdefault(link, []).append(message)
            return
        self._deliver(link[0], link[1], message)

    # -- what stops -------------------------------------------------------------------------

    def cut(self, links: list[tuple[int, int]]) -> None:
        """Lose what is sent over `links`, each (from, to), until mended as often as cut."""
        self._cut.update(links)

    def mend(self, links: list[tuple[int, int]]) -> None:
        """Undo one `cut` of each."""
        self._cut.subtract(links)
        self._cut = +self._cut

    def clog(self, links: list[tuple[int, int]]) -> None:
        """Hold what arrives over `links` until opened as often as clogged."""
        self._clogged.update(links)

    def unclog(self, links: list[tuple[int, int]]) -> None:
        """Undo one `clog` of each; what was held comes at once, in its order."""
        self._clogged.subtract(links)
        self._clogged = +self._clogged
        for link in links:
            if not self._clogged[link]:
                for message in self._held.pop(link, ()):
                    self._heap.after(0.0, self._deliver, link[0], link[1], message)

    def change(self, **what: float) -> None:
        """Have the weather be as it is, but for `what`."""
        self.weather = replace(self.weather, **what)

    def heal(self) -> None:
        """Fair weather, and every link carries."""
        self.weather = self.calm
        self._cut.clear()
        self.unclog(list(self._clogged.elements()))
