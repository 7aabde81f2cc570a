"""Weighted rendezvous hashing: everybody who knows the nodes ranks them alike, for each key.

Each (key, node) draws u in (0, 1) from sha256; nodes are ranked by -log(u) / weight, least
first. So a node is first with probability proportional to its weight, a node that leaves moves
only what it had, and nobody needs to be asked.
Source: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates" (1998);
weights: C. Schindelhauer, G. Schomaker, "Weighted distributed hash tables" (SPAA 2005).

Logarithms of floats differ between machines in their last bit, and with them ranks. Here all is
integers: -log2(u) in fixed point, bit by bit.
"""

import hashlib
from collections.abc import Iterable

HASH_BITS = 64
FRACTION_BITS = 32
"""Of the logarithm."""
_WORK_BITS = 48
"""Bits of the mantissa while its logarithm is taken."""
MAX_WEIGHT = 1 << 48
"""So weights can be bytes of disk: 256 TiB."""


def log2_fixed(x: int) -> int:
    """log2(x) for x >= 1, times 2^FRACTION_BITS, rounded down.

    The mantissa is squared again and again; each time that it passes 2, the next bit of the
    logarithm is 1 (C. Turner, "A fast binary logarithm algorithm", IEEE SPM 2010). Cutting the
    squares to _WORK_BITS loses under 2^-45 in all, so the result is below the true logarithm by
    less than 1.0002 units of its last place.
    """
    if x < 1:
        raise ValueError("a logarithm of less than 1")
    whole = x.bit_length() - 1
    mantissa = x << _WORK_BITS >> whole  # in [1, 2), fixed point
    result = whole
    two = 2 << _WORK_BITS
    for _ in range(FRACTION_BITS):
        mantissa = mantissa * mantissa >> _WORK_BITS
        result <<= 1
        if mantissa >= two:
            mantissa >>= 1
            result |= 1
    return result


def cost(key: bytes, node: bytes, weight: int) -> int:
    """What `node` is ranked by for `key`, least first; `weight` is 1 to MAX_WEIGHT.

    `key` has a length of its own in the hash, so no (key, node) is another's.
    """
    if not 1 <= weight <= MAX_WEIGHT:
        raise ValueError(f"a weight of {weight}")
    drawn = hashlib.sha256(len(key).to_bytes(8, "big") + key + node).digest()
    u = int.from_bytes(drawn[: HASH_BITS // 8], "big") + 1  # 1 to 2^64, over 2^64
    minus_log = (HASH_BITS << FRACTION_BITS) - log2_fixed(u)
    # Shifted by MAX_WEIGHT's bits, so that division by the weight keeps the order's detail.
    return minus_log * MAX_WEIGHT // weight


def rank(key: bytes, nodes: Iterable[tuple[bytes, int]]) -> list[bytes]:
    """The nodes, first choice first. Those of weight 0 are not ranked; ties go by node."""
    costs = sorted((cost(key, node, weight), node) for node, weight in nodes if weight > 0)
    return [node for _, node in costs]
