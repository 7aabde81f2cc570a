"""Trainings on the ledger, as plain data: how a model is trained, and what it has come to.

A training goes by its *lineage*, the model that it began from. Its *head* is the last checkpoint
that the council found better than the one before: what newcomers pull, and `generate` uses.
"""

from collections.abc import Mapping

from protocols.ledger.entries import NO_INTERVAL, Interval, Row
from protocols.plan import Plan

MAX_TRAININGS = 64
"""Models that one network trains at a time."""
MAX_CHAIN = 256
"""Checkpoints of a training that are remembered here, the newest: the ledger has them all."""
MAX_CONTRIBUTORS = 4096
"""Of one training whose parts of a credit are kept: who has least of one makes room."""
EXCLUDED = 8
"""Epochs without an office for whoever was caught, and for which it can be said: a day each."""
LOST = 500
"""Thousandths of its reputation that an exclusion costs. A group's liar earns by false shares what
an eighth of a training's groups are worth, for some epochs; half of all is more than that for whom
the draws give a group at all. Not all of it, and not for ever: a card with a broken memory computes
wrongly, too, and its owner does not know."""
NO_ROUNDS = bytes(32)
"""Stands for the digest of heads where no round was made yet."""


class Ratified(Row, frozen=True):
    """A checkpoint that was accepted."""

    manifest: bytes
    proposal: bytes
    index: int
    """Of the outcome."""
    heads: bytes
    """Digest of where all groups' rounds stood in it (learn/evidence.py)."""
    interval: Interval


class Contribution(Row, frozen=True):
    """What one identity has done for a training."""

    identity: bytes
    milli: int
    """Thousandths of credits that it earned in all; whole ones are minted as they come."""


class Training(Row, frozen=True):
    """A model that is trained."""

    model: bytes
    """The lineage."""
    plan: Plan
    evaluation: bytes
    windows: int
    margin: int
    proposal: bytes
    """That brought this plan,"""
    index: int
    """... by the outcome at this index."""
    opened: int
    """Index of the outcome that opened the training."""
    ratified: int
    """Checkpoints accepted in all."""
    chain: tuple[Ratified, ...]
    """The newest of them, the last one last."""
    contributions: tuple[Contribution, ...]
    """By rising identity."""

    @property
    def head(self) -> bytes:
        """The manifest that newcomers pull."""
        return self.chain[-1].manifest if self.chain else self.model

    @property
    def heads(self) -> bytes:
        """Where the rounds stood in the head."""
        return self.chain[-1].heads if self.chain else NO_ROUNDS

    @property
    def interval(self) -> Interval:
        """By how much the head is better than its parent."""
        return self.chain[-1].interval if self.chain else NO_INTERVAL


class Exclusion(Row, frozen=True):
    """Who serves no tile group and no region until an epoch comes."""

    identity: bytes
    training: bytes
    """In which it was caught,"""
    epoch: int
    """... for something of this epoch."""
    until: int
    """The first epoch in which it may serve again."""
    lost: int
    """Of its reputation."""
    proposal: bytes
    index: int
    """Of the outcome."""


def head_of(trainings: Mapping[bytes, Training], model: bytes) -> bytes:
    """What stands for a model now: its training's head, of a lineage or of any checkpoint that is
    remembered; itself where it is in no training."""
    training = trainings.get(lineage_of(trainings, model) or b"")
    return model if training is None else training.head


def lineage_of(trainings: Mapping[bytes, Training], model: bytes) -> bytes | None:
    """The training that a model began, or is a ratified checkpoint of."""
    if model in trainings:
        return model
    for lineage, training in sorted(trainings.items()):
        if any(each.manifest == model for each in training.chain):
            return lineage
    return None
