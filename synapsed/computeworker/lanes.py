"""Threads that take requests in order, one for each kind of work (synapsed/compute/wire.py)."""

import os
import queue
import threading
from collections.abc import Callable

from synapsed.computeworker.gate import Task

NICER = 5
"""How much the processor prefers the node's loop and inference to everything else."""

Job = Callable[[Task], None]


class Lane:
    """Runs jobs one after another in a thread of its own, which its first job starts."""

    def __init__(self, name: str, *, behind: bool) -> None:
        """`behind`: its work may wait for other processes."""
        self._name = name
        self._behind = behind
        self._jobs: queue.SimpleQueue[tuple[Task, Job]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, task: Task, job: Job) -> None:
        """Behind what is there."""
        self._jobs.put((task, job))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        if self._behind:  # Linux gives each thread a niceness of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICER)
        while True:
            task, job = self._jobs.get()
            job(task)
