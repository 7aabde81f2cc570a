"""Long work: imports, pulls, exports, scrubs, submissions, replays, and clients that watch them.

Rule 1: the same work asked for twice is one job with two watchers.
Rule 2: a job that nobody watches any more is cancelled, unless it was detached.
Rule 3: what a cancelled job has verified stays on record, so asking again resumes it.
"""

import itertools
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager

import trio

from protocols.errors import SynapseError
from synapsed.control.api import Report
from synapsed.control.ledgermodels import Submitted
from synapsed.control.models import (
    ExportResult,
    ImportResult,
    JobInfo,
    JobKind,
    Progress,
    PullResult,
    ScrubResult,
)
from synapsed.control.problems import BusyError, CancelledError, UnknownError, first_typed
from synapsed.control.upgrademodels import Replayed, UpgradeDetail
from synapsed.process.events import EventBus
from synapsed.training.said import AuditSaid, CheckpointSaid, Evaluated, TrainingSaid

JOB_LIMIT = 32
"""Jobs at a time: each holds a task and files open; a person starts a handful."""

WATCH_PERIOD_S = 0.1
"""A watcher is told ten times a second at most: what a progress bar can show."""

Result = (
    ImportResult
    | PullResult
    | ExportResult
    | ScrubResult
    | Submitted
    | UpgradeDetail
    | Replayed
    | TrainingSaid
    | CheckpointSaid
    | Evaluated
    | AuditSaid
)
Work = Callable[[Report], Awaitable[Result]]


class Job:
    """One piece of long work. `outcome` is set when it has ended."""

    def __init__(self, number: int, kind: JobKind, subject: str, *, detached: bool = False) -> None:
        self.number = number
        self.kind: JobKind = kind
        self.subject = subject
        self.detached = detached
        self.started = time.time()
        self.progress: Progress | None = None
        self.outcome: Result | SynapseError | None = None
        self._ended = trio.Event()
        self._scope = trio.CancelScope()
        self._watchers = 0

    def report(self, progress: Progress) -> None:
        """Keep the newest progress; watchers look by themselves."""
        self.progress = progress

    @property
    def is_cancelled(self) -> bool:
        """Whether it is to end; its work may still be putting things away."""
        return self._scope.cancel_called

    def cancel(self) -> None:
        """End the work as soon as it can be."""
        self._scope.cancel()

    async def ended(self) -> None:
        """Wait for its end."""
        await self._ended.wait()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the block runs somebody wants the result."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers and not self.detached:
                self.cancel()

    async def next_news(self, seen: Progress | None) -> Progress | Result | SynapseError:
        """The outcome, or progress other than `seen`; within a watch period of its coming."""
        while self.outcome is None:
            if self.progress is not None and self.progress is not seen:
                return self.progress
            with trio.move_on_after(WATCH_PERIOD_S):
                await self._ended.wait()
        return self.outcome

    async def run(self, work: Work) -> None:
        """Do the work; its typed errors become the outcome, a defect goes on to the supervisor."""
        outcome: Result | SynapseError = SynapseError(
            f"the {self.kind} of {self.subject} ended by a defect of the daemon",
            remedy="the daemon's log has the details; please report them",
        )
        cancelled = CancelledError(
            f"the {self.kind} of {self.subject} was cancelled",
            remedy="ask again: what has arrived is kept",
        )
        try:
            with self._scope:
                outcome = await work(self.report)
            if self._scope.cancelled_caught:
                outcome = cancelled
        except trio.Cancelled:  # the daemon stops
            outcome = cancelled
            raise
        except SynapseError as error:
            outcome = error
        except BaseExceptionGroup as group:  # a nursery in the work wraps what it raises
            typed = first_typed(group)
            if typed is None or group.split(SynapseError)[1] is not None:
                raise
            outcome = typed
        finally:
            self.outcome = outcome
            self._ended.set()

    def info(self) -> JobInfo:
        """The job, as the socket shows it."""
        return JobInfo(
            id=self.number,
            kind=self.kind,
            subject=self.subject,
            detached=self.detached,
            started=self.started,
            progress=self.progress,
        )


class JobBoard:
    """The jobs under way. `spawn` runs one under a supervisor, in a nursery of the server's."""

    def __init__(
        self, bus: EventBus, spawn: Callable[[str, Callable[[], Awaitable[None]]], None]
    ) -> None:
        self._bus = bus
        self._spawn = spawn
        self._jobs: dict[Hashable, Job] = {}
        self._running: dict[int, Job] = {}
        self._numbers = itertools.count(1)

    def start(
        self, kind: JobKind, subject: str, key: Hashable, work: Work, *, detached: bool = False
    ) -> Job:
        """The job of (kind, subject, key): the one under way, or a new one. BusyError."""
        identity = (kind, subject, key)
        before = self._jobs.get(identity)
        if before is not None and not before.is_cancelled:
            before.detached = before.detached or detached
            return before
        if len(self._running) >= JOB_LIMIT:
            raise BusyError(
                f"{JOB_LIMIT} jobs are under way already",
                remedy="wait for one to end, or cancel one: synapsectl job ls",
            )
        job = Job(next(self._numbers), kind, subject, detached=detached)
        self._jobs[identity] = job
        self._running[job.number] = job
        self._bus.emit("job.started", job=job.number, what=kind, subject=subject)
        self._spawn(f"job {job.number}", lambda: self._run(identity, job, work, before))
        return job

    def list(self) -> list[JobInfo]:
        """Jobs under way, oldest first."""
        return [job.info() for job in self._running.values()]

    def cancel(self, number: int) -> JobInfo:
        """Cancel one by its number; UnknownError."""
        job = self._running.get(number)
        if job is None:
            raise UnknownError(f"there is no job {number}", remedy="synapsectl job ls lists them")
        job.cancel()
        return job.info()

    async def _run(self, identity: Hashable, job: Job, work: Work, before: Job | None) -> None:
        try:
            if before is not None:  # cancelled, and perhaps not gone yet
                await before.ended()
            await job.run(work)
        finally:
            del self._running[job.number]
            if self._jobs.get(identity) is job:
                del self._jobs[identity]
            self._tell(job)

    def _tell(self, job: Job) -> None:
        fields = {"job": job.number, "what": job.kind, "subject": job.subject}
        if isinstance(job.outcome, SynapseError):
            error = job.outcome
            self._bus.emit("job.failed", **fields, error=error.code, message=error.message)
        else:
            self._bus.emit("job.done", **fields)
