"""Addresses as the config has them: checked as text, because libp2p has its home in `net/`."""

import ipaddress
import re
from typing import ClassVar, Self

from protocols.errors import MalformedError
from protocols.peerid import parse_peer_id


class Address(str):
    """The text of a TCP multiaddr: `/ip4/192.0.2.1/tcp/4817`, at will with `/p2p/PEER-ID`."""

    __slots__ = ()
    expected: ClassVar[str] = 'an address such as "/ip4/192.0.2.1/tcp/4817" (or /ip6, /dns)'

    @classmethod
    def parse(cls, value: object) -> Self:
        """Checked text; ValueError where it is not an address over TCP."""
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not an address")
        match = re.fullmatch(
            r"/(ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d{1,5})(?:/p2p/([^/]+))?", value
        )
        if match is None or int(match[3]) > 0xFFFF:
            raise ValueError(f"{value!r} is not an address over TCP")
        if match[1] == "ip4":
            ipaddress.IPv4Address(match[2])
        elif match[1] == "ip6":
            ipaddress.IPv6Address(match[2])
        if match[4] is not None:
            try:
                parse_peer_id(match[4])
            except MalformedError as error:
                raise ValueError(str(error)) from error
        return cls(value)

    @property
    def peer(self) -> str | None:
        """The peer id that it ends in, as text."""
        _, found, peer = self.partition("/p2p/")
        return peer if found else None


class IpText(str):
    """An IP address to dial from, or nothing."""

    __slots__ = ()
    expected: ClassVar[str] = 'an IP address of this machine such as "192.168.1.20", or ""'

    @classmethod
    def parse(cls, value: object) -> Self:
        """Checked text; ValueError where it is neither an IP address nor empty."""
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not an IP address")
        if value:
            ipaddress.ip_address(value)
        return cls(value)
