"""Multiaddrs over TCP, as text and in parts.

The `multiaddr` package parses all protocols there are and takes 100 µs for it; we speak one form,
`/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/ID]`, and meet it in every heartbeat.
"""

import ipaddress
import re
import socket

import msgspec

from protocols.errors import MalformedError
from protocols.peerid import parse_peer_id, peer_id_text
from synapsed.net.errors import AddressError

MAX_ADDRESS_TEXT = 512
"""Characters: a DNS name has at most 253, a peer id 52."""

_FORM = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/]{1,253})/tcp/(\d{1,5})(?:/p2p/([^/]{1,64}))?")
_NAME = re.compile(r"[0-9A-Za-z_.-]+")


class Address(msgspec.Struct, frozen=True):
    """One address: a host (IP text, or a name where `kind` is dns...), a port, maybe a peer id."""

    kind: str
    host: str
    port: int
    peer: bytes | None = None

    def __str__(self) -> str:
        base = f"/{self.kind}/{self.host}/tcp/{self.port}"
        return base if self.peer is None else f"{base}/p2p/{peer_id_text(self.peer)}"

    def at(self, peer: bytes) -> "Address":
        """The same place, with `peer` expected there."""
        return msgspec.structs.replace(self, peer=peer)

    @property
    def is_local(self) -> bool:
        """On this machine or on a private network."""
        return self.kind.startswith("ip") and is_local_host(self.host)

    @property
    def is_dialable(self) -> bool:
        """Whether a dial can mean anything: not the wildcard address, not port 0."""
        if not self.port:
            return False
        return self.kind.startswith("dns") or not ipaddress.ip_address(self.host).is_unspecified


def is_local_host(host: str) -> bool:
    """Whether an IP address (text) is loopback, link-local or private."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return ip.is_loopback or ip.is_link_local or ip.is_private


def _bad(text: str, why: str) -> AddressError:
    return AddressError(
        f"{text[:80]!r} is not an address: {why}",
        remedy="an address is /ip4/192.0.2.1/tcp/4817 (or /ip6, /dns), at will with /p2p/PEER-ID",
    )


def parse(text: str) -> Address:
    """The parts of a multiaddr over TCP. Raises AddressError."""
    match = _FORM.fullmatch(text) if len(text) <= MAX_ADDRESS_TEXT else None
    if match is None:
        raise _bad(text, "not of the one form that we speak")
    kind, host, port, peer = match[1], match[2], int(match[3]), match[4]
    if port > 0xFFFF:
        raise _bad(text, f"there is no port {port}")
    try:
        if kind == "ip4":
            host = str(ipaddress.IPv4Address(host))
        elif kind == "ip6":
            host = str(ipaddress.IPv6Address(host))
        elif not _NAME.fullmatch(host):
            raise _bad(text, "not a host name")
        return Address(kind, host, port, None if peer is None else parse_peer_id(peer))
    except (ValueError, MalformedError) as error:
        raise _bad(text, str(error)) from error


def of_socket(host: str, port: int) -> Address:
    """The address of a socket's end."""
    bare = host.partition("%")[0]
    return Address("ip6" if ":" in bare else "ip4", bare, port)


def own_hosts() -> list[str]:
    """This machine's IP addresses, by which a wildcard listener is reached from outside."""
    # Connecting a datagram socket sends nothing and tells which address the system would use.
    found: list[str] = []
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:
                continue
            found.append(probe.getsockname()[0])
    return found or ["127.0.0.1"]
