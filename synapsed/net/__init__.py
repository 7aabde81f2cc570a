"""The network: libp2p lives here and nowhere else.

`open_net` gives a `Net`: who is there, streams, gossip. Layers, from the wire up:

    wire, handshake           TCP, Noise with the network's name in its prologue
    muxstream, muxer          Yamux: many streams on one connection, with limits
    connection, admission     one peer; who is let in, and which of two connections is kept
    switch                    all of them: listening and dialling
    negotiate, streams        protocols are agreed on; exact reads, frames, time-outs
    host                      what py-libp2p's other parts see
    pubsub, router, gossip    gossipsub 1.1
    peers, keeper             what we remember of everybody; pings, and who is gone
    discovery, dht, mdns      whom we look for, and where

py-libp2p 0.8.1 is the base, and what follows is what a daemon must not inherit from it. Each row
has a guard, and a test in tests/test_net_guards_*.py that shows the defect on the bare library:
once upstream mends one, its `test_bare_...` fails, and the guard can go.

    an exception in any handler ends the process             switch.handle_stream, pubsub (guard)
    inbound connections end after 250 in a lifetime          switch, admission
    a restart loses our gossip                               pubsub: sequence numbers
    a quick re-dial wedges pubsub                            pubsub: _keep_stream
    10 messages a second, ours included                      pubsub: Neighbour
    a heartbeat of 120 s, that slows down                    router: heartbeat
    a subscriber's queue holds 32                            pubsub: drain
    validators know true and false only, and cache           pubsub: _judge
    one RPC of 6,500 bad signatures stalls the loop          pubsub: MAX_RPC, MAX_MESSAGES
    inbound streams and unread bytes have no cap             muxer, muxstream: BufferBudget
    a peer may send beyond its window                        muxstream: on_body
    a cancelled write breaks the connection                  muxer: _write_loop
    scores are off, and forgotten                            peers, protocols/peerscore
    a thread and the wall clock                              pubsub: SeenCache
    a key file of any mode                                   synapsed/keys.py
    one file descriptor leaks per host                       switch: bind
    a dial takes 250 ms                                      handshake: open_tcp
    two hosts share a port silently                          switch: bind
    a stranger says how much memory to ask for               negotiate: MAX_LINE
    the DHT stores megabytes for whoever asks                dht: _answer
"""

from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from synapsed.net.errors import (
    AddressError,
    ListenError,
    NetError,
    PeerUnreachableError,
    ProtocolUnsupportedError,
    StreamClosedError,
    TimedOutError,
    WrongNetworkError,
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
    "WrongNetworkError",
    "open_net",
]
