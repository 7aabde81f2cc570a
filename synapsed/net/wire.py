"""Noise's record layer on a TCP socket: what carries the multiplexer once the handshake is done.

py-libp2p does the handshake; after it, its stack reads a record with two system calls of a few
bytes each and copies what it read six times. Here one call takes all that has arrived, and
records are sealed straight into the buffer that is sent.
"""

import logging
import socket
import struct

import trio
from cryptography.exceptions import InvalidTag
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession

log = logging.getLogger(__name__)

MAX_PLAINTEXT = 65519
"""Bytes of plaintext in one record: 65535 less 16 of authentication (Noise, section 3)."""

MIN_RECEIVE, MAX_RECEIVE = 16 * 1024, 256 * 1024
"""Bytes asked of the socket at once: little while it is idle, four full records in bulk."""

NOTSENT_LOWAT = 128 * 1024
"""Bytes that the kernel may hold unsent before it asks us to wait: without it megabytes of a bulk
transfer stand between a heartbeat and a slow uplink."""

_LENGTH = 2
_TAG = 16
_NONCE = struct.Struct("<4xQ")


class WireError(Exception):
    """The connection is over: closed, broken, or not what was agreed on."""


class NoiseWire:
    """An authenticated connection as a sequence of plaintext records."""

    def __init__(self, session: SecureSession) -> None:
        """Takes over a session after its handshake; nobody else may read or write it then."""
        records = session.conn
        if not isinstance(records, NoiseTransportReadWriter):
            raise TypeError("a wire needs a Noise session")
        raw = records.read_writer.read_write_closer
        if not isinstance(raw, RawConnection) or not isinstance(raw.stream, TrioTCPStream):
            raise TypeError("a wire needs a TCP connection")
        noise = records.noise_state.noise_protocol
        self._stream = raw.stream.stream
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
        self._seal, self._seal_nonce = noise.cipher_state_encrypt.cipher.cipher, 0
        self._open, self._open_nonce = noise.cipher_state_decrypt.cipher.cipher, 0
        # Records went both ways already, while the multiplexer was agreed on.
        self._seal_nonce = noise.cipher_state_encrypt.n
        self._open_nonce = noise.cipher_state_decrypt.n
        self._tail = b""
        self._early = session._drain(None)
        self._ask = MIN_RECEIVE
        self.remote = raw.stream.get_remote_address() or ("", 0)
        self.received = 0
        """Bytes read off the socket, in all."""
        self.sent = 0

    async def receive(self) -> list[bytes]:
        """The records that arrived, at least one. WireError when there will be none."""
        if self._early:
            early, self._early = self._early, b""
            return [early]
        while True:
            try:
                data = await self._stream.receive_some(self._ask)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise WireError("the connection broke") from error
            if not data:
                raise WireError("the peer closed the connection")
            self.received += len(data)
            full = len(data) == self._ask
            self._ask = min(2 * self._ask, MAX_RECEIVE) if full else MIN_RECEIVE
            records = self._unpack(self._tail + data if self._tail else data)
            if records:
                return records

    def _unpack(self, data: bytes) -> list[bytes]:
        view = memoryview(data)
        records = []
        at, end = 0, len(data)
        while end - at >= _LENGTH:
            stop = at + _LENGTH + (data[at] << 8 | data[at + 1])
            if stop > end:
                break
            try:
                plain = self._open.decrypt(
                    _NONCE.pack(self._open_nonce), view[at + _LENGTH : stop], None
                )
            except (InvalidTag, ValueError) as error:
                raise WireError("a record does not authenticate") from error
            self._open_nonce += 1
            records.append(plain)
            at = stop
        self._tail = data[at:]
        return records

    def seal_into(self, plain: memoryview, out: memoryview) -> int:
        """Seal one record (at most MAX_PLAINTEXT bytes) into `out`; returns its length."""
        size = len(plain) + _TAG
        out[0] = size >> 8
        out[1] = size & 0xFF
        self._seal.encrypt_into(
            _NONCE.pack(self._seal_nonce), plain, None, out[_LENGTH : _LENGTH + size]
        )
        self._seal_nonce += 1
        return _LENGTH + size

    async def send(self, sealed: memoryview) -> None:
        """Send sealed records. If this is cancelled half way the wire is of no use any more."""
        try:
            await self._stream.send_all(sealed)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WireError("the connection broke") from error
        self.sent += len(sealed)

    async def aclose(self) -> None:
        """Close the socket."""
        await trio.aclose_forcefully(self._stream)


def sealed_size(plain: int) -> int:
    """Bytes on the wire of a record of `plain` bytes."""
    return _LENGTH + plain + _TAG
