"""What an aggregator's sums are made of, kept so that anybody can make them again (audit.py)."""

from protocols.codec import encode
from protocols.effects import Save
from protocols.learn.aggregator_ports import KEEP_MS, MAX_KEPT, TABLE, Kept, sum_key
from protocols.learn.claims import Claim, Sum
from protocols.learn.messages import Proof
from protocols.learn.round_ports import Release


class Keeping:
    """Proofs by their sums' digests, the oldest first."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._kept: dict[bytes, Kept] = {}

    def restore(self, kept: Kept) -> None:
        """A row of our own disk, after a start."""
        self._kept[kept.proof.sum.made.digest] = kept

    def proof(self, digest: bytes) -> Proof | None:
        """Of a sum; None where it is kept no longer."""
        kept = self._kept.get(digest)
        return None if kept is None else kept.proof

    def keep(
        self, said: Sum, before: Sum | None, claims: tuple[Claim, ...], now_ms: int
    ) -> list[Save | Release]:
        """One more: what it was made of, and the sum whose rest it carries."""
        kept = Kept(now_ms + KEEP_MS, Proof(sum=said, before=before, claims=claims))
        self._kept[said.made.digest] = kept
        return [Save(TABLE, self._key(kept), encode(kept)), *self.forget(now_ms)]

    def forget(self, now_ms: int) -> list[Save | Release]:
        """Whatever is too old, or too much."""
        effects: list[Save | Release] = []
        for digest, kept in list(self._kept.items()):
            if kept.until_ms > now_ms and len(self._kept) <= MAX_KEPT:
                break
            del self._kept[digest]
            its = kept.proof.sum
            gone = [digest, *(entry.digest for entry in its.inputs)]
            if its.carry is not None:
                gone.append(its.carry.digest)
            effects += [Save(TABLE, self._key(kept), None), Release(tuple(gone))]
        return effects

    def _key(self, kept: Kept) -> bytes:
        made = kept.proof.sum.made
        return sum_key(self._model, made.group, made.number, made.digest)

    @property
    def due(self) -> int | None:
        """When the oldest is let go."""
        return next((kept.until_ms for kept in self._kept.values()), None)
