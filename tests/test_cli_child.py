"""The command line in a forked process, as the other tests run it."""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import forkserver

from tests import cli_child


def _run(*arguments: str) -> int:
    return cli_child.run(list(arguments), dict(os.environ), b"")[0]


def test_a_run_that_starts_as_another_ends_takes_no_exit_code_from_it(monkeypatch):
    read = forkserver.read_signed
    reads: list[int] = []
    later: list[Future[int]] = []

    def read_late(fd: int) -> int:
        reads.append(fd)
        if len(reads) == 2:  # the first run's exit code is there; its process number was read
            later.append(threads.submit(_run, "--version"))
            time.sleep(0.5)
        return read(fd)

    monkeypatch.setattr(forkserver, "read_signed", read_late)
    with ThreadPoolExecutor(1) as threads:
        assert _run("--wrong") == 2
    assert [one.result() for one in later] == [0]
    assert len(reads) == 4, "each number is read once"
