"""Who leads each group, as somebody sees it who is no replica of it: by hints, and by asking."""

from protocols.learn.following import Seating
from protocols.learn.messages import Here, Where
from protocols.learn.replica_ports import Term


class Primaries:
    """Of one model's groups. A wrong hint costs a question, and no more: only who is seated by the
    ledger is ever believed to lead, and the newest term wins."""

    def __init__(self, model: bytes, seats: Seating, epoch: int) -> None:
        self._model = model
        self._seats = seats
        self.epoch = epoch
        """The ledger's."""
        self._known: dict[int, tuple[Term, bytes]] = {}

    def replicas(self, group: int) -> tuple[bytes, ...]:
        """The group's three; () where we do not know them."""
        return self._seats(group, self.epoch)

    def of(self, group: int) -> bytes | None:
        """Who said last that it leads; else the epoch's first choice."""
        replicas = self.replicas(group)
        known = self._known.get(group)
        if known is not None and known[1] in replicas:
            return known[1]
        return replicas[0] if replicas else None

    def hear(self, peer: bytes, said: Here) -> bool:
        """Whether somebody else leads than we thought."""
        replicas = self.replicas(said.group)
        if peer not in replicas or said.primary is None or said.primary not in replicas:
            return False
        known = self._known.get(said.group)
        if known is not None and (known[0] > said.term or known == (said.term, said.primary)):
            return False
        before = self.of(said.group)
        self._known[said.group] = (said.term, said.primary)
        return said.primary != before

    def ask(self, group: int) -> list[tuple[bytes, Where]]:
        """Whom to ask what, to find out."""
        asked = Where(model=self._model, group=group)
        return [(peer, asked) for peer in self.replicas(group)]
