"""What honest seats sign, checked as it leaves them: the rules of docs/council.md at their source.

A broken rule rarely costs a ratified entry, because liars must then be in the right place. It
always shows in what an honest member signed: so every signature is held against what the same
seat said before, through crashes and restarts. A signature counts once it left the node; one
that a crash kept in is as if it had never been made.

    one-chain       rule 1: acks of one term are on one chain
    uncertified     a certificate-ack of what no quorum can have acknowledged
    floor           rule 2: an ack below the place where its term opened, or beside it
    old-term        rules 3, 4: nothing in a term below that of a published time-out or ack
    retreat         rule 3: a time-out that names less than its signer certificate-acked
    low-opening     rule 3: a term that opens below what one of its time-outs names
    after-epoch     rule 6: nothing above the entry that ends the epoch
    lost-state      rule 7: nothing with the key of a seat whose state was lost
    unsaved         rule 8: what is signed, and the entries below, are on its signer's disk
    unsigned-mark   rule 1: an ack of what the leader itself did not acknowledge
"""

import struct
from collections.abc import Callable
from typing import NamedTuple, cast

from protocols.codec import decode
from protocols.effects import Save
from protocols.ledger.chain import HASH_LENGTH, Head, Header, skip_index
from protocols.ledger.council import Council, Kind, Opening, Statement, TimeOut
from protocols.raft.log import ENTRY, parse_entry
from protocols.raft.ports import TABLE
from protocols.raft.state import OPENING, STATE, Record
from protocols.realm import Realm, realm_domain
from protocols.records import unguarded
from simnet.virtual.checks import Daemon
from simnet.virtual.node import Node
from simnet.virtual.world import ViolationError

_STATEMENT = struct.Struct(">BQQQ32s")
_TIME_OUT = struct.Struct(">BQQQ32sQ")
UNSENT = 96
"""Signatures of one node that may wait to leave it."""


def parse_signed(prefix: bytes, message: bytes) -> Statement | TimeOut | None:
    """What a seat's key signed (council.signed_bytes); None if it is no such message."""
    if not message.startswith(prefix):
        return None
    packed = message[len(prefix) :]
    if len(packed) == _STATEMENT.size:
        kind, epoch, term, index, found = _STATEMENT.unpack(packed)
        return Statement(Kind(kind), epoch, term, index, found)
    if len(packed) == _TIME_OUT.size:
        _, epoch, term, index, found, high = _TIME_OUT.unpack(packed)
        return TimeOut(epoch, term, high, index, found)
    return None


def _words(said: Statement | TimeOut) -> str:
    what = "TIME_OUT" if isinstance(said, TimeOut) else said.kind.name
    return f"{what} ({said.epoch}, {said.term}) of {said.index} {said.hash[:4].hex()}"


class Signed(NamedTuple):
    """A signature that has not left its node."""

    public: bytes
    message: bytes
    signature: bytes
    said: Statement | TimeOut
    term: int
    """The term in which its signer was, as far as it had said, when it was made."""


class Spoken:
    """What one seat of one epoch has said so far."""

    __slots__ = ("acks", "certified", "locks", "term")

    def __init__(self) -> None:
        self.acks: dict[int, tuple[int, bytes]] = {}
        """The last of each term: index and hash."""
        self.certified: dict[int, tuple[int, bytes]] = {}
        self.term = 0
        """The highest that it acknowledged or timed out for: it signs nothing below."""
        self.locks = (0, 0)
        """Rank of the highest that it certificate-acked."""


class Audit:
    """The signatures of every honest seat, in the order in which they left."""

    def __init__(self, network: str) -> None:
        self._network = network
        self._prefix = b""
        """Of what seats sign; nothing is signed before the first council is known."""
        self._spoken: dict[tuple[bytes, int], Spoken] = {}
        self._waiting: dict[int, list[Signed]] = {}
        self._published: set[tuple[bytes, bytes]] = set()
        self._acked: dict[Statement, set[bytes]] = {}
        self._headers: dict[bytes, Header] = {}
        self._quorums: dict[int, int] = {}
        self._councils: dict[int, Council] = {}
        self._made: set[tuple[bytes, Statement]] = set()
        """Acks by seat key, whether or not they left."""
        self._keys: dict[int, bytes] = {}
        """The seat key of each node."""
        self._floors: dict[tuple[bytes, int, int], Head] = {}
        """By seat key, epoch and term: where the term opened, as its holder saved it."""
        self._lost: set[bytes] = set()
        self.statements = 0

    # -- what it learns -----------------------------------------------------------------------

    def saved(self, node: Node, save: Save) -> None:
        """Learn the header of an entry that a member saves, as it does before it acknowledges."""
        found = save.key[-HASH_LENGTH:]
        if save.table != TABLE or save.value is None or found in self._headers:
            return
        if save.key == OPENING and node.honest:
            self._opened(node, save.value)
        elif save.key.startswith(ENTRY):
            entry = parse_entry(self._network, save.key, save.value)
            if entry is not None:
                self._headers[found] = entry.header

    def _opened(self, node: Node, record: bytes) -> None:
        opening = decode(unguarded(TABLE, OPENING, record), Opening)
        key = self._keys.get(node.number)
        if key is None or opening.term == 1:
            return
        head = opening.certificate.said.head
        self._floors[key, opening.epoch, opening.term] = head
        highest = max((each.said.rank for each in opening.time_outs), default=(0, 0))
        if highest > opening.certificate.rank:
            raise ViolationError(
                "low-opening",
                f"{node.name} takes term {opening.term} for open at {opening.certificate.rank}, "
                f"and a time-out of it names {highest}",
            )

    def lose(self, node: Node) -> None:
        """Its state is gone: nothing may be signed with the key that it has."""
        key = self._keys.get(node.number)
        if key is not None:
            self._lost.add(key)

    def council(self, council: Council, liars: int) -> None:
        """A new epoch's council, and how many of its seats may sign anything."""
        if not self._councils:  # the genesis entry starts the first
            realm = Realm(self._network, council.start.hash)
            self._prefix = realm_domain(realm, "council")
        self._quorums[council.epoch] = council.quorum - liars
        self._councils[council.epoch] = council

    def heard(self, node: Node, public: bytes) -> Callable[[bytes, bytes], None]:
        """For `Key.heard`: what the key `public` signs on `node` waits until it leaves."""
        waiting = self._waiting.setdefault(node.number, [])
        self._keys[node.number] = public

        def signed(message: bytes, signature: bytes) -> None:
            said = parse_signed(self._prefix, message)
            if isinstance(said, Statement) and said.kind is Kind.ACK:
                self._made.add((public, said))
            if said is not None and node.honest and (public, message) not in self._published:
                spoken = self._of(public, said.epoch)
                waiting.append(Signed(public, message, signature, said, spoken.term))
                del waiting[:-UNSENT]

        return signed

    def crashed(self, node: Node) -> None:
        """What had not left is gone."""
        self._waiting.get(node.number, []).clear()

    # -- what it checks -----------------------------------------------------------------------

    def sent(self, node: Node, data: bytes) -> None:
        """Look which of the signatures that wait are in a message."""
        waiting = self._waiting.get(node.number)
        if not waiting or not node.honest:
            return
        left = [each for each in waiting if each.signature in data]
        if not left:
            return
        waiting[:] = [each for each in waiting if each.signature not in data]
        for each in left:
            self._published.add((each.public, each.message))
            self._publish(node, each)

    def _of(self, public: bytes, epoch: int) -> Spoken:
        found = self._spoken.get((public, epoch))
        if found is None:
            found = self._spoken[public, epoch] = Spoken()
        return found

    def _publish(self, node: Node, signed: Signed) -> None:
        self.statements += 1
        said = signed.said
        spoken = self._of(signed.public, said.epoch)
        if said.term < signed.term:
            raise ViolationError(
                "old-term",
                f"{node.name} signed {_words(said)} and had already spoken in term {signed.term}",
            )
        if signed.public in self._lost:
            raise ViolationError(
                "lost-state", f"{node.name} signed {_words(said)} and does not know what before"
            )
        spoken.term = max(spoken.term, said.term)
        self._state_on_disk(node, said)
        if isinstance(said, TimeOut):
            self._time_out(node, spoken, said)
        elif said.kind is Kind.ACK:
            self._on_chain(node, spoken.acks, said)
            self._above_floor(node, signed.public, said)
            self._entries_on_disk(node, said)
            self._of_the_leader(node, signed.public, said)
            self._acked.setdefault(said, set()).add(signed.public)
        else:
            self._certificate_ack(node, spoken, said)

    def _above_floor(self, node: Node, public: bytes, said: Statement) -> None:
        floor = self._floors.get((public, said.epoch, said.term))
        if floor is None:
            return
        below = said.index < floor.index
        if below or self.ancestor(said.hash, said.index, floor.index) not in (None, floor.hash):
            raise ViolationError(
                "floor",
                f"{node.name} signed {_words(said)} in a term that opened at {floor.index} "
                f"{floor.hash[:4].hex()}",
            )

    def _entries_on_disk(self, node: Node, said: Statement) -> None:
        ratified = self._ratified(node)
        index, found = said.index, said.hash
        table = node.disk.table(TABLE)
        while index > ratified:
            header = self._headers.get(found)
            if header is None or table.get(ENTRY + index.to_bytes(8, "big") + found) is None:
                raise ViolationError(
                    "unsaved", f"{node.name} signed {_words(said)} without {index} on its disk"
                )
            index, found = index - 1, header.prev

    def _state_on_disk(self, node: Node, said: Statement | TimeOut) -> None:
        row = node.disk.table(TABLE).get(STATE) or b""
        record = decode(unguarded(TABLE, STATE, row), Record)
        if isinstance(said, TimeOut):
            out = record.time_out
            held = out is not None and out.said.term >= said.term
        elif said.kind is Kind.ACK:
            acked = record.acked
            held = acked is not None and (acked.term, acked.index) >= (said.term, said.index)
        else:
            held = record.high is not None and record.high.rank >= (said.term, said.index)
        if record.epoch > said.epoch or (record.epoch == said.epoch and held):
            return
        raise ViolationError("unsaved", f"{node.name} signed {_words(said)} and did not save it")

    def _of_the_leader(self, node: Node, public: bytes, said: Statement) -> None:
        """What a member acknowledges beyond the opening, the leader has acknowledged."""
        council = self._councils.get(said.epoch)
        floor = self._floors.get((public, said.epoch, said.term))
        opening = council.start.index if council is not None and said.term == 1 else None
        opening = floor.index if floor is not None else opening
        if council is None or opening is None or said.index <= opening:
            return
        leader = council.seats[council.leader(said.term)].key
        if (leader, said) not in self._made and said.index > self._ratified(node):
            raise ViolationError(
                "unsigned-mark", f"{node.name} signed {_words(said)}, and its leader did not"
            )

    def _ratified(self, node: Node) -> int:
        return cast(Daemon, node.program).head.index

    def _time_out(self, node: Node, spoken: Spoken, said: TimeOut) -> None:
        if said.rank < spoken.locks and said.term > spoken.locks[0]:
            raise ViolationError(
                "retreat",
                f"{node.name} timed out for term {said.term} naming {said.rank}, and had "
                f"certificate-acked {spoken.locks}",
            )

    def _certificate_ack(self, node: Node, spoken: Spoken, said: Statement) -> None:
        self._on_chain(node, spoken.certified, said)
        rank = (said.term, said.index)
        spoken.locks = max(spoken.locks, rank)
        needed = self._quorums.get(said.epoch)
        ack = Statement(Kind.ACK, said.epoch, said.term, said.index, said.hash)
        if needed is not None and len(self._acked.get(ack, ())) < needed:
            raise ViolationError(
                "uncertified",
                f"{node.name} certificate-acked {rank}, which {len(self._acked.get(ack, ()))} "
                f"honest members acknowledged where {needed} had to",
            )

    def _on_chain(
        self, node: Node, said_before: dict[int, tuple[int, bytes]], said: Statement
    ) -> None:
        before = said_before.get(said.term)
        if before is not None:
            low, high = sorted([before, (said.index, said.hash)], key=lambda each: each[0])
            found = self.ancestor(high[1], high[0], low[0])
            if found is not None and found != low[1]:
                raise ViolationError(
                    "one-chain",
                    f"{node.name} signed {_words(said)} and, in that term, "
                    f"{before[0]} {before[1][:4].hex()}, which are not on one chain",
                )
        if before is None or said.index >= before[0]:
            said_before[said.term] = (said.index, said.hash)

    def ancestor(self, found: bytes, index: int, target: int) -> bytes | None:
        """The chain hash at `target` below `found`; None where a header was never seen."""
        while index > target:
            header = self._headers.get(found)
            if header is None:
                return None
            skip = skip_index(index)
            if skip >= target:
                index, found = skip, header.skip
            else:
                index, found = index - 1, header.prev
        return found

    def ended(self, epoch: int, last: Head) -> None:
        """An entry that ends `epoch` was ratified: nobody signed above it."""
        index, found = last.index, last.hash
        for (_, of), spoken in self._spoken.items():
            if of != epoch:
                continue
            for term, (high, head) in spoken.acks.items():
                if high > index and self.ancestor(head, high, index) == found:
                    raise ViolationError(
                        "after-epoch",
                        f"index {high} was acknowledged in ({epoch}, {term}), above the entry "
                        f"{index} that ends epoch {epoch}",
                    )
