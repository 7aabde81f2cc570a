"""Numbers that look random and are the same everywhere for the same seed: for generators of test
inputs and for recorded sequences, never for secrets.

SplitMix64 (Steele, Lea and Flood 2014): one addition and a mix of 64 bits for each number.
"""

import hashlib

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


class Draw:
    """A stream of numbers."""

    __slots__ = ("_at",)

    def __init__(self, seed: bytes) -> None:
        self._at = int.from_bytes(hashlib.sha256(seed).digest()[:8], "big")

    def word(self) -> int:
        """64 bits."""
        self._at = z = (self._at + _GAMMA) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def integer(self, least: int, most: int) -> int:
        """From `least` to `most`, both included; the bias of 2^-64 of the span is nobody's."""
        # `word` written out: checks of modules draw a million of them.
        self._at = z = (self._at + _GAMMA) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return least + ((z ^ (z >> 31)) * (most - least + 1) >> 64)

    def chance(self, part: int, of: int) -> bool:
        """True `part` times in `of`."""
        return self.integer(1, of) <= part

    def size(self, most: int) -> int:
        """From 0 to `most`, each magnitude as often as the others: what bytes and times are."""
        return self.integer(0, most >> self.integer(0, max(1, most).bit_length()))
