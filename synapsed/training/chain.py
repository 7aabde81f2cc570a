"""One group's versions that are here: version files, and the committed rounds between and behind.

    base (number, root, file) -- result -- base -- result -- result -- head

Rule 1. A round is saved as a link only when it is committed or proven, follows the head that is
here, and its result is on disk.
Rule 2. Whatever number is asked for from the oldest base on can be made again from files: a base
        and results, which replay to the round's head or are refused.
Rule 3. Compaction (contract M15, M16) replays results into a new base, whose root must be the head
        that was committed. The former bases and the results between them stay until `KEPT_BASES`
        newer ones are here, or a ratified checkpoint has the values (`release`); records stay.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from protocols.codec import decode, encode
from protocols.learn.claims import Record, Round
from protocols.learn.partition import Group, group_key, version_header
from protocols.learn.round_ports import TABLE, record_key
from synapsed.store.db import Change, Database
from synapsed.training.blobs import SPARE_S, Blobs
from synapsed.training.errors import BlobUnknownError, WrongHeadError

LINKS = "learn-links"
"""Of the records' database: key = group_key || number (4 bytes, big-endian), value = Round."""
BASES = "learn-bases"
"""key = group_key, value = the bases, oldest first."""
MAX_RESULTS = 10
"""Results behind a base: contract M15."""
SHARE = 2
"""Their bytes are at most one in so many of the version's: contract M15, 50 %."""
MAX_REPLAY_MS = 50.0
"""What replaying them took: contract M15."""
KEPT_BASES = 2
"""Former bases that stay without a checkpoint: so that who is ten or twenty rounds behind needs
results, and no version."""
MAX_RECORD = 128 << 10
"""Bytes of one: MAX_INPUTS inputs of 75 bytes, and signatures."""


class Base(msgspec.Struct, frozen=True, array_like=True):
    """A version that is here as a file."""

    number: int
    root: bytes


class Replay(msgspec.Struct, frozen=True):
    """How to make a version: these results with the heads after them, in order, on this file."""

    base: Base
    path: Path
    links: tuple[tuple[Path, bytes], ...]
    number: int
    head: bytes
    """What it must come to."""


class Chain:
    """The chain of one group. Not for two threads at once."""

    def __init__(self, database: Database, blobs: Blobs, lineage: bytes, group: Group) -> None:
        self.group = group
        self.lineage = lineage
        self.blobs = blobs
        self.replay_ms = 0.0
        """What the last replay of everything behind the base took."""
        self.version_size = len(version_header(group.tiles)) + group.bytes
        self._database = database
        self._key = group_key(lineage, group.number)
        self._rounds: dict[int, Round] = {}
        self._bases: list[Base] = []
        self._load()

    # -- what is here ------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is a version to begin with."""
        return bool(self._bases)

    @property
    def base(self) -> Base:
        """The newest version that is a file. BlobUnknownError."""
        if not self._bases:
            raise BlobUnknownError(f"no version of group {self.group.number} is here")
        return self._bases[-1]

    @property
    def oldest(self) -> int:
        """The first round whose result is here."""
        return self._bases[0].number if self._bases else 0

    @property
    def number(self) -> int:
        """The next round's."""
        return max(self._rounds) + 1 if self._rounds else self.base.number

    @property
    def head(self) -> bytes:
        """Root of the current version."""
        return self.head_at(self.number)

    def head_at(self, number: int) -> bytes:
        """Root of the version that `number` rounds made. BlobUnknownError."""
        if (decided := self._rounds.get(number - 1)) is not None:
            return decided.head
        for base in self._bases:
            if base.number == number:
                return base.root
        raise BlobUnknownError(f"version {number} of group {self.group.number} is not known here")

    def number_of(self, root: bytes) -> int | None:
        """After how many rounds that was the head; None where it is not known here."""
        for number, decided in self._rounds.items():
            if decided.head == root:
                return number + 1
        return next((base.number for base in self._bases if base.root == root), None)

    def round(self, number: int) -> Round | None:
        """A committed one, where its link is here."""
        return self._rounds.get(number)

    def record(self, number: int) -> Record | None:
        """Of round `number`, whether its result is still here or not."""
        key = record_key(self.lineage, self.group.number, number)
        value = self._database.table(TABLE).get(key)
        return None if value is None else decode(value, Record, MAX_RECORD)

    def records(self, first: int, stop: int | None = None) -> list[Record]:
        """Those from round `first` on, as far as they go without a gap."""
        found: list[Record] = []
        stop = self.number if stop is None else stop
        while first + len(found) < stop and (one := self.record(first + len(found))) is not None:
            found.append(one)
        return found

    @property
    def behind(self) -> list[Round]:
        """The rounds behind the base."""
        return [self._rounds[number] for number in range(self.base.number, self.number)]

    @property
    def behind_bytes(self) -> int:
        """Of their results."""
        return sum(decided.size for decided in self.behind)

    def replay(self, number: int | None = None) -> Replay:
        """How to make a version, the current one unless said otherwise. BlobUnknownError."""
        number = self.number if number is None else number
        for base in reversed(self._bases):
            if base.number <= number:
                rounds = [self._rounds.get(at) for at in range(base.number, number)]
                if all(one is not None and self.blobs.has(one.result) for one in rounds):
                    links = tuple((self.blobs.path(one.result), one.head) for one in rounds if one)
                    path = self.blobs.version(base.root)
                    return Replay(base, path, links, number, self.head_at(number))
        raise BlobUnknownError(f"version {number} of group {self.group.number} cannot be made here")

    # -- what is added -----------------------------------------------------------------------------

    def begin(self, number: int, root: bytes) -> None:
        """Begin with a version whose file is here: older links are forgotten, records are not."""
        self.blobs.version(root)
        self._forget(list(self._rounds))
        self._bases = [Base(number, root)]
        self._save_bases()

    def follow(self, decided: Round) -> bool:
        """A committed, or proven, round whose result is here; False where it is not the next one.

        Raises WrongHeadError where it does not follow the head that is here.
        """
        if decided.number != self.number:
            return False
        if decided.parent != self.head:
            raise WrongHeadError(
                f"round {decided.number} of group {self.group.number} follows"
                f" {decided.parent.hex()[:16]}, and {self.head.hex()[:16]} is here"
            )
        self.blobs.path(decided.result)
        self._save([Change(LINKS, self._link(decided.number), encode(decided))])
        self._rounds[decided.number] = decided
        return True

    def prove(self, record: Record) -> None:
        """Keep a verified record."""
        key = record_key(self.lineage, self.group.number, record.round.number)
        self._save([Change(TABLE, key, encode(record))])

    def rewind(self) -> None:
        """What a replay came to is not what was committed: the results behind the base are not
        what they were (a disk that lost or changed them), and are fetched again."""
        behind = self.behind
        self.blobs.drop([decided.result for decided in behind])
        self._forget([decided.number for decided in behind])

    # -- compaction --------------------------------------------------------------------------------

    def due(self) -> str:
        """Why a new base should be made: results, bytes or time; "" where it need not be."""
        rounds = self.behind
        if len(rounds) > MAX_RESULTS:
            return "results"
        if self.behind_bytes * SHARE > self.version_size:
            return "bytes"
        if rounds and self.replay_ms > MAX_REPLAY_MS:
            return "time"
        return ""

    def compacted(self, number: int, root: bytes) -> None:
        """A version was made again, and its file is here. WrongHeadError where it is another."""
        if root != self.head_at(number):
            raise WrongHeadError(
                f"replay of group {self.group.number} to {number} came to {root.hex()[:16]},"
                f" and {self.head_at(number).hex()[:16]} was committed"
            )
        if all(base.number != number for base in self._bases):
            self._bases = sorted([*self._bases, Base(number, root)], key=lambda base: base.number)
            self._save_bases()
            self.replay_ms = 0.0

    def release(self, number: int) -> None:
        """Versions before `number` need not be made any more."""
        self._let_go([base for base in self._bases if base.number >= number] or self._bases[-1:])

    def trim(self) -> None:
        """Let go what stands behind KEPT_BASES newer ones."""
        self._let_go(self._bases[-1 - KEPT_BASES :])

    def _let_go(self, keep: list[Base]) -> None:
        if keep != self._bases:
            self._bases = keep
            self._save_bases()
            self._forget([number for number in self._rounds if number < self.oldest])

    @property
    def results(self) -> set[bytes]:
        """The results that may be needed: those from the oldest base on."""
        return {decided.result for decided in self._rounds.values()}

    @property
    def versions(self) -> set[bytes]:
        """The version files that may be needed."""
        return {base.root for base in self._bases}

    # -- the database ------------------------------------------------------------------------------

    def _link(self, number: int) -> bytes:
        return self._key + number.to_bytes(4, "big")

    def _save(self, changes: Sequence[Change]) -> None:
        self._database.save(changes)

    def _forget(self, numbers: Sequence[int]) -> None:
        self._save([Change(LINKS, self._link(number), None) for number in numbers])
        for number in numbers:
            del self._rounds[number]

    def _save_bases(self) -> None:
        self._save([Change(BASES, self._key, msgspec.msgpack.encode(self._bases))])

    def _load(self) -> None:
        bases = self._database.table(BASES).get(self._key)
        if bases is not None:
            self._bases = msgspec.msgpack.decode(bases, type=list[Base])
            self._bases = [base for base in self._bases if self.blobs.has_version(base.root)]
        for key, value in self._database.table(LINKS).items(self._key):
            number = int.from_bytes(key[len(self._key) :], "big")
            self._rounds[number] = decode(value, Round, MAX_RECORD)
        if self._bases:
            self._drop_gaps()
        else:
            self._forget(list(self._rounds))

    def _drop_gaps(self) -> None:
        """Where a result is gone, what stands behind it is fetched again."""
        number = self.base.number
        while (decided := self._rounds.get(number)) and self.blobs.has(decided.result):
            number += 1
        self._forget([at for at in self._rounds if at >= number or at < self.oldest])


def sweep(
    blobs: Blobs,
    chains: Sequence[Chain],
    also: Callable[[], set[bytes]],
    spare_s: float = SPARE_S,
) -> int:
    """Delete what no chain, and nothing named by `also`, needs, and what did not just come; how
    many bytes that freed."""
    keep = set().union(also(), *(chain.results for chain in chains))
    versions = set[bytes]().union(*(chain.versions for chain in chains))
    return blobs.sweep(keep, versions, spare_s)
