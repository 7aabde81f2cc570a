"""A region's deltas as one: the stated rule, which whoever checks a sum repeats."""

from collections.abc import Sequence
from typing import NamedTuple

from protocols.plan import CodecName, Phase
from synapsed.computeworker import codecs, robust
from synapsed.computeworker.decoded import decoded
from synapsed.computeworker.feedback import settings_of

LEFT: CodecName = "int8"
"""How what a sum left out is written down; what that rounds away is lost for good."""


class Summed(NamedTuple):
    """Two deltas of the group."""

    delta: bytes
    """Encoded as the round's deltas are."""
    left: bytes
    """What that leaves out: added to the region's next one."""


def summed(
    inputs: Sequence[robust.Given],
    counts: Sequence[int],
    carried: robust.Given | None,
    phase: Phase,
) -> Summed:
    """The robust mean of decoded `inputs` and what the sum before left out. Both parts follow from
    the arguments alone, to the bit. ValueError without inputs."""
    whole = robust.aggregate(inputs, counts).mean
    if carried is not None:
        before = decoded(carried)
        whole = [before.added(at, tile) for at, tile in enumerate(whole)]
    delta = codecs.encode_off(phase.up, whole, settings_of(phase))
    return Summed(delta, codecs.encode(LEFT, whole))
