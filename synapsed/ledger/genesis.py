"""The genesis file: what a network begins with, as its founders and everybody after them read it.

It is the ledger's first entry in words: the network's name, the first council, the reputation
that the founders grant, the keys of people who approve what is risky, and all parameters. Its
`hash` is the entry's chain hash and stands in the file, so that a file that was edited is known
for it, and two people can tell over the phone whether they are on one ledger.

    member        what each founder sends to whoever writes the file: who it is, and its seat key
    compose       members, grants, humans and parameters -> the entry
    dump, parse   the entry <-> the file
    install       the file into a daemon's home, where another one is never replaced
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from protocols.errors import SynapseError
from protocols.keytext import key_text, parse_key
from protocols.ledger import genesis as ledger_genesis
from protocols.ledger.chain import Spine
from protocols.ledger.entries import MAX_GENESIS, Founder, decode_genesis
from protocols.ledger.errors import GenesisError, WrongGenesisError
from protocols.ledger.params import REGISTRY
from protocols.peerid import parse_peer_id, peer_id_text
from protocols.realm import Realm
from synapsed import keys
from synapsed.ledger.store import open_ledger_store
from synapsed.paths import Paths
from synapsed.process.lock import Lock
from synapsed.store.disk import write_atomic

FORMAT = 1
FOUNDING_REPUTATION = 1000
"""Of a member, unless it is said otherwise: ten of the smallest credits, so that what is earned
soon counts beside what was granted."""
MAX_FILE = 4 * MAX_GENESIS
"""Bytes: peer ids and keys are half as long again in text, and each line has its name."""

_HEAD = """\
# The genesis of the network {network!r}: the first entry of its ledger, and what every daemon
# of it verifies everything else from. Give it to whoever joins: `synapsed init --genesis FILE`.
# Nothing in it is secret, and nothing may be changed: `hash` is over all of it. Compare it.
"""


class Member(msgspec.Struct, frozen=True):
    """A founding member of the council."""

    peer: bytes
    seat_key: bytes
    name: str = ""
    """What people call it; nothing is decided by it."""
    reputation: int = FOUNDING_REPUTATION


# -- founding ----------------------------------------------------------------------------------


def founding_seat(places: Paths, name: str = "") -> Member:
    """What the daemon of these places brings to a founding: its identity and its seat key.

    The seat key is made if there is none. Raises IdentityError, StoreError, and where the
    daemon runs RefusedError.
    """
    identity = keys.load(places.identity)
    with Lock(places.lock):
        store = open_ledger_store(places.ledger, lambda _kind, **_fields: None)
        try:
            return Member(identity.peer_id, store.key.public_key, name)
        finally:
            store.close()


def member_text(member: Member) -> str:
    """One line: PEER:SEAT-KEY:REPUTATION:NAME."""
    parts = (peer_id_text(member.peer), key_text(member.seat_key), str(member.reputation))
    return ":".join((*parts, member.name) if member.name else parts)


def parse_member(text: str) -> Member:
    """The member that a line names; reputation and name may be left out. GenesisError."""
    parts = text.strip().split(":", 3)
    if len(parts) < 2:
        raise GenesisError(
            f"{text[:120]!r} names no founding member (PEER:SEAT-KEY[:REPUTATION[:NAME]])",
            remedy="`synapsectl genesis seat` on its machine prints the line",
        )
    amount = parts[2] if len(parts) > 2 else str(FOUNDING_REPUTATION)
    if not (amount.isascii() and amount.isdigit()):
        raise GenesisError(f"{amount[:40]!r} is not a reputation: a whole number is")
    name = parts[3] if len(parts) > 3 else ""
    return Member(parse_peer_id(parts[0]), parse_key(parts[1]), name, int(amount))


def compose(
    network: str,
    members: Iterable[Member],
    humans: Mapping[str, bytes],
    params: Mapping[str, int],
    created_ms: int,
    *,
    grants: Mapping[bytes, int] | None = None,
) -> bytes:
    """The genesis entry: `params` over the registry's defaults, `grants` to others than members.

    Raises GenesisError.
    """
    seats = list(members)
    reputation = {member.peer: member.reputation for member in seats}
    for peer, amount in (grants or {}).items():
        if peer in reputation:
            raise GenesisError(f"{peer_id_text(peer)} is a member and is granted reputation apart")
        reputation[peer] = amount
    founders = [Founder(member.peer, member.seat_key, member.name) for member in seats]
    return ledger_genesis.compose(
        network, created_ms, founders, reputation=reputation, humans=humans, parameters=params
    )


def network_of(payload: bytes) -> str:
    """The network that a genesis entry names."""
    return decode_genesis(payload).network


def genesis_hash(payload: bytes) -> bytes:
    """The chain hash that names the ledger."""
    return Spine.begin(decode_genesis(payload).network, payload).head.hash


def realm_of(payload: bytes) -> Realm:
    """What signatures for the ledger that begins with this entry name."""
    return Realm(network_of(payload), genesis_hash(payload))


# -- the file ----------------------------------------------------------------------------------


def dump(payload: bytes) -> str:
    """The file of a genesis entry: the same text for the same entry."""
    entry = decode_genesis(payload)
    granted = {grant.identity: grant.amount for grant in entry.reputation}
    created = datetime.fromtimestamp(entry.time / 1000, UTC).isoformat(timespec="milliseconds")
    out = [
        _HEAD.format(network=entry.network),
        f"format = {FORMAT}",
        f"network = {_text(entry.network)}",
        f'created = "{created}"',
        f'hash = "{genesis_hash(payload).hex()}"',
        "\n# The first council: who may sign entries, each with the key of its seat.",
    ]
    for seat in entry.seats:
        out += [
            "\n[[seat]]",
            f'peer = "{peer_id_text(seat.identity)}"',
            f'key = "{key_text(seat.key)}"',
            f"reputation = {granted.pop(seat.identity, 0)}",
        ]
        out += [f"name = {_text(seat.name)}"] if seat.name else []
    if granted:
        out += ["\n# Reputation of others, by the founders' word.", "\n[reputation]"]
        out += [f"{peer_id_text(peer)} = {amount}" for peer, amount in granted.items()]
    out += ["\n# People whose keys approve what is of high or critical risk.", "\n[humans]"]
    out += [f'{_text(human.name)} = "{key_text(human.key)}"' for human in entry.humans]
    out += ["\n# What a vote may change later: `synapsectl params` tells what holds.", ""]
    out.append("[parameters]")
    for setting in entry.parameters:
        known = REGISTRY.get(setting.name)
        unit = f"  # {known.unit}: {known.text}" if known is not None else ""
        out.append(f"{_text(setting.name)} = {setting.value}{unit}")
    return "\n".join(out) + "\n"


def _text(value: str) -> str:
    """TOML's basic strings are JSON's, but for one character that JSON lets stand."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Seat(msgspec.Struct, forbid_unknown_fields=True):
    peer: str
    key: str
    reputation: Annotated[int, msgspec.Meta(ge=0)]
    name: str = ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    network: str
    created: str
    hash: str
    seat: list[_Seat]
    humans: dict[str, str] = {}
    parameters: dict[str, int] = {}
    reputation: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}


def parse(text: str) -> bytes:
    """The genesis entry that a file's text stands for; GenesisError where it is not one."""
    try:
        document: dict[str, Any] = tomllib.loads(text)
        file = msgspec.convert(document, _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise GenesisError(f"not a genesis file: {error}") from error
    if file.format != FORMAT:
        raise GenesisError(
            f"a genesis file of format {file.format}, where this daemon reads {FORMAT}",
            remedy="another version of synapsed wrote it",
        )
    try:
        payload = _payload(file)
    except SynapseError as error:
        raise GenesisError(f"not a genesis file: {error.message}") from error
    found = genesis_hash(payload).hex()
    if found != file.hash:
        raise GenesisError(
            f"the genesis file was changed: it hashes to {found[:16]}..., and states "
            f"{file.hash[:16]}...",
            remedy="get it from a founder again, and compare `hash`",
        )
    return payload


def _payload(file: _File) -> bytes:
    try:
        created = datetime.fromisoformat(file.created)
    except ValueError as error:
        raise GenesisError(f"created = {file.created[:40]!r} is no time") from error
    if created.tzinfo is None:
        raise GenesisError(f"created = {file.created[:40]!r} names no time zone")
    since = created - datetime(1970, 1, 1, tzinfo=UTC)
    reputation = {parse_peer_id(peer): amount for peer, amount in file.reputation.items()}
    reputation |= {parse_peer_id(seat.peer): seat.reputation for seat in file.seat}
    return ledger_genesis.compose(
        file.network,
        (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000,
        [Founder(parse_peer_id(seat.peer), parse_key(seat.key), seat.name) for seat in file.seat],
        reputation=reputation,
        humans={name: parse_key(key) for name, key in file.humans.items()},
        parameters=file.parameters,
    )


def load(path: Path) -> bytes:
    """The genesis entry in the file at `path`; GenesisError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise GenesisError(f"{path} is larger than any genesis file ({MAX_FILE} bytes)")
        return parse(data.decode())
    except OSError as error:
        raise GenesisError(
            f"cannot read the genesis file {path}: {error.strerror}",
            remedy="a founder of the network, or anybody who runs a daemon of it, has one",
        ) from error
    except UnicodeDecodeError as error:
        raise GenesisError(f"{path} is not a genesis file: it is not UTF-8") from error


def is_installed(places: Paths, payload: bytes) -> bool:
    """Whether a genesis is in a daemon's home. GenesisError where what is there is none.

    WrongGenesisError where another one is: its ledger would be worth nothing under this one.
    """
    if not places.genesis.exists():
        return False
    there = load(places.genesis)
    if there != payload:
        raise WrongGenesisError(
            f"{places.genesis} is another genesis ({genesis_hash(there).hex()[:16]}..., not "
            f"{genesis_hash(payload).hex()[:16]}...)",
            remedy="a daemon follows one ledger: use another home folder for the other",
        )
    return True


def install(places: Paths, payload: bytes) -> bool:
    """Put a genesis into a daemon's home; False where it is there already.

    Raises as is_installed does, and StoreError where it cannot be written.
    """
    if is_installed(places, payload):
        return False
    write_atomic(places.genesis, dump(payload).encode(), places.genesis.parent)
    return True
