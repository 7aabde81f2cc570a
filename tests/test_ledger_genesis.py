"""How a ledger begins."""

import msgspec
import pytest

from protocols.changes import Setting
from protocols.ledger.entries import Genesis, Grant, Note, decode_genesis, encode_entry
from protocols.ledger.errors import GenesisError, InvalidEntryError, WrongGenesisError
from protocols.ledger.fold import LedgerState
from protocols.ledger.params import REGISTRY
from tests.ledger_book import HUMAN, MEMBERS, NETWORK, START, STRANGER, Book, genesis, verify

PAYLOAD = genesis()


def _with(**changes: object) -> bytes:
    return encode_entry(msgspec.structs.replace(decode_genesis(PAYLOAD), **changes))


def test_it_grants_the_first_reputation_seats_keys_and_parameters() -> None:
    state = LedgerState.from_genesis(NETWORK, PAYLOAD)
    assert state.head.index == 0
    assert state.epoch == 1
    assert state.start == 0
    assert state.time == START
    assert state.reputation == {each.identity: 1000 for each in MEMBERS}
    assert [seat.key for seat in state.council.seats] == [each.seat.key for each in MEMBERS]
    assert state.humans["alice"] == HUMAN.key
    assert set(state.params) == set(REGISTRY)
    assert state.params["vote.window_ms"] == 10_000
    assert state.params["quota.trusted"] == 200
    assert state.params["quota.newcomer"] == 20
    assert (
        state.council.beacon
        != LedgerState.from_genesis(NETWORK, _with(time=START + 1)).council.beacon
    )


def test_it_states_every_parameter_so_that_versions_with_other_defaults_begin_alike() -> None:
    assert [each.name for each in decode_genesis(PAYLOAD).parameters] == sorted(REGISTRY)


def test_of_another_network() -> None:
    with pytest.raises(WrongGenesisError):
        LedgerState.from_genesis("other", PAYLOAD)


def test_a_second_one_is_refused() -> None:
    book = Book()
    with pytest.raises(WrongGenesisError):
        book.add(PAYLOAD)


def test_a_saved_state_of_another_beginning() -> None:
    book = Book()
    other = LedgerState.from_genesis(NETWORK, _with(time=START + 1))
    with pytest.raises(WrongGenesisError):
        LedgerState.decode(book.state.encode(), other.genesis)
    assert LedgerState.decode(book.state.encode(), book.state.genesis).head == book.state.head


def test_what_was_signed_for_another_network_is_refused() -> None:
    book, other = Book(), Book(genesis(network="other"), "other")
    with pytest.raises(InvalidEntryError) as caught:
        other.state.check(book.submission(MEMBERS[0], Note(text="x")), verify)
    assert caught.value.code == "bad-signature"


FOUNDERS = decode_genesis(PAYLOAD).seats
GRANTS = decode_genesis(PAYLOAD).reputation
PARAMETERS = decode_genesis(PAYLOAD).parameters
BAD = {
    "a name that does not fit into a topic": {"network": "Test/1"},
    "seats out of order": {"seats": FOUNDERS[::-1]},
    "one seat twice": {"seats": (FOUNDERS[0], FOUNDERS[0])},
    "two seats with one key": {
        "seats": (FOUNDERS[0], msgspec.structs.replace(FOUNDERS[1], key=FOUNDERS[0].key))
    },
    "a seat without reputation": {"reputation": GRANTS[1:]},
    "grants out of order": {"reputation": GRANTS[::-1]},
    "an identity that is no key": {"reputation": (*GRANTS, Grant(b"\xff" * 38, 5))},
    "an unknown parameter": {"parameters": (*PARAMETERS, Setting("zz.unknown", 1))},
    "a parameter out of its range": {"parameters": (Setting("council.seats", 0),)},
    "parameters out of order": {"parameters": PARAMETERS[::-1]},
    "one human key under two names": {
        "humans": tuple(
            msgspec.structs.replace(decode_genesis(PAYLOAD).humans[0], name=name)
            for name in ("a", "b")
        )
    },
    "no seats": {"seats": ()},
}


@pytest.mark.parametrize("why", BAD)
def test_one_that_contradicts_itself(why: str) -> None:
    with pytest.raises(GenesisError) as caught:
        LedgerState.from_genesis(NETWORK, _with(**BAD[why]))
    assert caught.value.code == "bad-genesis"


@pytest.mark.parametrize(
    "payload", [b"", b"\xa0", PAYLOAD[:-1], PAYLOAD + b"\x00", encode_entry(Note(text="x"))]
)
def test_bytes_that_are_none(payload: bytes) -> None:
    with pytest.raises(GenesisError):
        LedgerState.from_genesis(NETWORK, payload)


def test_one_that_is_too_large() -> None:
    with pytest.raises(GenesisError):
        LedgerState.from_genesis(NETWORK, bytes(1 << 21))


def test_any_other_parameter_is_another_ledger() -> None:
    assert isinstance(decode_genesis(PAYLOAD), Genesis)
    assert Book().state.genesis != Book(genesis(parameters={"council.seats": 5})).state.genesis
    assert STRANGER.identity not in Book().state.reputation
