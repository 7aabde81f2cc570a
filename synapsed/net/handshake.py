"""From a TCP socket to an authenticated, multiplexed connection: Noise and Yamux, nothing else.

The Noise prologue names the network, so peers of two networks cannot even decrypt each other's
second message: no daemon ever talks to a stranger network's. (js-libp2p: `prologueBytes`.)
"""

import logging
import socket

import trio
from cryptography.exceptions import InvalidTag
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.secure_session import SecureSession
from noise.exceptions import (  # type: ignore[import-untyped]  # ships no types
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseMaxNonceError,
    NoiseValidationError,
    NoiseValueError,
)

from protocols.errors import MalformedError
from synapsed.net.addresses import Address
from synapsed.net.errors import AddressError, NetError, PeerUnreachableError
from synapsed.net.muxer import PROTOCOL_ID as YAMUX_ID
from synapsed.net.negotiate import OnConnection, agree, propose
from synapsed.net.wire import NoiseWire

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
"""Seconds for all of it: six round trips, and a slow machine's signatures."""

CONNECT_TIMEOUT = 5.0
"""Seconds for TCP: one lost SYN is retried after 1, the next after 3 (RFC 6298)."""

_IP_BIND_ADDRESS_NO_PORT = 24
"""Linux: choose the source port at connect(), so that many dials from one address fit."""

HANDSHAKE_ERRORS = (
    BaseLibp2pError,
    MalformedError,
    NetError,
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseMaxNonceError,
    NoiseValidationError,
    NoiseValueError,
    InvalidTag,
    ValueError,  # malformed keys, protobufs and texts
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)
"""What the other side can make the libraries raise during a handshake."""


def prologue(network: str) -> bytes:
    """Noise's prologue of a network."""
    return b"synapse:" + network.encode()


async def open_tcp(address: Address, source: str) -> trio.SocketStream:
    """Connect to `address`, from the address `source` if it is not empty.

    Raises PeerUnreachableError. One address, one dial: py-libp2p would wait 250 ms for others.
    """
    if address.kind.startswith("dns"):
        targets = await _resolve(address)
    else:
        family = socket.AF_INET6 if address.kind == "ip6" else socket.AF_INET
        targets = [(family, address.host)]
    why = "no address"
    for family, host in targets:
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                return await _connect(family, host, address.port, source)
        except trio.TooSlowError:
            why = f"no answer within {CONNECT_TIMEOUT:.0f} s"
        except OSError as error:
            why = error.strerror or str(error)
    raise PeerUnreachableError(
        f"cannot connect to {address}: {why}",
        remedy="is the daemon there running, and the port open?",
    )


async def _resolve(address: Address) -> list[tuple[socket.AddressFamily, str]]:
    family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.kind, 0)
    try:
        with trio.fail_after(CONNECT_TIMEOUT):
            found = await trio.socket.getaddrinfo(
                address.host, address.port, family=family, type=socket.SOCK_STREAM
            )
    except (OSError, trio.TooSlowError) as error:
        raise PeerUnreachableError(
            f"cannot resolve {address.host}: {error or 'no answer'}",
            remedy="is the name right, and the network up?",
        ) from error
    return [(entry[0], str(entry[4][0])) for entry in found]


async def _connect(
    family: socket.AddressFamily, host: str, port: int, source: str
) -> trio.SocketStream:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        if source:
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            await sock.bind((source, 0))
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class Handshaker:
    """Our side of every handshake."""

    def __init__(self, key_pair: KeyPair, network: str) -> None:
        self._key_pair = key_pair
        self._own = ID.from_pubkey(key_pair.public_key)
        self._static = new_x25519_key_pair().private_key
        self._prologue = prologue(network)

    def _pattern(self) -> PatternXX:
        return PatternXX(
            self._own, self._key_pair.private_key, self._static, prologue=self._prologue
        )

    async def dial(self, stream: trio.SocketStream, peer: bytes | None) -> tuple[NoiseWire, ID]:
        """Secure a connection of ours; `peer`, if given, must be who answers.

        Raises one of HANDSHAKE_ERRORS, or trio.TooSlowError.
        """
        raw = RawConnection(TrioTCPStream(stream), True)
        with trio.fail_after(HANDSHAKE_TIMEOUT):
            await propose(OnConnection(raw), (NOISE_ID,))
            expected = None if peer is None else ID(peer)
            session = await self._pattern().handshake_outbound(raw, expected)
            assert isinstance(session, SecureSession)
            if session.get_remote_peer() == self._own:
                raise AddressError("that address is our own")
            await propose(OnConnection(session), (YAMUX_ID,))
        return NoiseWire(session), session.get_remote_peer()

    async def answer(self, stream: trio.SocketStream) -> tuple[NoiseWire, ID]:
        """Secure a connection of somebody else's. Raises as `dial` does."""
        raw = RawConnection(TrioTCPStream(stream), False)
        with trio.fail_after(HANDSHAKE_TIMEOUT):
            await agree(OnConnection(raw), (NOISE_ID,))
            session = await self._pattern().handshake_inbound(raw)
            assert isinstance(session, SecureSession)
            await agree(OnConnection(session), (YAMUX_ID,))
        return NoiseWire(session), session.get_remote_peer()
