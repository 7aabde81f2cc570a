"""The genesis file: people read it, an edited one is refused, and no other replaces it."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import MalformedError
from protocols.ledger.entries import decode_genesis
from protocols.ledger.errors import GenesisError, WrongGenesisError
from protocols.ledger.fold import LedgerState
from protocols.ledger.params import defaults
from synapsed import __main__ as daemon
from synapsed import keys, paths
from synapsed.keys import Identity, Key
from synapsed.ledger import genesis
from synapsed.ledger.genesis import Member
from synapsed.process.lock import Lock, LockHeldError

NOW = 1_795_000_000_123


def identity(number: int) -> Identity:
    return Identity(number.to_bytes(32, "big"))


def member(number: int, **more: Any) -> Member:
    seat = Key((1000 + number).to_bytes(32, "big"))
    return Member(identity(number).peer_id, seat.public_key, **more)


def four(**more: Any) -> bytes:
    options: dict[str, Any] = {"humans": {}, "params": {}, "created_ms": NOW} | more
    return genesis.compose("test", [member(n, name=f"d{n}") for n in range(1, 5)], **options)


def test_what_is_composed_is_what_a_ledger_begins_with() -> None:
    human, voter = Key(bytes(31) + b"h"), identity(77).peer_id
    payload = four(
        humans={"ada": human.public_key},
        params={"limits.upload": 5_000_000},
        grants={voter: 9},
    )
    entry = decode_genesis(payload)
    assert (entry.network, entry.time) == ("test", NOW)
    assert {seat.name for seat in entry.seats} == {"d1", "d2", "d3", "d4"}
    assert {grant.identity: grant.amount for grant in entry.reputation} == {
        voter: 9,
        **{identity(n).peer_id: genesis.FOUNDING_REPUTATION for n in range(1, 5)},
    }
    assert [(named.name, named.key) for named in entry.humans] == [("ada", human.public_key)]
    values = {setting.name: setting.value for setting in entry.parameters}
    assert values == defaults() | {"limits.upload": 5_000_000}
    state = LedgerState.from_genesis("test", payload)
    assert state.head.hash == genesis.genesis_hash(payload)


def test_the_file_reads_back_to_the_entry_and_says_it_in_words() -> None:
    human, voter = Key(bytes(31) + b"h"), identity(77)
    payload = four(humans={'a "da" \\ é': human.public_key}, grants={voter.peer_id: 9})
    text = genesis.dump(payload)
    assert genesis.parse(text) == payload
    assert genesis.dump(genesis.parse(text)) == text
    for word in (identity(1).text, 'name = "d1"', human.text, f"{voter.text} = 9", "2026-11-18T"):
        assert word in text
    assert f'hash = "{genesis.genesis_hash(payload).hex()}"' in text
    assert '"limits.upload" = ' in text


names = st.text(min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and not any(0xD800 <= ord(c) <= 0xDFFF for c in text)
)


@settings(max_examples=50)
@given(
    humans=st.lists(names, unique=True, max_size=5),
    grants=st.dictionaries(st.integers(10, 99), st.integers(0, 1 << 40), max_size=5),
    upload=st.integers(0, 1 << 40),
    created=st.integers(0, 4_000_000_000_000),
    title=names,
)
def test_any_genesis_survives_its_file(
    humans: list[str], grants: dict[int, int], upload: int, created: int, title: str
) -> None:
    payload = genesis.compose(
        "test",
        [member(1, name=title), member(2)],
        {name: Key(n.to_bytes(32, "big")).public_key for n, name in enumerate(humans)},
        {"limits.upload": upload},
        created,
        grants={identity(number).peer_id: amount for number, amount in grants.items()},
    )
    assert genesis.parse(genesis.dump(payload)) == payload


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("reputation = 1000", "reputation = 1001", "was changed"),
        ('"limits.upload" = ', '"limits.upload" = 1', "was changed"),
        ('network = "test"', 'network = "other"', "was changed"),
        ('name = "d1"', 'name = "d9"', "was changed"),
        ("format = 1", "format = 2", "format 2"),
        ("format = 1", "format = 1\nextra = 1", "extra"),
        ("[humans]", "[humans", "not a genesis file"),
        ('peer = "12D3', 'peer = "12D4', "not a genesis file"),
        ('key = "z6Mk', 'key = "z7Mk', "not a genesis file"),
        ("reputation = 1000", "reputation = -1", "not a genesis file"),
        ("+00:00", "", "time zone"),
        ('created = "2026', 'created = "x', "no time"),
    ],
)
def test_an_edited_file_is_refused_by_what_is_wrong(old: str, new: str, why: str) -> None:
    text = genesis.dump(four())
    assert old in text
    with pytest.raises(GenesisError, match=why):
        genesis.parse(text.replace(old, new, 1))


def test_what_no_ledger_can_begin_with_is_not_composed() -> None:
    with pytest.raises(GenesisError, match=r"limits\.nonsense"):
        four(params={"limits.nonsense": 1})
    with pytest.raises(GenesisError, match=r"quorum\.low"):
        four(params={"quorum.low": 1001})
    with pytest.raises(GenesisError):
        genesis.compose("test", [], {}, {}, NOW)
    with pytest.raises(GenesisError, match="twice"):
        genesis.compose("test", [member(1), member(1)], {}, {}, NOW)
    with pytest.raises(GenesisError, match="apart"):
        four(grants={identity(1).peer_id: 5})


@pytest.mark.parametrize(
    "one", [member(1), member(2, name="Ada: the first", reputation=1), member(3, reputation=7)]
)
def test_a_member_is_one_line(one: Member) -> None:
    text = genesis.member_text(one)
    assert "\n" not in text
    assert genesis.parse_member(f" {text}\n") == one


@pytest.mark.parametrize("text", ["", "x", "a:b", "12D3KooW:z6Mk:five"])
def test_a_line_that_names_no_member_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        genesis.parse_member(text)


def test_a_founding_seat_is_the_same_each_time_and_needs_the_daemon_to_be_down(
    tmp_path: Path,
) -> None:
    places = paths.find(tmp_path / "home", None, {})
    daemon.initialise(places, {"network": "test"})
    first = genesis.founding_seat(places, "d")
    assert first == genesis.founding_seat(places, "d")
    assert first.peer == keys.load(places.identity).peer_id
    assert first.seat_key != keys.load(places.identity).public_key
    with Lock(places.lock), pytest.raises(LockHeldError):
        genesis.founding_seat(places)


def test_init_takes_the_networks_name_from_the_genesis_and_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "given.toml"
    path.write_text(genesis.dump(four()))
    places = paths.find(tmp_path / "home", None, {})
    lines = daemon.initialise(places, {}, genesis=path)
    assert any(genesis.genesis_hash(four()).hex() in line for line in lines)
    assert 'network = "test"' in places.config_file.read_text()
    assert genesis.load(places.genesis) == four()
    assert os.stat(places.genesis).st_mode & 0o777 == 0o600
    assert "kept" in "".join(daemon.initialise(places, {}, genesis=path))


def test_init_refuses_another_genesis_and_another_network(tmp_path: Path) -> None:
    path = tmp_path / "given.toml"
    path.write_text(genesis.dump(four()))
    places = paths.find(tmp_path / "home", None, {})
    with pytest.raises(WrongGenesisError, match="test"):
        daemon.initialise(places, {"network": "other"}, genesis=path)
    assert not places.identity.exists()
    daemon.initialise(places, {}, genesis=path)
    path.write_text(genesis.dump(four(created_ms=NOW + 1)))
    config = places.config_file.read_text()
    with pytest.raises(WrongGenesisError):
        daemon.initialise(places, {"net.listen": ["/ip4/0.0.0.0/tcp/9"]}, force=True, genesis=path)
    assert genesis.load(places.genesis) == four()
    assert places.config_file.read_text() == config
    assert daemon.main(["init", "--home", str(tmp_path / "home"), "--genesis", "/nowhere"]) == 1


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    with pytest.raises(GenesisError, match=r"g\.toml"):
        genesis.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GenesisError, match="UTF-8"):
        genesis.load(path)
    path.write_bytes(b"# \n" * (genesis.MAX_FILE // 3 + 1))
    with pytest.raises(GenesisError, match="larger"):
        genesis.load(path)
