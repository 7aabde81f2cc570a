"""synapsed.net.addresses: one form of multiaddr, checked as libp2p's own parser does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from protocols.peerid import peer_id_of
from synapsed.net import AddressError
from synapsed.net.addresses import Address, is_local_host, of_socket, own_hosts, parse

hosts = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: ("ip4", str(ip))),
    st.ip_addresses(v=6).map(lambda ip: ("ip6", str(ip))),
    st.sampled_from(["example.org", "a", "x-1.test"]).map(lambda name: ("dns4", name)),
)
peers = st.one_of(st.none(), st.binary(min_size=32, max_size=32).map(peer_id_of))


@given(hosts, st.integers(0, 0xFFFF), peers)
def test_what_is_written_is_read_and_libp2p_agrees(
    host: tuple[str, str], port: int, peer: bytes | None
) -> None:
    address = Address(host[0], host[1], port, peer)
    assert parse(str(address)) == address
    assert parse(str(Multiaddr(str(address)))) == address


@given(st.text(max_size=60))
def test_anything_else_is_refused(text: str) -> None:
    try:
        address = parse(text)
    except AddressError:
        return
    assert str(parse(str(address))) == str(address)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.77.3.4", True),
        ("10.1.2.3", True),
        ("192.168.1.9", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("example.org", False),
    ],
)
def test_local_is_this_machine_or_a_private_network(host: str, local: bool) -> None:
    assert is_local_host(host) is local


def test_wildcards_and_port_zero_are_nothing_to_dial() -> None:
    assert not parse("/ip4/0.0.0.0/tcp/1").is_dialable
    assert not parse("/ip6/::/tcp/1").is_dialable
    assert not parse("/ip4/192.0.2.1/tcp/0").is_dialable
    assert parse("/dns/example.org/tcp/1").is_dialable
    assert of_socket("fe80::1%2", 5) == Address("ip6", "fe80::1", 5)


def test_this_machine_has_an_address() -> None:
    assert own_hosts()
