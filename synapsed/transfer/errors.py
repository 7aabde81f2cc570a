"""What can go wrong with a transfer.

SynapseError
 +- TransferError
     +- PullFailedError        a pull cannot be completed: why, and who was asked
     +- StoppedError           the owner removed what was being pulled
     +- PeerError              one peer failed us; a pull goes on without it
         +- PeerRefusedError   it said no, in words
"""

from collections.abc import Mapping
from typing import ClassVar

from protocols.errors import MismatchError, SynapseError
from protocols.gossip.peerscore import Fault
from protocols.peerid import peer_id_text
from protocols.tensors.blocks import Refusal
from synapsed.net.errors import (
    NetError,
    PeerUnreachableError,
    ProtocolUnsupportedError,
    TimedOutError,
)


class TransferError(SynapseError):
    """Anything of this package."""

    code: ClassVar[str] = "transfer"


class PullFailedError(TransferError):
    """A pull that cannot be completed now; `peers` says what was wrong with each one asked."""

    code = "pull-failed"

    def __init__(self, what: str, peers: Mapping[bytes, str]) -> None:
        asked = "; ".join(f"{peer_id_text(peer)}: {why}" for peer, why in sorted(peers.items()))
        super().__init__(
            f"{what}; {'asked ' + asked if asked else 'nobody is known to have it'}",
            remedy="what arrived is kept: pull again when more holders are connected",
        )
        self.peers = dict(peers)


class StoppedError(TransferError):
    """The owner removed what was being pulled."""

    code = "stopped"


class PeerError(TransferError):
    """One peer failed us. `fault` is what to blame it for (None: nothing)."""

    code = "peer"

    def __init__(self, why: str, fault: Fault | None) -> None:
        super().__init__(why)
        self.fault = fault


class PeerRefusedError(PeerError):
    """It refused: `refusal` has its code, and when to ask again."""

    code = "peer-refused"

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"it refused: {refusal.code}", None)
        self.refusal = refusal


# The first that fits. Whoever does not speak the protocol is no worse than one who is away.
_NET_FAULTS: tuple[tuple[type[NetError], Fault], ...] = (
    (PeerUnreachableError, Fault.UNREACHABLE),
    (ProtocolUnsupportedError, Fault.UNREACHABLE),
    (TimedOutError, Fault.TIMEOUT),
    (NetError, Fault.CLOSED),
)


def peer_error(error: SynapseError) -> PeerError:
    """What an error of the net or of a check says about the peer that caused it."""
    if isinstance(error, PeerError):
        return error
    for kind, fault in _NET_FAULTS:
        if isinstance(error, kind):
            return PeerError(error.message, fault)
    mismatch = isinstance(error, MismatchError)
    return PeerError(error.message, Fault.MISMATCH if mismatch else Fault.MALFORMED)
