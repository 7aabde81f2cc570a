"""Fixtures that many areas share."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import settings

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that:
# those that tests interrupt must hear it wherever the tests were started from.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared, noisy machines: a slow example is not a wrong one.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _no_threads_beside_a_clock_that_jumps(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a clock does not wait for a thread: on a busy machine hours would pass in one."""

    async def run_sync(work: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.fixture
def seed_keys() -> list[bytes]:
    """Three fixed Ed25519 seeds, for tests whose bytes must not change."""
    return [bytes([n]) * 32 for n in (1, 2, 3)]
