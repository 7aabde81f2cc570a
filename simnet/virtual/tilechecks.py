"""What must hold of a tile group at every step, whoever crashed, was cut off or was wiped.

    one-body        two different entries committed at one index
    lost-acked      a learner was told of an entry that a later primary does not have
    lost-committed  a primary that begins without something that was committed
    one-state       equal logs that fold to different states
    old-commit      a primary commits something new, and a higher term had begun
    old-term        a primary begins in a term that was accepted when a higher one had begun; or a
                    replica acknowledges, or promises, below what it promised
    sealed          a replica acknowledges in an epoch that it has sealed
    damaged         a disk that kept what was synced, and is not believed
    unsaved         what a replica reports, promises or sends is not on its own disk, or its blobs
                    are not
    wiped           a replica whose disk was wiped speaks for an epoch that had begun before

The last four look at what leaves a replica and what its disk has at that moment: a broken rule
rarely costs an entry, and always shows there.
"""

from typing import TYPE_CHECKING

from protocols.effects import Emit, Send
from protocols.learn.replica_log import Log
from protocols.learn.replica_messages import PROTOCOL as TILE
from protocols.learn.replica_messages import Append, Message, Promise, Report, unpack
from protocols.learn.replica_ports import (
    NO_TERM,
    TABLE,
    Committed,
    Entry,
    Leading,
    Term,
)
from simnet.virtual.node import Node
from simnet.virtual.tiledaemon import ACK, BLOBS, EMPTY, chained
from simnet.virtual.world import ViolationError

if TYPE_CHECKING:
    from simnet.virtual.tiletown import TileTown


AUDITING = True
"""Whether what leaves a replica is held against its disk. Without, a bug is seen only by what it
costs: mutants are measured both ways (tests/mutants/replica.py)."""
BEHIND = 8
"""Entries that a follower may be behind at any moment while learners go on."""


class TileChecks:
    """One run's history, as replicas commit it."""

    def __init__(self, town: "TileTown") -> None:
        self._town = town
        self._world = town.world
        self.bodies: dict[int, bytes] = {}
        """What is committed, by index."""
        self.chains: dict[int, bytes] = {0: EMPTY}
        self.acked: dict[int, bytes] = {}
        """What learners were told."""
        self.acked_count = 0
        self.audited = 0
        self._opened = NO_TERM
        """The highest term in which a primary began."""
        self._accepted_in_time: set[Term] = set()
        """Terms that a follower accepted before a primary began in a higher one."""
        self._promised: dict[int, Term] = {}
        """By node: the highest promise that left it, since its disk was last wiped."""
        self._wiped: dict[int, int] = {}
        """By node: the ledger's epoch when its disk was wiped."""
        self._forced = 0
        """The last epoch that a candidate had by force."""
        self._may_lose = False
        """Whether that log, or one taken over from it, has not begun an epoch yet."""
        self.terms = 0
        self._world.on_other.append(self._other)
        self._world.on_emit.append(self._emitted)

    @property
    def newest(self) -> int:
        """The highest index that is committed."""
        return max(self.bodies, default=0)

    # -- what befalls disks -------------------------------------------------------------------

    def wiped(self, node: Node) -> None:
        """Its disk is empty from here on."""
        seats = self._town.seats
        self._wiped[node.number] = seats[0].epoch if seats else 0
        self._promised.pop(node.number, None)

    def could_be_forced(self) -> bool:
        """Whether some epoch may have lost two of its three."""
        return bool(self._wiped)

    def lost_quorum(self) -> bool:
        """Whether too few of the newest three can speak for it."""
        newest = self._town.seats[0]
        numbers = [n.number for n in self._town.daemons if n.key.peer in newest.replicas]
        return sum(self._wiped.get(number, -1) < newest.epoch for number in numbers) < 2

    def everywhere(self) -> bool:
        """Whether each of the newest three that counts has what was acknowledged before now."""
        newest, last = self._town.seats[0], max(self.acked, default=0)
        for node in self._town.daemons:
            if node.key.peer in newest.replicas and self._wiped.get(node.number, -1) < newest.epoch:
                replica = self._town.daemon(node).replica
                if replica is None or replica.committed < last - BEHIND:
                    return False
        return True

    # -- what is committed --------------------------------------------------------------------

    def _other(self, node: Node, effect: object) -> None:
        if isinstance(effect, Committed):
            self._committed(node, effect)
        elif isinstance(effect, Leading):
            self._leading(node, effect.term)
        else:
            self._world.tally[type(effect).__name__.lower()] += 1

    def _committed(self, node: Node, entry: Committed) -> None:
        known = self.bodies.get(entry.index)
        if known is None:
            self._first(node, entry)
        elif known != entry.body and self._begins_by_force(node):
            self._give_up(entry.index - 1)
            self._first(node, entry)
        elif known != entry.body and not self._given_up(node):
            raise ViolationError(
                "one-body",
                f"{node.name} has {entry.body!r} committed at {entry.index}, and others {known!r}",
            )

    def _first(self, node: Node, entry: Committed) -> None:
        if self._given_up(node):
            return
        if entry.index != self.newest + 1:
            raise ViolationError("gap", f"{node.name} commits {entry.index} after {self.newest}")
        term = self._accepted(node)
        if term < self._opened:
            raise ViolationError(
                "old-commit",
                f"{node.name} commits {entry.index} in {words(term)}, and {words(self._opened)} "
                "had begun",
            )
        self.bodies[entry.index] = entry.body
        self.chains[entry.index] = chained(self.chains[entry.index - 1], entry.body)

    def _begins_by_force(self, node: Node) -> bool:
        """Whether it commits the log that a forced epoch begins with: less, or other than was."""
        term = self._accepted(node)
        return self._may_lose and term.epoch >= self._forced and term > self._opened

    def _given_up(self, node: Node) -> bool:
        """Whether it still goes by a log that a forced epoch has given up."""
        return bool(self._forced) and self._accepted(node).epoch < self._forced

    def _accepted(self, node: Node) -> Term:
        replica = self._town.daemon(node).replica
        return NO_TERM if replica is None else replica.accepted

    def _leading(self, node: Node, term: Term) -> None:
        self._world.tally["term"] += 1
        self.terms += 1
        if term < self._opened and term in self._accepted_in_time:
            self._begins_late(node, term)
            return
        if term < self._opened or (term == self._opened and AUDITING):
            raise ViolationError(
                "old-term", f"{node.name} begins {words(term)} after {words(self._opened)}"
            )
        forced = self._may_lose and term.epoch >= self._forced
        self._may_lose = self._may_lose and not forced
        self._opened = term
        replica, fold = self._town.daemon(node).replica, self._town.daemon(node).fold
        assert replica is not None
        if self._world.telling:
            self._world.tell("leads", f"leads {words(term)} from {replica.committed}", node)
        if replica.committed < self.newest:
            if not forced:
                lost = [n for n in self.acked if n > replica.committed]
                check = "lost-acked" if lost else "lost-committed"
                raise ViolationError(
                    check,
                    f"{node.name} begins {words(term)} at {replica.committed} of {self.newest}",
                )
            self._give_up(replica.committed)
        if self.chains.get(fold.index) != fold.chain:
            if not forced:
                raise ViolationError("one-state", f"{node.name} folds differently at {fold.index}")
            self._give_up(fold.index - 1)
            self.chains[fold.index] = fold.chain
            self.bodies[fold.index] = b"refounded"

    def _begins_late(self, node: Node, term: Term) -> None:
        """It was accepted in time, and read that only now: it stood still meanwhile, or its mail
        was slow. It is deposed, and hears of that like one that began before it stood still; until
        then it must not commit anything new (old-commit), and what it has must be no other."""
        self._world.tally["begins-late"] += 1
        if self._world.telling:
            self._world.tell("leads", f"leads {words(term)}, too late", node)
        fold = self._town.daemon(node).fold
        if self.chains.get(fold.index) != fold.chain and not self._given_up(node):
            raise ViolationError("one-state", f"{node.name} folds differently at {fold.index}")

    def _give_up(self, index: int) -> None:
        """A forced epoch begins with less: two of three were lost."""
        self._world.tally["forced-loss"] += 1
        for kept in (self.bodies, self.chains, self.acked):
            for each in [n for n in kept if n > index]:
                del kept[each]

    def _emitted(self, node: Node, emit: Emit) -> None:
        self._world.tally[emit.kind] += 1
        if emit.kind == "learn.forced":
            replica = self._town.daemon(node).replica
            assert replica is not None
            self._forced = max(self._forced, replica.promised.epoch)
            self._may_lose = True
        if emit.kind == "learn.replica-damaged":
            raise ViolationError("damaged", f"{node.name}, whose disk is whole: {emit.fields}")
        if emit.kind == "learn.lost" and not self._forced:
            raise ViolationError("lost-committed", f"{node.name} gives up what was committed")
        if self._world.telling:
            self._world.tell("event", f"{emit.kind} {emit.fields}", node)

    # -- what leaves --------------------------------------------------------------------------

    def sent(self, node: Node, effect: Send) -> None:
        """A message leaves, and what its sender saved before is durable."""
        if effect.protocol == ACK:
            self._acknowledged(node, effect.data)
        elif effect.protocol == TILE:
            message = unpack(effect.data)[1]
            if isinstance(message, Report) and message.ready and message.term > self._opened:
                self._accepted_in_time.add(message.term)
            if AUDITING:
                self._audit(node, message)

    def _audit(self, node: Node, message: Message) -> None:
        self.audited += 1
        match message:
            case Report(ready=True):
                self._audit_report(node, message)
            case Promise():
                self._audit_promise(node, message)
            case Append() if message.entries:
                self._audit_append(node, message)
            case _:
                pass

    def _acknowledged(self, node: Node, data: bytes) -> None:
        index, body = int.from_bytes(data[:8], "big"), data[8:]
        if self.bodies.get(index) != body:
            raise ViolationError(
                "lost-acked",
                f"{node.name} acknowledges {body!r} at {index}, which is "
                f"{self.bodies.get(index)!r}",
            )
        self.acked[index] = body
        self.acked_count += 1

    def _disk(self, node: Node) -> Log:
        log = Log(self._town.group, lambda _: None)
        log.load(dict(node.disk.table(TABLE).items(self._town.group.key)))
        return log

    def _audit_report(self, node: Node, said: Report) -> None:
        self._of_no_wiped(node, said.term.epoch, "acknowledges")
        self._not_below(node, said.term, "acknowledges")
        log = self._disk(node)
        if log.accepted != said.term or log.length < said.length:
            raise ViolationError(
                "unsaved",
                f"{node.name} reports {said.length} of {words(said.term)}, and its disk has "
                f"{log.length} of {words(log.accepted)}",
            )
        self._blobs_are_there(node, log.entries)

    def _blobs_are_there(self, node: Node, entries: list[Entry]) -> None:
        table = node.disk.table(BLOBS)
        for entry in entries:
            for blob in entry.blobs:
                if table.get(blob.digest) is None:
                    raise ViolationError(
                        "unsaved", f"{node.name} acknowledges {entry.body!r} without its blob"
                    )

    def _audit_promise(self, node: Node, said: Promise) -> None:
        self._not_below(node, said.term, "promises")
        seats = next(s for s in self._town.seats if s.epoch == said.term.epoch)
        if said.born < seats.began:
            self._of_no_wiped(node, said.term.epoch, "promises")
        log = self._disk(node)
        if log.promised < said.term or log.place != (said.accepted, said.length):
            raise ViolationError(
                "unsaved",
                f"{node.name} promises {words(said.term)} with {said.length} of "
                f"{words(said.accepted)}, and its disk has {words(log.promised)}, {log.length} of "
                f"{words(log.accepted)}",
            )
        self._promised[node.number] = max(self._promised.get(node.number, NO_TERM), said.term)

    def _audit_append(self, node: Node, said: Append) -> None:
        log = self._disk(node)
        if log.length < said.prev + len(said.entries) or log.accepted not in (
            said.term,
            said.source,
        ):
            raise ViolationError(
                "unsaved",
                f"{node.name} sends up to {said.prev + len(said.entries)} of {words(said.term)}, "
                f"and its disk has {log.length} of {words(log.accepted)}",
            )

    def _of_no_wiped(self, node: Node, epoch: int, does: str) -> None:
        if self._wiped.get(node.number, -1) >= epoch:
            raise ViolationError(
                "wiped", f"{node.name} {does} in epoch {epoch}, in which its disk was wiped"
            )

    def _not_below(self, node: Node, term: Term, does: str) -> None:
        promised = self._promised.get(node.number, NO_TERM)
        if term < promised:
            check = "sealed" if term.epoch < promised.epoch else "old-term"
            raise ViolationError(
                check, f"{node.name} {does} in {words(term)}, and had promised {words(promised)}"
            )

    def standing(self) -> str:
        """Who is where, for a run that stands still."""
        parts = []
        for node in self._town.daemons:
            replica = self._town.daemon(node).replica if node.program is not None else None
            if replica is not None:
                leads = ", leads" if replica.leading else ""
                parts.append(
                    f"{node.name} promised {words(replica.promised)}, has {replica.length} of "
                    f"{words(replica.accepted)}, {replica.committed} committed{leads}"
                )
        return "; ".join(parts)


def words(term: Term) -> str:
    """A term in a sentence."""
    return f"term ({term.epoch}, {term.number})"
