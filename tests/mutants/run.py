"""Runs mutants: a copy of the source for each, its catchers in turn, two at a time.

Rules of this file:
1. The checkout is never changed: a snapshot of it is taken at the start, and every mutant lives
   and dies in a copy of that.
2. A mutant counts as caught only if the very command that caught it, over the very seeds, passes
   on the unmutated snapshot.
3. A catcher that breaks, or does not end in its time, has caught nothing.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.mutants.catchers import Catcher, Family, NamedTests, Verdict
from tests.mutants.mutant import Mutant, MutantError, apply

COPIED = ("protocols", "simnet", "synapsed", "tests", "configs", "pyproject.toml")
"""Of the checkout: what the simulator and the tests read."""

LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules")

PROCESSES = 2
"""Mutants at a time: the machines that this was written on have two cores."""

Say = Callable[[str], None]


class Result(msgspec.Struct):
    """What became of one mutant; kept in a file, and worth keeping while `key` stays the same."""

    name: str
    key: str
    caught: bool
    by: str = ""
    seed: int = 0  # the first seed that showed it; 0: a test did
    seconds: float = 0.0
    notes: list[str] = []  # catchers that missed it or broke, and how
    catcher: int = -1  # which of its catchers


class Runner:
    """Runs mutants of one snapshot; results are kept in the folder `kept`."""

    def __init__(
        self, base: Path, work: Path, kept: Path, say: Say, workers: int = PROCESSES
    ) -> None:
        self.base = base
        self.work = work
        self.kept = kept
        self.say = say
        self.workers = workers
        self.source = digest_of(base, ("protocols", "simnet/virtual"))
        self._children: set[subprocess.Popen[str]] = set()
        self._turn = threading.Lock()
        self._ended = False

    def run(self, mutants: Sequence[Mutant], *, resume: bool) -> list[Result]:
        """Every mutant's result, in their order."""
        self.kept.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                results = list(pool.map(lambda mutant: self._one(mutant, resume), mutants))
                self._compare(mutants, results, pool, resume)
            except BaseException:
                self._end()
                pool.shutdown(cancel_futures=True)
                raise
        return results

    # -- one mutant ---------------------------------------------------------------------------

    def _one(self, mutant: Mutant, resume: bool) -> Result:
        kept = self._kept(mutant) if resume else None
        if kept is not None:
            self.say(f"{mutant.name}: kept, {words(kept)}")
            return kept
        result = Result(mutant.name, self._key(mutant), caught=False)
        began = time.monotonic()
        copy = self.work / mutant.name
        shutil.copytree(self.base, copy)
        try:
            apply(mutant, copy)
            self._try(mutant, copy, result)
        finally:
            shutil.rmtree(copy)
        result.seconds = round(time.monotonic() - began, 1)
        self._keep(result)
        self.say(f"{mutant.name}: {words(result)}")
        return result

    def _try(self, mutant: Mutant, copy: Path, result: Result) -> None:
        for number, catcher in enumerate(mutant.caught_by):
            verdict = self._call(catcher, copy)
            if verdict.caught:
                result.caught, result.by, result.seed = True, verdict.by, verdict.seed
                result.catcher = number
                return
            how = "missed it" if verdict.caught is False else f"broke: {verdict.by}"
            result.notes.append(f"{catcher.words} {how}")

    def _call(self, catcher: Catcher, copy: Path) -> Verdict:
        with self._turn:
            if self._ended:
                return Verdict(None, "interrupted")
            child = subprocess.Popen(
                catcher.command(),
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy), "PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._children.add(child)
        with child:  # its pipe is closed at the end
            try:
                output, _ = child.communicate(timeout=catcher.limit_s)
            except subprocess.TimeoutExpired:
                return Verdict(None, f"it did not end within {catcher.limit_s:.0f} s")
            finally:
                _kill(child)
                self._children.discard(child)
        return catcher.read(child.returncode, output)

    def _end(self) -> None:
        with self._turn:
            self._ended = True
            for child in list(self._children):
                _kill(child)

    # -- the unmutated snapshot ----------------------------------------------------------------

    def _compare(
        self,
        mutants: Sequence[Mutant],
        results: list[Result],
        pool: ThreadPoolExecutor,
        resume: bool,
    ) -> None:
        """Take back what was caught by a catcher that fails without any mutant."""
        longest: dict[str, Catcher] = {}
        names: dict[int, str] = {}
        for at, (mutant, result) in enumerate(zip(mutants, results, strict=True)):
            if not result.caught:
                continue
            catcher = mutant.caught_by[result.catcher]
            names[at] = catcher.words
            if isinstance(catcher, Family):
                earlier = longest.get(catcher.words)
                seeds = max(result.seed, earlier.seeds if isinstance(earlier, Family) else 0)
                catcher = msgspec.structs.replace(catcher, seeds=seeds)
            longest[catcher.words] = catcher
        verdicts = pool.map(lambda catcher: self._baseline(catcher, resume), longest.values())
        found = dict(zip(longest, verdicts, strict=True))
        for at, name in names.items():
            verdict = found[name]
            if verdict.caught is not False:
                results[at].caught = False
                results[at].notes.append(f"without any mutant: {name} fails too: {verdict.by}")
                self._keep(results[at])

    def _baseline(self, catcher: Catcher, resume: bool) -> Verdict:
        plain = Mutant(f"unmutated-{short(catcher)}", "", (), (catcher,))
        if resume and self._kept(plain) is not None:
            return Verdict(False)
        verdict = self._call(catcher, self.base)
        if verdict.caught is False:
            self._keep(Result(plain.name, self._key(plain), caught=False))
        how = "passes" if verdict.caught is False else f"FAILS: {verdict.by}"
        many = f" over {catcher.seeds} seeds" if isinstance(catcher, Family) else ""
        self.say(f"without any mutant: {catcher.words}{many} {how}")
        return verdict

    # -- what is kept --------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.kept / f"{name}.json"

    def _keep(self, result: Result) -> None:
        self._path(result.name).write_bytes(msgspec.json.encode(result))

    def _key(self, mutant: Mutant) -> str:
        """Of the protocols and their simulator, the mutant, its file and its tests."""
        digest = hashlib.sha256(self.source + msgspec.json.encode(mutant))
        named = [change.file for change in mutant.changes]
        for catcher in mutant.caught_by:
            if isinstance(catcher, NamedTests):
                named += [node.partition("::")[0] for node in catcher.nodes]
        for name in named:
            with contextlib.suppress(FileNotFoundError):  # the mutant, or its catcher, says so
                digest.update((self.base / name).read_bytes())
        return digest.hexdigest()

    def _kept(self, mutant: Mutant) -> Result | None:
        try:
            result = msgspec.json.decode(self._path(mutant.name).read_bytes(), type=Result)
        except (OSError, msgspec.MsgspecError):
            return None
        return result if result.key == self._key(mutant) else None


@contextmanager
def open_runner(root: Path, kept: Path, say: Say, workers: int = PROCESSES) -> Iterator[Runner]:
    """A runner for the source under `root` as it is at this moment."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        work = Path(folder).resolve()
        base = work / "unmutated"
        base.mkdir()
        for name in COPIED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, base / name, ignore=LEFT_OUT)
            elif source.exists():
                shutil.copyfile(source, base / name)
        _check_imports(base)
        yield Runner(base, work, kept, say, workers)


def _check_imports(base: Path) -> None:
    """Raises MutantError unless a child in the copy imports the copy, not the checkout."""
    code = "import protocols, simnet; print(protocols.__file__, simnet.__file__, sep='\\n')"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=base,
        env={**os.environ, "PYTHONPATH": str(base)},
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if len(found) != 2 or not all(Path(path).is_relative_to(base) for path in found):
        raise MutantError(f"a child in {base} imports {found or 'nothing'}, not what lies there")


def digest_of(base: Path, folders: Sequence[str]) -> bytes:
    """Changes with any Python file below some folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((base / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(base)}\0".encode() + path.read_bytes() + b"\0")
    return digest.digest()


def short(catcher: Catcher) -> str:
    """A name for a file."""
    return hashlib.sha256(msgspec.json.encode(catcher)).hexdigest()[:16]


def words(result: Result) -> str:
    """A result in one line."""
    if result.caught:
        seeds = f" at seed {result.seed}" if result.seed else ""
        return f"caught by {result.by}{seeds} in {result.seconds:.0f} s"
    return f"SURVIVES ({'; '.join(result.notes)})"


def _kill(child: subprocess.Popen[str]) -> None:
    """End a child and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
