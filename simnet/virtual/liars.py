"""Members that lie. Each is an honest daemon whose words are changed on their way out.

A liar has its own keys and no others', hears what anybody sends it, and is fewer than a third.
liarlead.py has those that lie as leaders, liarserve.py those that lie as members.
"""

from simnet.virtual.kits import Kit
from simnet.virtual.liar import Liar
from simnet.virtual.liarlead import (
    Censor,
    Dawdler,
    Equivocator,
    Garbler,
    Mute,
    Rewinder,
    Starver,
    Unsigned,
)
from simnet.virtual.liarserve import (
    Boaster,
    Flooder,
    Forger,
    Hasty,
    Replayer,
    Whisperer,
    Withholder,
    YesMan,
)
from simnet.virtual.node import Boot
from simnet.virtual.roles import TWINS

LIARS: dict[str, type[Liar]] = {
    TWINS: Liar,  # each is as honest as it can be
    "mute": Mute,
    "starver": Starver,
    "censor": Censor,
    "dawdler": Dawdler,
    "rewinder": Rewinder,
    "equivocator": Equivocator,
    "unsigned": Unsigned,
    "garbler": Garbler,
    "withholder": Withholder,
    "yes-man": YesMan,
    "forger": Forger,
    "replayer": Replayer,
    "hasty": Hasty,
    "whisperer": Whisperer,
    "flooder": Flooder,
    "boaster": Boaster,
}
"""Kinds of liars. Twins are two daemons with one identity and one seat key, each seen by some
(Bano et al., "Twins: BFT systems made robust", OPODIS 2021): `roles`, and the fault `reface`."""


def lying(kit: Kit, kind: str) -> Boot:
    """How a liar of a kind starts."""
    made = LIARS[kind]
    return lambda node: made(node, kit)
