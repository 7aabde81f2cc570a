"""Every field and every signature of a proof counts: one wrong anywhere, and it proves nothing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ledger.chain import Head
from protocols.ledger.council import (
    BadCertificateError,
    Certificate,
    Kind,
    Statement,
    TimeOut,
    check_certificate,
    check_opening,
    signed_bytes,
)
from protocols.realm import Realm
from synapsed.keys import verify
from tests.council_kit import NETWORK, REALM, Members

SEVEN = Members(7)
HEAD = Head(9, bytes(range(32)))

SIGNED = [
    Statement(Kind.ACK, 1, 2, HEAD.index, HEAD.hash),
    TimeOut(1, 3, 2, HEAD.index, HEAD.hash),
]
FIELDS = [(said, field) for said in SIGNED for field in said.__struct_fields__]


@pytest.mark.parametrize(
    ("said", "field"), FIELDS, ids=[f"{type(s).__name__}.{f}" for s, f in FIELDS]
)
def test_every_field_is_signed(said: Statement | TimeOut, field: str) -> None:
    value = getattr(said, field)
    others = {"kind": Kind.CERTIFICATE_ACK, "hash": bytes(32)}
    other = others[field] if field in others else value + 7
    changed = msgspec.structs.replace(said, **{field: other})
    assert signed_bytes(REALM, changed) != signed_bytes(REALM, said)
    assert signed_bytes(Realm("another", REALM.genesis), said) != signed_bytes(REALM, said)
    assert signed_bytes(Realm(NETWORK, bytes(range(32))), said) != signed_bytes(REALM, said)


@given(
    st.permutations(range(7)).map(lambda seats: sorted(seats[:5])),
    st.integers(0, 4),
    st.integers(0, 511),
)
def test_one_forged_signature_anywhere_spoils_a_certificate(
    seats: list[int], at: int, bit: int
) -> None:
    good = SEVEN.certificate(SEVEN.statement(2, HEAD), seats)
    check_certificate(REALM, SEVEN.council, good, verify)
    forged = bytearray(good.signatures[at])
    forged[bit // 8] ^= 1 << bit % 8
    signatures = [*good.signatures[:at], bytes(forged), *good.signatures[at + 1 :]]
    with pytest.raises(BadCertificateError):
        check_certificate(REALM, SEVEN.council, Certificate(good.said, seats, signatures), verify)


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(("term", "index"), [(2, 10), (3, 1)])
def test_one_time_out_that_names_more_keeps_a_term_from_opening(
    at: int, term: int, index: int
) -> None:
    """More is a later term, and in one term a higher index."""
    base = SEVEN.certificate(SEVEN.statement(2, HEAD), range(5))
    above = SEVEN.certificate(SEVEN.statement(term, Head(index, bytes(32))), range(5))
    good = SEVEN.opening(4, base, range(5))
    check_opening(REALM, SEVEN.council, good, verify)
    time_outs = list(good.time_outs)
    time_outs[at] = SEVEN.opening(4, above, [at]).time_outs[0]
    with pytest.raises(BadCertificateError, match="names a higher certificate"):
        check_opening(
            REALM, SEVEN.council, msgspec.structs.replace(good, time_outs=time_outs), verify
        )
