"""The chain of entries: any change changes its head, and short proofs lead down it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ledger.chain import (
    MAX_PATH,
    BrokenPathError,
    Head,
    Header,
    Spine,
    ancestor,
    chain_hash,
    path,
    payload_hash,
)

NETWORK = "test"


def build(count: int, network: str = NETWORK) -> tuple[list[Header], list[bytes]]:
    """A chain of `count` entries above the genesis: headers (1 to count), hashes (0 to count)."""
    spine = Spine.begin(network, b"genesis")
    headers, hashes = [], [spine.head.hash]
    for number in range(1, count + 1):
        header = spine.next_header(1, b"entry %d" % number)
        spine = spine.extended(network, header)
        headers.append(header)
        hashes.append(spine.head.hash)
    return headers, hashes


HEADERS, HASHES = build(300)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_path_leads_from_any_head_to_any_entry_below(a: int, b: int) -> None:
    low, high = sorted((a, b))
    proof = path(lambda index: HEADERS[index - 1], high, low)
    assert ancestor(NETWORK, Head(high, HASHES[high]), proof, low) == HASHES[low]
    assert len(proof) <= 45  # (9 bits)² / 2


@given(st.integers(1, 300), st.data())
def test_a_changed_header_breaks_the_path(high: int, data: st.DataObject) -> None:
    low = data.draw(st.integers(0, high - 1))
    proof = path(lambda index: HEADERS[index - 1], high, low)
    at = data.draw(st.integers(0, len(proof) - 1))
    field = data.draw(st.sampled_from(Header.__struct_fields__))
    value = getattr(proof[at], field)
    wrong = value + 1 if isinstance(value, int) else bytes((value[0] ^ 1,)) + value[1:]
    proof[at] = msgspec.structs.replace(proof[at], **{field: wrong})
    with pytest.raises(BrokenPathError):
        ancestor(NETWORK, Head(high, HASHES[high]), proof, low)


def test_a_path_that_is_cut_off_or_too_long_or_goes_up_is_refused() -> None:
    proof = path(lambda index: HEADERS[index - 1], 300, 7)
    top = Head(300, HASHES[300])
    for bad in (proof[:-1], proof[1:], [*proof, HEADERS[6]], proof * MAX_PATH):
        with pytest.raises(BrokenPathError):
            ancestor(NETWORK, top, bad, 7)
    with pytest.raises(BrokenPathError):
        ancestor(NETWORK, Head(7, HASHES[7]), [], 8)


def test_every_field_and_the_network_are_in_the_hash() -> None:
    header = HEADERS[10]
    names = {chain_hash(NETWORK, header), chain_hash("other", header)}
    for field in Header.__struct_fields__:
        value = getattr(header, field)
        wrong = value + 1 if isinstance(value, int) else bytes(32)
        names.add(chain_hash(NETWORK, msgspec.structs.replace(header, **{field: wrong})))
    assert len(names) == 2 + len(Header.__struct_fields__)
    assert header.payload == payload_hash(b"entry 11")


def test_a_spine_keeps_at_most_one_ancestor_a_bit() -> None:
    spine = Spine.begin(NETWORK, b"genesis")
    for number in range(1, 1025):
        header = spine.next_header(1, b"entry %d" % number)
        spine = spine.extended(NETWORK, header)
        assert len(spine.ancestors) == number.bit_count() + 1
        assert Spine(spine.ancestors).next_header(1, b"x") == spine.next_header(1, b"x")
