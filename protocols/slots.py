"""The slots there are: the closed list of what an upgrade may replace.

Each is a policy that can be wrong without anything being forged, lost or leaked that the rest of
the daemon guards. What is not here is protected: consensus, identity, cryptography and the
council first of all (protocols/risk.py).
"""

from collections.abc import Mapping
from types import MappingProxyType

from protocols import (
    slot_adapter_ranking,
    slot_eviction,
    slot_peer_scoring,
    slot_tile_assignment,
)
from protocols.slot_abi import Slot

SLOTS: Mapping[str, Slot] = MappingProxyType(
    {
        slot.name: slot
        for slot in (
            slot_peer_scoring.SLOT,
            slot_tile_assignment.SLOT,
            slot_eviction.SLOT,
            slot_adapter_ranking.SLOT,
        )
    }
)
"""By name."""
