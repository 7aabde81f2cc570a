"""A hundred learners in five regions train the same tiles: how much crosses between regions.

Every daemon runs the machines that a real one runs: the learner, its region's choice of aggregator,
the aggregator where it is drawn, and for the groups that it is placed for a replica's log and its
rounds. Frames are the real ones, packed and unpacked. Tensors are not there: how large a delta, a
sum and a result is, `Sizes` says (tests/bench/learn_wan.py has real codecs make them), and their
names are hashes of what they were made from.
"""

import hashlib

from protocols.learn.claims import Round, Sum
from protocols.learn.messages import Acked, Push, Said
from protocols.learn.partition import group_key
from protocols.learn.placement import limit_for, place
from protocols.learn.regions import candidates
from protocols.ledger.entries import Member
from protocols.realm import Realm
from simnet.virtual.dice import dice
from simnet.virtual.heap import Heap
from simnet.virtual.keys import Keys
from simnet.virtual.learncase import EPOCH, Sizes, WanCase
from simnet.virtual.learnhome import Home
from simnet.virtual.wanlinks import Links

__all__ = ["Sizes", "Wan", "WanCase"]


class Wan:
    """The whole of it."""

    def __init__(self, case: WanCase, sizes: Sizes) -> None:
        self.case = case
        self.sizes = sizes
        self.heap = Heap()
        keys = Keys(case.seed)
        self.keys = [keys.new(f"home {number}") for number in range(case.learners)]
        self.verify = keys.verify
        self.realm = Realm("wan", bytes(32))
        self.model = b"\x01\x55\x12\x20" + hashlib.sha256(b"wan").digest()
        self.number_of = {key.peer: number for number, key in enumerate(self.keys)}
        places = [number % case.regions for number in range(case.learners)]
        self.links = Links(self.heap, places, dice(case.seed, "links"))
        peers = [key.peer for key in self.keys]
        beacon = hashlib.sha256(b"beacon%d" % case.seed).digest()
        self.candidates = candidates(beacon, self.model, peers)
        members = [Member(peer, 1, 0) for peer in peers]
        keys_of = [group_key(self.model, group) for group in range(case.groups)]
        limit = limit_for(case.groups, len(peers))
        self._seats = place([beacon], EPOCH, members, keys_of, limit)
        self.acked: set[bytes] = set()
        """Deltas that a learner was told are on two disks."""
        self.named: set[bytes] = set()
        """Deltas, and sums, that a committed round names."""
        self.sums: dict[bytes, tuple[bytes, ...]] = {}
        """What sums were made of."""
        self.wrong: list[str] = []
        """What must not happen."""
        self._heads: dict[tuple[int, int], bytes] = {}
        self.closed = 0
        """Rounds that all groups have closed."""
        self.contributors: list[int] = []
        self._rounds: dict[int, set[int]] = {}
        self.homes = [Home(self, number) for number in range(case.learners)]

    def seats(self, group: int, epoch: int) -> tuple[bytes, ...]:
        """Who serves a group."""
        three = self._seats[group]
        return three if epoch == EPOCH and three is not None else ()

    def genesis(self, group: int) -> bytes:
        """Version 0's root."""
        return hashlib.sha256(b"version 0 of %d" % group).digest()

    def home(self, peer: bytes) -> Home:
        """By its id."""
        return self.homes[self.number_of[peer]]

    def decided(self, group: int, decided: Round) -> None:
        """A replica says that a round is committed."""
        name = (group, decided.number)
        if self._heads.setdefault(name, decided.head) != decided.head:
            self.wrong.append(f"two ends of round {decided.number} of group {group}")
        self.named.update(entry.digest for entry in decided.inputs)
        done = self._rounds.setdefault(decided.number, set())
        if group not in done:
            done.add(group)
            self.contributors.append(sum(entry.of or 1 for entry in decided.inputs))
            if len(done) == self.case.groups:
                self.closed = decided.number + 1

    def said(self, message: Said) -> None:
        """Somebody says something: what sums are made of is noted."""
        if isinstance(message, Push) and isinstance(message.said, Sum):
            inputs = tuple(entry.digest for entry in message.said.inputs)
            self.sums[message.said.made.digest] = inputs

    def heard(self, home: Home, message: Said) -> None:
        """Somebody is told something: what was acknowledged must be in a round, some day."""
        if isinstance(message, Acked) and message.digest in home.mine:
            self.acked.add(message.digest)

    @property
    def lost(self) -> set[bytes]:
        """Acknowledged deltas that are in no round, and in no sum that is."""
        inside = {delta for name in self.named for delta in self.sums.get(name, (name,))}
        return self.acked - inside

    def run(self, rounds: int, limit_s: float = 36_000.0) -> None:
        """Until all groups have closed so many."""
        self.heap.run(self.heap.now + limit_s, lambda: self.closed >= rounds)

    def start(self) -> None:
        """All homes, within a second."""
        rng = dice(self.case.seed, "start")
        for home in self.homes:
            self.heap.after(rng.random(), home.start)
