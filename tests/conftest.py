"""Fixtures that many areas share."""

import pytest
from hypothesis import settings

# Shared, noisy machines: a slow example is not a wrong one.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("default")


@pytest.fixture
def seed_keys() -> list[bytes]:
    """Three fixed Ed25519 seeds, for tests whose bytes must not change."""
    return [bytes([n]) * 32 for n in (1, 2, 3)]
