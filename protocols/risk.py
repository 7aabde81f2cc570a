"""How risky a proposal is: computed from what it touches, whatever its author says.

low       style: words that nothing acts upon
medium    domain: bounds of traffic, adapters, datasets    decided by the vote
high      core: quotas, work, models                       ... and approved by a person
critical  kernel: the council's and the vote's own rules, human keys, native code
"""

import enum


class Risk(enum.IntEnum):
    """In rising order."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        """As it stands in parameters' names and replies."""
        return self.name.lower()


ADOPTED = {
    "adapter": Risk.MEDIUM,
    "dataset": Risk.MEDIUM,
    "expert": Risk.MEDIUM,
    "model": Risk.HIGH,
    "kernel": Risk.CRITICAL,
}
"""By the kind of the manifest that a proposal would have daemons adopt; members' verdicts say
whether it is of that kind. A kernel is native code."""

TRAINED = Risk.MEDIUM
"""To train a model, or to take a checkpoint for what it has come to. What a checkpoint may do is
bounded by what members measure, and the loss that they measure shows no back door: so it is voted
on as an adapter is."""

REPLACEABLE = {
    "adapter_ranking": Risk.MEDIUM,  # which adapter is tried first
    "eviction": Risk.MEDIUM,  # what goes when the disk is full
    "tile_assignment": Risk.MEDIUM,  # which peer is asked for what
    "peer_scoring": Risk.HIGH,  # with whom a daemon keeps talking
}
"""Components that a vote may replace: policies, each of which can be wrong without anything being
forged, lost or leaked that the others guard. The list is closed. What is not on it is protected:
consensus, identity, cryptography and the council first of all."""

HIGHEST_ABI = {
    "adapter_ranking": 1,
    "eviction": 1,
    "tile_assignment": 1,
    "peer_scoring": 1,
}
"""Of the layouts that each has had in any release. Like the list itself it is a rule of the
ledger: what was allowed once stays so for whoever reads the ledger later."""


def protected(component: str) -> bool:
    """Whether no vote can replace a component."""
    return component not in REPLACEABLE
