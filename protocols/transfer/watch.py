"""Which models the replication machine watches, and whose manifests it asks for.

Anybody may announce anything, so what strangers can make us remember, fetch and work through is
bounded here:

1. What we hold of ourselves is always watched. Of the rest at most MAX_MODELS, with at most
   STRANGE_TILES tiles in all; where there are more, those that rank least by rendezvous with our
   own id. So every daemon watches others of them, and junk crowds out no model everywhere.
2. A model of more than MAX_TILES is not watched at all: a manifest of 200 bytes can claim any size.
3. Manifests are learned MAX_LEARNS at a time, in turns between those who announce them: whoever
   announces a thousand gets no more turns than who announces one. What nobody gives is asked for
   ever more rarely.
"""

from collections.abc import Callable, Container, Iterator
from math import inf

from protocols.gossip.shelf import Holding
from protocols.rendezvous import cost
from protocols.transfer.audit import Audit
from protocols.transfer.copies import Model

MAX_MODELS = 1024
"""Of others, at some 4 KB each while nobody is short of them."""
MAX_TILES = 1 << 20
"""Of one model: 4 TiB, or a million small tensors; the largest published has half of that."""
STRANGE_TILES = 1 << 20
"""Of all models of others that are watched: 10 MB of memory, and 40 ms to count them all."""
MAX_LEARNS = 4
"""Manifests and headers asked for at a time."""
LEARN_AGAIN = 30.0
"""Seconds until a manifest that nobody gave us is asked for again, doubling ..."""
LEARN_LATEST = 600.0
"""... up to this."""


class Watch:
    """The models that are watched. `audit()` makes the audit of a new one."""

    def __init__(self, me: bytes, audit: Callable[[], Audit], *, strangers: bool) -> None:
        """`strangers`: whether the models of which we hold nothing concern us."""
        self._me = me
        self._audit = audit
        self._strangers = strangers
        self._asked_of: dict[bytes, float] = {}
        self._ceiling: int | None = None
        self.models: dict[bytes, Model] = {}
        """By content id; those looked at longest ago stand first."""

    def hear(self, cid: bytes, holdings: tuple[Holding, ...], now: float) -> Model | None:
        """Who announces which tiles of a model. The model that is watched no more, if any."""
        if not holdings:
            return self.models.pop(cid, None)
        model = self.models.get(cid)
        if model is None:
            ours = any(holding.peer == self._me for holding in holdings)
            draw = cost(self._me, cid, 1)
            if not ours and self._ceiling is not None and draw >= self._ceiling:
                return None
            model = self.models[cid] = Model(cid, self._audit(), draw)
        model.heard(holdings, now)
        return None

    def know(self, cid: bytes, tiles: int, size: int) -> bool:
        """A model has so many tiles, and bytes. Whether it can be watched."""
        model = self.models.get(cid)
        if model is None:
            return False
        model.learning = False
        if not 0 < tiles <= MAX_TILES:
            model.asked_at = inf  # there is nothing to ask about it again
            return False
        model.tiles, model.size = tiles, size
        model.recount_at = 0.0
        return True

    def not_learned(self, cid: bytes) -> None:
        """Nobody gave us a manifest that we asked for."""
        model = self.models.get(cid)
        if model is not None:
            model.learning = False
            model.asked += 1

    def trim(self) -> list[Model]:
        """The models that are watched no more, because there are too many."""
        theirs = [model for model in self.models.values() if self._me not in model.holdings]
        tiles = sum(model.tiles for model in theirs)
        if len(theirs) <= MAX_MODELS and tiles <= STRANGE_TILES:
            if len(theirs) < MAX_MODELS // 2 and tiles < STRANGE_TILES // 2:
                self._ceiling = None
            return []
        theirs.sort(key=lambda model: model.draw)
        gone: list[Model] = []
        while len(theirs) > MAX_MODELS or tiles > STRANGE_TILES:
            model = theirs.pop()
            del self.models[model.cid]
            self._ceiling = model.draw
            tiles -= model.tiles
            gone.append(model)
        return gone

    def to_learn(self, alive: Container[bytes], now: float) -> list[tuple[bytes, list[bytes]]]:
        """Whose manifests are to be asked for now, and of whom: (model, live holders)."""
        room = MAX_LEARNS - sum(model.learning for model in self.models.values())
        ready = {
            model.cid: [peer for peer in model.holdings if peer == self._me or peer in alive]
            for model in (self.models.values() if room > 0 else ())
            if self._may_ask(model, now)
        }
        ready = {cid: peers for cid, peers in ready.items() if peers}
        asking: list[tuple[bytes, list[bytes]]] = []
        while ready and len(asking) < room:
            cid = min(ready, key=lambda cid: min(self._asked(peer) for peer in ready[cid]))
            peers = ready.pop(cid)
            self.models[cid].learning = True
            self.models[cid].asked_at = now
            self._asked_of.update(dict.fromkeys(peers, now))
            asking.append((cid, peers))
        return asking

    def _may_ask(self, model: Model, now: float) -> bool:
        if model.tiles or model.learning or not (self._strangers or self._me in model.holdings):
            return False
        wait = min(LEARN_AGAIN * 2.0 ** min(max(model.asked - 1, 0), 16), LEARN_LATEST)
        return now >= model.asked_at + wait

    def _asked(self, peer: bytes) -> float:
        return self._asked_of.get(peer, -inf)

    def forget_asked(self, alive: Container[bytes]) -> None:
        """Remember only of the living when they were asked."""
        self._asked_of = {peer: at for peer, at in self._asked_of.items() if peer in alive}

    def in_turn(self) -> Iterator[Model]:
        """All models whose tiles are known, those looked at longest ago first."""
        for cid in list(self.models):
            model = self.models.pop(cid)
            self.models[cid] = model
            if model.tiles:
                yield model
