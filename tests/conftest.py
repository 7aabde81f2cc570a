"""Fixtures that many areas share."""

import signal

import pytest
from hypothesis import settings

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that:
# those that tests interrupt must hear it wherever the tests were started from.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shared, noisy machines: a slow example is not a wrong one.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("default")


@pytest.fixture
def seed_keys() -> list[bytes]:
    """Three fixed Ed25519 seeds, for tests whose bytes must not change."""
    return [bytes([n]) * 32 for n in (1, 2, 3)]
