"""Peers of the same network on the same LAN, by multicast DNS.

The form is libp2p's (TXT records `dnsaddr=<multiaddr>`), under a service name that stands for the
network, so that daemons of other networks do not even see each other. zeroconf runs asyncio in a
thread of its own; what it finds is handed over to trio's thread.
Source: https://github.com/libp2p/specs/blob/master/discovery/mdns.md
"""

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from synapsed.net.addresses import own_hosts, parse
from synapsed.net.errors import AddressError

log = logging.getLogger(__name__)

LOOKUP_MS = 3000
"""How long the details of a found service may take."""

MAX_ADDRS = 8
"""Addresses taken from one answer."""

Found = Callable[[bytes, list[str]], None]
"""(peer id, addresses). Called in trio's thread."""


def service_type(network: str) -> str:
    """The DNS-SD service of a network; a label has at most 15 characters (RFC 6335)."""
    return f"_synapse-{hashlib.sha256(network.encode()).hexdigest()[:6]}._udp.local."


def read_properties(properties: dict[bytes, bytes | None]) -> dict[bytes, list[str]]:
    """Peer id -> addresses, of the `dnsaddr` entries that are addresses with a peer id."""
    found: dict[bytes, list[str]] = {}
    texts = [v for k, v in sorted(properties.items()) if k.startswith(b"dnsaddr") and v]
    for text in texts[:MAX_ADDRS]:
        try:
            address = parse(text.decode("ascii", errors="replace"))
        except AddressError:
            continue
        if address.peer is not None:
            found.setdefault(address.peer, []).append(str(address))
    return found


class _Session:
    """zeroconf's side; everything but `_changed` is called in a worker thread."""

    def __init__(self, network: str, addrs: tuple[str, ...], port: int, tell: Found) -> None:
        self._type = service_type(network)
        self._tell = tell
        name = secrets.token_hex(16)
        self._info = ServiceInfo(
            self._type,
            f"{name}.{self._type}",
            port=port,
            server=f"{name}.local.",
            parsed_addresses=own_hosts(),  # zeroconf resolves nothing that has none
            properties={f"dnsaddr{at or ''}": addr for at, addr in enumerate(addrs[:MAX_ADDRS])},
        )
        self._zeroconf = Zeroconf()
        self._browser: ServiceBrowser | None = None

    def start(self) -> None:
        self._zeroconf.register_service(self._info)
        self._browser = ServiceBrowser(self._zeroconf, self._type, handlers=[self._changed])

    def _changed(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        if state_change is ServiceStateChange.Removed or name == self._info.name:
            return
        info = zeroconf.get_service_info(service_type, name, LOOKUP_MS)
        if info is not None:
            for peer, addrs in read_properties(info.properties).items():
                self._tell(peer, addrs)

    def stop(self) -> None:
        self._zeroconf.close()


async def announce_and_browse(
    network: str, addrs: tuple[str, ...], port: int, found: Found
) -> None:
    """Be found, and find others, until cancelled; returns at once where mDNS does not work."""
    token = trio.lowlevel.current_trio_token()
    stopped = False

    def tell(peer: bytes, texts: list[str]) -> None:
        if not stopped:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(found, peer, texts)

    session: _Session | None = None
    try:
        session = await trio.to_thread.run_sync(_Session, network, addrs, port, tell)
        # Asking whether the name is free takes a second.
        await trio.to_thread.run_sync(session.start)
        await trio.sleep_forever()
    except (OSError, ZeroconfError) as error:
        log.warning("no mDNS here: %s", error)
    finally:
        stopped = True
        if session is not None:
            # Saying goodbye to the LAN takes another, for which nobody waits.
            threading.Thread(target=session.stop, name="mdns-stop", daemon=True).start()
