"""The network: libp2p lives here and nowhere else.

`open_net` gives a `Net`: who is there, streams, gossip. Layers, from the wire up:

    wire, handshake     TCP, Noise with the network's name in its prologue
    muxstream, muxer    Yamux: many streams on one connection, with limits
    switch              all connections: dialling, admission, which of two is kept
    host, negotiate     what py-libp2p's other parts see; protocols are agreed on
    streams             exact reads, frames, time-outs, typed errors
    router, pubsub, gossip    gossipsub 1.1
    peers, discovery    whom we remember, and whom we look for
"""

from protocols.peerscore import Fault
from protocols.validation import Verdict
from synapsed.net.errors import (
    AddressError,
    ListenError,
    NetError,
    PeerUnreachableError,
    ProtocolUnsupportedError,
    StreamClosedError,
    TimedOutError,
)
from synapsed.net.network import Net, open_net
from synapsed.net.peers import MemoryTable, PeerBook
from synapsed.net.settings import NetSettings
from synapsed.net.streams import Handler, Stream
from synapsed.net.types import Deliver, Identity, Peer, Validate

__all__ = [
    "AddressError",
    "Deliver",
    "Fault",
    "Handler",
    "Identity",
    "ListenError",
    "MemoryTable",
    "Net",
    "NetError",
    "NetSettings",
    "Peer",
    "PeerBook",
    "PeerUnreachableError",
    "ProtocolUnsupportedError",
    "Stream",
    "StreamClosedError",
    "TimedOutError",
    "Validate",
    "Verdict",
    "open_net",
]
