"""`upgrade check`: what can be said of a module by trying it, and said again by anybody.

In this order: its shape; whether it compiles; generated batches of all sizes beside what it is to
equal; the same with values at the edges, and with the numbers that stand in its own code;
recorded batches of real runs; batches again in another order; thousands of calls of one instance;
the slot's invariants; fuel, exactly; time, which is only told.

The inputs come from a seed that nobody knows beforehand, so that a module cannot be made for
them. It is named in the result: the same seed repeats the check.
"""

import hashlib
import secrets
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import trio

from protocols.draw import Draw
from protocols.errors import NotHeldError
from protocols.manifest import UpgradeManifest
from protocols.slots.abi import Batch, Invariant, Limits, Slot
from protocols.slots.closed_list import SLOTS
from protocols.slots.wasm_module import ModuleLimits, ModuleRefusedError
from synapsed.authoring import recorded, sample
from synapsed.authoring.differ import (
    Caller,
    Differ,
    Findings,
    Subject,
    TooManyError,
    answer_of,
)
from synapsed.authoring.pairs import timing
from synapsed.authoring.question import (
    DEARER_MILLE,
    ROWS,
    SLACK,
    SLOWER_MILLE,
    Checked,
    CheckFailedError,
    Question,
    Timing,
    stricter,
)
from synapsed.jail.errors import JailError
from synapsed.jail.jail import Called, Jail

CHANGED = "changed-answers"
"""The metric by which a manifest's evidence says that a module answers otherwise."""

SHAPE = ModuleLimits(
    functions=10_000, body=48 << 10, locals=750, table=7_500, segments=750, globals=750, types=750
)
"""Bounds of a checked module's shape: three quarters of those of one that runs."""
CALL_S = 20.0
"""For one call on the clock: fuel ends it long before, on the slowest machine."""
MUTATED = 100
"""Batches with values at the edges, in a check of ROWS rows; a smaller one has fewer."""
INVARIANT_BATCHES = 60
"""Batches that each invariant is then tried on, of up to INVARIANT_ROWS rows."""
INVARIANT_ROWS = 128
AGAIN, AGAIN_ROWS = 256, 1024
"""Batches that are asked about again in another order: so many, of at most so many rows."""
ENDURANCE = 2_000
"""Calls of one instance in a row then: what counts to a thousand is seen."""
FEW = 4


class NoSlotError(NotHeldError):
    """A slot that this version of the daemon does not have."""

    code = "no-slot"


def claims_change(manifest: UpgradeManifest) -> bool:
    """Whether an upgrade says that it answers otherwise than what it replaces."""
    return any(claim.metric == CHANGED for claim in manifest.evidence)


def slot_of(name: str) -> Slot:
    """By its name. Raises NoSlotError."""
    if name not in SLOTS:
        raise NoSlotError(f"there is no slot {name!r}", remedy=f"there are {', '.join(SLOTS)}")
    return SLOTS[name]


class JailCaller:
    """The jail, for a thread beside the event loop that it runs in."""

    def __init__(self, jail: Jail) -> None:
        self._jail = jail

    def room(self, size: int) -> memoryview:
        """Memory that the jail reads where it is."""
        return trio.from_thread.run_sync(self._jail.room, size)

    def call(self, module: bytes, batch: Batch, limits: Limits, *, fresh: bool) -> Called:
        """Fill a batch's answer in."""
        call = partial(self._jail.call, module, batch, limits, fresh=fresh, seconds=CALL_S)
        return trio.from_thread.run(call)


async def check(question: Question, jail: Jail) -> Checked:
    """Try a module in a jail that is new, so that the same seed says the same to everybody. Raises
    NoSlotError, WeakJailError, CheckFailedError: none of these says anything about the module."""
    slot = slot_of(question.slot)
    began = time.monotonic()
    checking = Checking(question, slot, JailCaller(jail))
    try:
        await jail.compile(question.module, SHAPE)
    except ModuleRefusedError as error:
        checking.findings.add("refused", error.reason)
        return checking.result(time.monotonic() - began)
    except JailError as error:
        raise CheckFailedError(f"it could not be compiled here: {error.message}") from error
    if question.incumbent:
        await _compile_incumbent(question.incumbent, jail)
    await trio.to_thread.run_sync(checking.run)
    return checking.result(time.monotonic() - began)


async def _compile_incumbent(module: bytes, jail: Jail) -> None:
    try:
        await jail.compile(module, ModuleLimits())
    except (ModuleRefusedError, JailError) as error:
        raise CheckFailedError(
            f"the module in force cannot be compiled here: {error.message}",
            remedy="without --incumbent it is compared with the native reference",
        ) from error


class Checking:
    """One check under way, in a thread of its own."""

    def __init__(self, question: Question, slot: Slot, caller: Caller) -> None:
        self.findings = Findings()
        self._question, self._slot, self._caller = question, slot, caller
        self._seed = question.seed or secrets.token_hex(8)
        self._name = hashlib.sha256(question.module).digest()
        self._subject = Subject(slot, self._name, stricter(question.limits), caller)
        self._incumbent: Subject | None = None
        self._incumbent_name = b""
        if question.incumbent:
            self._incumbent_name = hashlib.sha256(question.incumbent).digest()
            self._incumbent = Subject(slot, self._incumbent_name, slot.limits, caller)
        self._differ = Differ(
            self._subject, self._incumbent, self.findings, changed=question.changed
        )
        self._seen: list[tuple[str, Batch, bytes]] = []
        self._recorded = 0
        self._timing: Timing | None = None

    def run(self) -> None:
        """All of it. Raises CheckFailedError."""
        try:
            self._generated()
            self._others()
            self._again()
            self._endure()
            self._invariants()
        except TooManyError:
            return
        self._weigh()
        if self._question.timing and not self.findings.all():
            self._time()

    def result(self, seconds: float) -> Checked:
        """What was found until now."""
        differ = self._differ
        return Checked(
            slot=self._slot.name,
            module_hash=self._name.hex(),
            incumbent_hash=self._incumbent_name.hex(),
            changed=self._question.changed,
            seed=self._seed,
            findings=self.findings.all(),
            rows=differ.rows,
            batches=differ.batches,
            calls=self._subject.calls,
            recorded=self._recorded,
            disagreements=differ.disagreements,
            fuel=differ.fuel(),
            fuel_most_mille=self._subject.most_mille,
            timing=self._timing,
            seconds=round(seconds, 3),
        )

    # -- its parts ------------------------------------------------------------------------------

    def _generated(self) -> None:
        for where, batch in sample.generated(self._slot, self._seed, self._question.rows):
            answer = self._look(where, batch, counts=True)
            if answer is not None and len(self._seen) < AGAIN and batch.total_rows <= AGAIN_ROWS:
                self._seen.append((where, batch, answer))

    def _look(self, where: str, batch: Batch, *, counts: bool = False) -> bytes | None:
        answer = self._differ.look(where, batch, counts=counts)
        if self._question.hasty and self.findings.decide:
            raise TooManyError
        return answer

    def _share(self, count: int) -> int:
        """Of what a whole check has so many of."""
        return max(3, min(count, count * self._question.rows // ROWS))

    def _others(self) -> None:
        """Edges, constants of its own, and what really happened."""
        for number in range(self._share(MUTATED)):
            batch = sample.mutated(self._slot, self._seed, number)
            self._look(f"mutated batch {number}", batch)
        found = sample.constants(self._question.module)
        for where, batch in sample.planted(self._slot, self._seed, found):
            self._look(where, batch)
        for where, batch in self._recordings():
            self._look(where, batch)
            self._recorded += 1

    def _recordings(self) -> Iterator[tuple[str, Batch]]:
        yield from recorded.shipped(self._slot)
        if self._question.recorded:
            yield from recorded.own(self._slot, Path(self._question.recorded))

    def _again(self) -> None:
        """What was answered before must be answered alike after anything else."""
        seen = list(self._seen)
        sample.shuffle(seen, sample.drawn(self._seed, "again"))
        for where, batch, before in seen:
            now = self._differ.ask(f"{where}, again", self._subject.place(batch))
            if now is not None and now[0] != before:
                self.findings.add("remembers", f"{where}: another answer when asked again later")

    def _endure(self) -> None:
        if not self._seen:
            return
        # The smallest that has some rows: what is tried here is patience and not the input.
        where, batch, before = min(
            self._seen, key=lambda each: (each[1].total_rows < FEW, len(each[2]))
        )
        placed = self._subject.place(batch)
        # Instances are replaced meanwhile, so one of these calls is the first of a fresh one.
        began = [self._differ.ask(where, placed, fresh=fresh) for fresh in (False, True)]
        first = max((each[1] for each in began if each is not None), default=None)
        for number in range(self._share(ENDURANCE)):
            now = self._differ.ask(f"{where}, for the {number}th time", placed)
            if first is None or now is None:
                continue
            if now[0] != before:
                text = f"{where}: another answer at the {number}th time of asking the same"
                self.findings.add("remembers", text)
                return
            if now[1] > _allowed(first, calls=1):
                text = f"{where}: {now[1]} fuel at the {number}th time, and {first} at the first"
                self.findings.add("tires", text)
                return

    def _invariants(self) -> None:
        for invariant in self._slot.invariants:
            for number in range(self._share(INVARIANT_BATCHES)):
                where = f"{invariant.name} {number}"
                broken = self._broken(invariant, where, edges=number % 3 == 2)
                if broken:
                    text = f"{invariant.text} Not so ({where}): {broken}"
                    self.findings.add(f"breaks {invariant.name}", text)
                    break

    def _broken(self, invariant: Invariant, where: str, *, edges: bool) -> str:
        """What the module breaks that the reference keeps on the same input."""
        draw = sample.drawn(self._seed, where)
        batch = self._slot.generate(draw, draw.integer(0, INVARIANT_ROWS))
        if edges:
            sample.push(batch, draw)
        after = draw.word().to_bytes(8, "big")
        broken = invariant.broken(partial(self._fill, where), batch.copy(), Draw(after))
        if broken and not invariant.broken(self._slot.reference, batch.copy(), Draw(after)):
            return broken
        return ""

    def _fill(self, where: str, batch: Batch) -> None:
        """As an invariant calls a module."""
        placed = self._subject.place(batch)
        answer = self._differ.ask(where, placed)
        if answer is None:
            raise TooManyError
        answer_of(batch)[:] = answer[0]

    def _weigh(self) -> None:
        """Fuel beside the incumbent's, for a module that has no other purpose than to take less."""
        if self._incumbent is None or self._question.changed:
            return
        for fuel in self._differ.fuel():
            if fuel.incumbent and fuel.module > _allowed(fuel.incumbent, fuel.calls):
                self.findings.add(
                    "dearer",
                    f"on batches of {fuel.rows} rows it takes {fuel.ratio:.3f} times the fuel of"
                    f" the module in force, and answers the same: {1 + DEARER_MILLE / 1000:.2f}"
                    " times is the most",
                )

    def _time(self) -> None:
        self._timing = timing(self._seed, self._subject, self._incumbent)
        least = 1 + SLOWER_MILLE / 1000
        if self._incumbent and self._timing.low > least and not self._question.changed:
            self.findings.add(
                "slower",
                f"it takes {self._timing.low:.2f} to {self._timing.high:.2f} times as long as the"
                f" module in force; {least:.2f} times is told",
                decides=False,
            )


def _allowed(fuel: int, calls: int) -> int:
    """What is not dearer than so much fuel for so many calls."""
    return fuel * (1000 + DEARER_MILLE) // 1000 + SLACK * calls
