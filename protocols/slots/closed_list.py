"""The slots there are: the closed list of what an upgrade may replace.

Each is a policy that can be wrong without anything being forged, lost or leaked that the rest of
the daemon guards. What is not here is protected: consensus, identity, cryptography and the
council first of all (protocols/risk.py).
"""

from collections.abc import Mapping
from types import MappingProxyType

from protocols.slots import adapter_ranking, eviction, peer_scoring, tile_assignment
from protocols.slots.abi import Slot

SLOTS: Mapping[str, Slot] = MappingProxyType(
    {
        slot.name: slot
        for slot in (
            peer_scoring.SLOT,
            tile_assignment.SLOT,
            eviction.SLOT,
            adapter_ranking.SLOT,
        )
    }
)
"""By name."""
