"""One module beside what it claims to equal, on the same batches: answers, fuel and manners.

Rules of this file:
1. The answer's room holds noise before each call: a row that is not written is seen.
2. Every batch is answered twice, by an instance that has answered all others before it and by a
   fresh one, and the two must agree to the bit.
3. Fuel is compared call by call under the same rule: both used, both fresh.
"""

import hashlib
from typing import Protocol

from protocols.slots.abi import Batch, Limits, Slot
from synapsed.authoring.question import CheckFailedError, Finding, Fuel
from synapsed.authoring.sample import answered
from synapsed.jail.errors import JailDiedError, JailError, ModuleTrapError
from synapsed.jail.jail import Called

CLASSES = ((16, "0 to 15"), (256, "16 to 255"), (4096, "256 to 4,095"), (1 << 62, "4,096 and more"))
"""By the rows of all tables of a batch: what is dear for few rows hides in the sum over many."""
KILLS = "kills"
"""The finding that the jail's worker died."""
MAX_TRAPS = 3
"""After so many failed calls the rest is not asked."""


class Caller(Protocol):
    """Runs modules, from a thread that may wait."""

    def room(self, size: int) -> memoryview: ...

    def call(self, module: bytes, batch: Batch, limits: Limits, *, fresh: bool) -> Called: ...


class TooManyError(Exception):
    """Enough is known: ends the check."""


class Findings:
    """The first of each kind, with how often it was seen."""

    def __init__(self) -> None:
        self._first: dict[str, Finding] = {}
        self._count: dict[str, int] = {}

    def add(self, code: str, text: str, *, decides: bool = True) -> None:
        """Note one."""
        self._first.setdefault(code, Finding(code, text, decides))
        self._count[code] = self._count.get(code, 0) + 1

    def __contains__(self, code: str) -> bool:
        return code in self._first

    @property
    def decide(self) -> bool:
        """Whether any of them does."""
        return any(finding.decides for finding in self._first.values())

    def all(self) -> tuple[Finding, ...]:
        """In the order in which their kinds came first."""
        return tuple(self._told(code, finding) for code, finding in self._first.items())

    def _told(self, code: str, finding: Finding) -> Finding:
        again = self._count[code] - 1
        more = f"; and {again} more like it" if again else ""
        return Finding(code, finding.text + more, finding.decides)


class Subject:
    """The module that is checked."""

    def __init__(self, slot: Slot, module: bytes, limits: Limits, caller: Caller) -> None:
        self.slot, self.module, self.limits = slot, module, limits
        self._caller = caller
        self.calls = 0
        self.most_mille = 0

    def place(self, batch: Batch) -> Batch:
        """A twin of the batch where the jail reads it."""
        room = self._caller.room(batch.block.nbytes)
        room[:] = batch.block.cast("B")
        return Batch(self.slot, room)

    def answer(self, batch: Batch, *, fresh: bool = False) -> tuple[bytes, int]:
        """(the answer as it lies in the block, the fuel). Raises as the jail does."""
        tail = answer_of(batch)
        tail[:] = _noise(tail.nbytes)
        called = self._caller.call(self.module, batch, self.limits, fresh=fresh)
        self.calls += 1
        allowed = self.limits.fuel_of(batch.total_rows)
        self.most_mille = max(self.most_mille, called.fuel * 1000 // max(1, allowed))
        return bytes(tail), called.fuel

    def seconds(self, batch: Batch) -> float:
        """What one call takes on the clock of the worker."""
        return self._caller.call(self.module, batch, self.limits, fresh=False).seconds


def answer_of(batch: Batch) -> memoryview:
    """The part of a batch's block that holds the answer: its last words."""
    count = batch.rows[batch.slot.tables.index(answered(batch.slot))]
    size = 8 * len(batch.slot.outputs) * count
    whole = batch.block.cast("B")
    return whole[len(whole) - size :]


def _see_deadline(where: str, error: ModuleTrapError) -> None:
    """Fuel ends what takes too much, on every machine alike; a clock that does is no verdict."""
    if error.kind == "deadline":
        raise CheckFailedError(
            f"{where} took too long on this machine",
            remedy="check it again when the machine does less",
        ) from error


_NOISE = hashlib.shake_128(b"synapse what no module would answer by itself").digest(4096)


def _noise(size: int) -> bytes:
    return (_NOISE * (size // len(_NOISE) + 1))[:size]


class Differ:
    """Looks at batches, one after another."""

    def __init__(
        self,
        subject: Subject,
        incumbent: Subject | None,
        findings: Findings,
        *,
        changed: bool,
    ) -> None:
        self._subject, self._incumbent = subject, incumbent
        self._findings = findings
        self._changed = changed
        self._reference = subject.slot.reference
        self._fuel: dict[str, list[int]] = {name: [0, 0, 0] for _, name in CLASSES}
        self._traps = 0
        self.rows = self.batches = self.disagreements = 0

    def look(self, where: str, batch: Batch, *, counts: bool = True) -> bytes | None:
        """Compare the answers to one batch; the module's, or None where it has none."""
        placed = self._subject.place(batch)
        used = self.ask(where, placed)
        fresh = self.ask(f"{where}, in a fresh instance", placed, fresh=True)
        if used is None or fresh is None:
            return None
        if used[0] != fresh[0]:
            self._findings.add(
                "remembers",
                f"{where}: another answer after other calls than in a fresh instance;"
                f" {self._first(used[0], fresh[0])[0]}",
            )
        wanted, fuels = self._wanted(batch, placed)
        unlike = 0
        if used[0] != wanted:
            at, unlike = self._first(used[0], wanted)
            if unlike and not self._changed:
                self._findings.add("wrong", f"{where}: {at}")
        if counts:
            self.batches += 1
            self.rows += batch.rows[self._place]
            self.disagreements += unlike
            self._count(batch.total_rows, (used[1], fresh[1]), fuels)
        return used[0]

    @property
    def _place(self) -> int:
        slot = self._subject.slot
        return slot.tables.index(answered(slot))

    def ask(self, where: str, placed: Batch, *, fresh: bool = False) -> tuple[bytes, int] | None:
        """The module's answer and fuel; None, and a finding, where it failed."""
        try:
            return self._subject.answer(placed, fresh=fresh)
        except ModuleTrapError as error:
            _see_deadline(where, error)
            self._findings.add("fails", f"{where}: {error.message}")
            self._traps += 1
            if self._traps >= MAX_TRAPS:
                raise TooManyError from error
        except JailDiedError as error:
            self._findings.add(KILLS, f"{where}: {error.message}")
            raise TooManyError from error
        except JailError as error:  # it rests, or did not start: the machine's doing
            raise CheckFailedError(f"the jail does not run: {error.message}") from error
        return None

    def _wanted(self, batch: Batch, placed: Batch) -> tuple[bytes, tuple[int, int] | None]:
        """What is to be answered, and the fuel that the incumbent took for it."""
        if self._incumbent is not None:
            try:
                wanted, used = self._incumbent.answer(placed)
                _, fresh = self._incumbent.answer(placed, fresh=True)
            except ModuleTrapError as error:
                _see_deadline("the module in force", error)
                # The daemon's own reference answers then.
            else:
                return wanted, (used, fresh)
        self._reference(batch)
        return bytes(answer_of(batch)), None

    def _first(self, mine: bytes, other: bytes) -> tuple[str, int]:
        """The first row that differs within its bounds, in words, and how many rows do."""
        outputs = self._subject.slot.outputs
        ours, theirs = memoryview(mine).cast("q"), memoryview(other).cast("q")
        count = len(ours) // len(outputs)
        rows: set[int] = set()
        text = ""
        for number, output in enumerate(outputs):
            begin = number * count
            for at in range(count):
                if output.clamp(ours[begin + at]) != output.clamp(theirs[begin + at]):
                    rows.add(at)
                    text = text or (
                        f"{output.name} of row {at} of {count} is {ours[begin + at]},"
                        f" and should be {theirs[begin + at]}"
                    )
        return text, len(rows)

    # -- fuel -----------------------------------------------------------------------------------

    def _count(self, rows: int, mine: tuple[int, int], theirs: tuple[int, int] | None) -> None:
        name = next(name for most, name in CLASSES if rows < most)
        sums = self._fuel[name]
        sums[0] += 2
        sums[1] += sum(mine)
        if theirs is not None:
            sums[2] += sum(theirs)

    def fuel(self) -> tuple[Fuel, ...]:
        """By the size of the batches, and of all."""
        found = [Fuel(name, *sums) for name, sums in self._fuel.items() if sums[0]]
        total = [sum(each) for each in zip(*self._fuel.values(), strict=True)]
        return (*found, Fuel("all", *total))
