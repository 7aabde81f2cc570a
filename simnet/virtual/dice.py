"""Chance, in parts: each purpose draws from a generator of its own.

So a purpose that draws more often than before does not shift what others draw, and a run that
is shortened keeps the rest of its bad luck.
"""

import hashlib
import random


def dice(seed: int, *purpose: object) -> random.Random:
    """The generator of one purpose in the world of one seed."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - a game, not a secret
