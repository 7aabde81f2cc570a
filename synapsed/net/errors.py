"""What can go wrong between two peers.

SynapseError
 +- NetError                   anything of this package
     +- AddressError           text that is not an address we can dial
     +- PeerUnreachableError   no connection, and none could be made (why is in the text)
     +- ProtocolUnsupportedError   the peer is there and does not speak this protocol
     +- StreamClosedError      the other side, or we, ended the stream or the connection
     +- TimedOutError          it took longer than it may
     +- ListenError            our own address could not be bound
"""

from typing import ClassVar

from protocols.errors import SynapseError


class NetError(SynapseError):
    """Base of what the network raises."""

    code: ClassVar[str] = "net"


class AddressError(NetError):
    """Text that is not an address we can dial."""

    code = "bad-address"


class PeerUnreachableError(NetError):
    """No connection to the peer, and none could be made."""

    code = "peer-unreachable"


class WrongNetworkError(PeerUnreachableError):
    """Its handshake does not verify under our network's name."""

    code = "wrong-network"


class ProtocolUnsupportedError(NetError):
    """The peer does not speak this protocol."""

    code = "protocol-unsupported"


class StreamClosedError(NetError):
    """The stream has ended: `clean` where the peer ended it between two reads of ours."""

    code = "stream-closed"

    def __init__(self, message: str, *, remedy: str = "", clean: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.clean = clean


class TimedOutError(NetError):
    """It took longer than it may."""

    code = "timed-out"


class ListenError(NetError):
    """Our own address could not be bound."""

    code = "cannot-listen"
