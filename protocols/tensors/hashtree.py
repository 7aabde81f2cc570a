"""Hash trees in the shape of RFC 6962, and proofs for runs of leaves.

A tree over n hashes splits at the largest power of two below n; the tree over one hash is that
hash. Built bottom up that is: pair neighbours level by level, and an odd last one moves up as
it is. Leaves and inner nodes must come from different hash domains: the hasher sees to it.

A *run proof* for the leaves [lo, hi) lists what a verifier lacks, level by level from the
leaves: the left neighbour of the run where lo is odd, then the right neighbour where hi is odd
and there is one; then lo = lo // 2, hi = ceil(hi / 2), one level up. So it has at most
2 * ceil(log2(n)) hashes, none for the whole tree, and exactly one valid length.
Source: https://www.rfc-editor.org/rfc/rfc6962#section-2.1
"""

from collections.abc import Callable, Iterator, Sequence

from protocols.errors import MismatchError

HASH_BYTES = 32

Node = Callable[[bytes, bytes], bytes]
"""(left, right) -> the value of their parent."""


class ProofError(MismatchError):
    """Leaves and proof do not lead to the root."""

    code = "bad-proof"


def _above(node: Node, hashes: Sequence[bytes]) -> list[bytes]:
    """One level up: pairs joined, an odd last one as it is."""
    pairs = iter(hashes)
    level = [node(left, right) for left, right in zip(pairs, pairs, strict=False)]
    if len(hashes) % 2:
        level.append(hashes[-1])
    return level


def root_of(node: Node, hashes: Sequence[bytes]) -> bytes:
    """The root of the tree over `hashes` (at least one)."""
    while len(hashes) > 1:
        hashes = _above(node, hashes)
    return hashes[0]


def _neighbours(count: int, lo: int, hi: int) -> Iterator[tuple[int, int | None, int | None]]:
    """For each level below the root: its height, and the indexes that a run proof lists."""
    height = 0
    while count > 1:
        left = lo - 1 if lo % 2 else None
        right = hi if hi % 2 and hi < count else None
        yield height, left, right
        count, lo, hi, height = -(-count // 2), lo // 2, -(-hi // 2), height + 1


def proof_length(count: int, lo: int, hi: int) -> int:
    """Hashes in the proof for the run [lo, hi) of a tree over `count`."""
    return sum(
        (left is not None) + (right is not None) for _, left, right in _neighbours(count, lo, hi)
    )


class Tree:
    """A tree with all its levels in memory (2n hashes), so that a proof costs O(log n)."""

    def __init__(self, node: Node, hashes: Sequence[bytes]) -> None:
        if not hashes:
            raise ValueError("a tree has at least one leaf")
        self._levels = [hashes]
        while len(self._levels[-1]) > 1:
            self._levels.append(_above(node, self._levels[-1]))
        self.count = len(hashes)
        self.root = self._levels[-1][0]

    def prove(self, lo: int, hi: int) -> list[bytes]:
        """The proof for the run [lo, hi), which is not empty and within the tree."""
        return [
            self._levels[height][index]
            for height, left, right in _neighbours(self.count, lo, hi)
            for index in (left, right)
            if index is not None
        ]


def root_of_run(
    node: Node, count: int, run: tuple[int, int], hashes: Sequence[bytes], proof: Iterator[bytes]
) -> bytes:
    """The root of a tree over `count` that a run's `hashes` and the next of `proof` lead to.

    Takes exactly `proof_length(count, *run)` from `proof`; raises ProofError if it ends early.
    """
    level = list(hashes)
    for _, left, right in _neighbours(count, *run):
        try:
            if left is not None:
                level.insert(0, next(proof))
            if right is not None:
                level.append(next(proof))
        except StopIteration:
            raise ProofError("a proof ends early") from None
        level = _above(node, level)
    return level[0]
