"""How a ledger begins: the genesis entry, and the state that it leaves."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from protocols.changes import Setting
from protocols.errors import SynapseError
from protocols.ledger.chain import Spine
from protocols.ledger.council import Council, Seat
from protocols.ledger.election import UNKNOWN_LATENCY, next_beacon
from protocols.ledger.entries import (
    Founder,
    Genesis,
    Grant,
    HumanKey,
    Member,
    decode_genesis,
    encode_entry,
)
from protocols.ledger.errors import GenesisError, InvalidEntryError
from protocols.ledger.forkmap import ForkMap
from protocols.ledger.params import check_together, check_value, defaults
from protocols.ledger.reputation import Weights
from protocols.ledger.state import State, Stats
from protocols.peerid import public_key_of

FIRST_EPOCH = 1
_NETWORK = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
"""As the config has it: the name stands in topics and in domains of signatures."""


def compose(
    network: str,
    time: int,
    seats: Iterable[Founder],
    *,
    reputation: Mapping[bytes, int],
    humans: Mapping[str, bytes],
    parameters: Mapping[str, int],
) -> bytes:
    """A genesis entry's bytes; parameters that are not given have their defaults.

    Raises GenesisError.
    """
    payload = encode_entry(
        Genesis(
            network=network,
            time=time,
            seats=tuple(sorted(seats, key=lambda founder: founder.identity)),
            reputation=tuple(Grant(who, amount) for who, amount in sorted(reputation.items())),
            humans=tuple(HumanKey(name, key) for name, key in sorted(humans.items())),
            parameters=tuple(
                Setting(name, value) for name, value in sorted({**defaults(), **parameters}.items())
            ),
        )
    )
    read_genesis(payload)
    return payload


def read_genesis(payload: bytes) -> Genesis:
    """What a genesis entry says. Raises GenesisError."""
    try:
        genesis = decode_genesis(payload)
        _check(genesis)
    except GenesisError:
        raise
    except SynapseError as error:
        raise GenesisError(f"not a genesis entry: {error.message}") from error
    return genesis


def _rising(keys: Sequence[object], what: str) -> None:
    if any(not a < b for a, b in itertools.pairwise(keys)):  # type: ignore[operator]
        raise GenesisError(f"{what} are out of order, or one stands twice")


def _check(genesis: Genesis) -> None:
    if not _NETWORK.fullmatch(genesis.network):
        raise GenesisError(
            f"{genesis.network[:80]!r} is not a network's name",
            remedy="up to 63 lower-case letters, digits, dots and dashes, a letter or digit first",
        )
    _rising([seat.identity for seat in genesis.seats], "the seats")
    _rising([grant.identity for grant in genesis.reputation], "the reputation grants")
    _rising([human.name for human in genesis.humans], "the human keys")
    _rising([setting.name for setting in genesis.parameters], "the parameters")
    if len({seat.key for seat in genesis.seats}) < len(genesis.seats):
        raise GenesisError("two seats have one key")
    if len({human.key for human in genesis.humans}) < len(genesis.humans):
        raise GenesisError("two names have one human key")
    for grant in genesis.reputation:
        public_key_of(grant.identity)
    granted = {grant.identity: grant.amount for grant in genesis.reputation}
    for seat in genesis.seats:
        if not granted.get(seat.identity):
            raise GenesisError("a seat of somebody without reputation")
    try:
        for setting in genesis.parameters:
            check_value(setting.name, setting.value)
        check_together({**defaults(), **{each.name: each.value for each in genesis.parameters}})
    except InvalidEntryError as error:
        raise GenesisError(error.message, remedy=error.remedy) from error


def begin(state: State, genesis: Genesis, payload: bytes) -> None:
    """Make `state` what the checked genesis entry leaves."""
    state.network = genesis.network
    state.spine = Spine.begin(genesis.network, payload)
    state.genesis = state.head.hash
    state.time = state.epoch_started = genesis.time
    state.weights = Weights({each.identity: each.amount for each in genesis.reputation}, 0)
    state.humans = {human.name: human.key for human in genesis.humans}
    stated = {setting.name: setting.value for setting in genesis.parameters}
    state.params = {**defaults(), **stated}
    seats = tuple(
        Seat(seat.identity, seat.key, state.reputation_of(seat.identity), UNKNOWN_LATENCY)
        for seat in genesis.seats
    )
    beacon = next_beacon(state.genesis, FIRST_EPOCH, {})
    state.council = Council(FIRST_EPOCH, beacon, seats, state.head)
    state.past, state.past_members = (), ()
    state.members = tuple(Member(seat.identity, seat.weight, seat.latency) for seat in seats)
    state.history = ()
    state.anchors = (state.genesis,)
    state.origins, state.revalued, state.credits, state.banned = {}, {}, {}, {}
    state.mints, state.executions = (), ()
    state.open, state.recent = {}, {}
    state.closed, state.standings = ForkMap(), ForkMap()
    state.candidates, state.reveals, state.measured = {}, {}, {}
    state.slots, state.trainings, state.datasets, state.exclusions = {}, {}, {}, {}
    state.checkpoint = 0
    state.stats = Stats()
