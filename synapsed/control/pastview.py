"""What a proposal was that is over, read from the entries of its time.

The state keeps of it how it ended. Who voted and how, and the rules and weights of then, stand in
the entries: they are looked through in steps, so that whoever asks stops nobody else. What would
take too long to find stays unknown, and is never guessed.
"""

from collections.abc import Iterable, Iterator

from protocols.errors import NotHeldError
from protocols.follow.history import History
from protocols.ledger import entries as e
from protocols.ledger.state import Closed, State

STEP = 256
"""Entries between two pauses: 4 ms of reading from a disk that is cached."""
MAX_LOOK = 1 << 17
"""Entries that are looked through in one direction: two days of ticks and as much again, some
two seconds of reading."""

_VOTES = b"\xa2dkindevotes"
_APPROVAL = b"\xa4ckey"
_PARAMETER = b"\xa3dkindiparameter"
_REPUTATION = b"\xa2dkindjreputation"
"""How the canonical encodings of these entries, and of few or no others, begin."""


class Past:
    """One proposal's. Run `steps` to its end, then read."""

    def __init__(
        self,
        state: State,
        history: History,
        genesis: bytes,
        closed: tuple[bytes, Closed],
        wanted: Iterable[tuple[str, int]],
    ) -> None:
        """`closed` is the proposal's CID and its end; `wanted` are parameters, each with the index
        before which its value is asked for."""
        self._wanted = tuple(wanted)
        self._state = state
        self._history = history
        self._genesis = genesis
        self._proposal, self._ended = closed
        self.votes: dict[bytes, tuple[int, int]] = {}
        """(number, choice) of each voter's last vote."""
        self.approvals: dict[bytes, int] = {}
        """By human key: the index of the entry."""
        self._weights: dict[bytes, int] = {}
        self._params: dict[tuple[str, int], int] = {}

    def weight(self, voter: bytes) -> int | None:
        """A voter's when it was opened; None where that was not found."""
        return self._weights.get(voter)

    def param(self, name: str, index: int) -> int | None:
        """A parameter's value before the entry at `index`, if it was among those looked for."""
        return self._params.get((name, index))

    def steps(self) -> Iterator[None]:
        """Look."""
        yield from self._hear()
        yield from self._weigh()
        for name, index in self._wanted:
            yield from self._find_param(name, index)

    # -- what was said about it -----------------------------------------------------------------

    def _hear(self) -> Iterator[None]:
        """Votes and approvals, from its close back: of each voter's votes the last counts."""
        last = max(self._ended.opened, self._ended.closed - MAX_LOOK)
        for index, payload in self._back(self._ended.closed, last):
            if payload is None:
                yield
            elif payload.startswith(_VOTES):
                self._count(payload)
            elif payload.startswith(_APPROVAL):
                entry = e.decode_entry(payload).entry
                if isinstance(entry, e.Approval) and entry.proposal == self._proposal:
                    self.approvals[entry.key] = index

    def _count(self, payload: bytes) -> None:
        entry = e.decode_entry(payload).entry
        assert isinstance(entry, e.Votes)
        for poll in entry.polls:
            if poll.proposal != self._proposal:
                continue
            for ballot in poll.ballots:
                self.votes.setdefault(ballot.voter, (ballot.number, ballot.choice))

    # -- what held then ---------------------------------------------------------------------------

    def _weigh(self) -> Iterator[None]:
        """The voters' reputation at the opening."""
        opened, weights = self._ended.opened, self._state.weights
        if weights.index <= opened:
            self._weights = {voter: weights.points.get(voter, 0) for voter in self.votes}
            return
        sought, looked = set(self.votes), max(0, opened - MAX_LOOK)
        for _, payload in self._back(opened, looked):
            if payload is None:
                yield
            elif payload.startswith(_REPUTATION):
                entry = e.decode_entry(payload).entry
                assert isinstance(entry, e.ReputationEntry)
                for grant in entry.values:
                    if grant.identity in sought:
                        sought.discard(grant.identity)
                        self._weights[grant.identity] = grant.amount
            if not sought:
                return
        if self._reaches_back(looked):
            granted = {each.identity: each.amount for each in self._founding.reputation}
            self._weights |= {voter: granted.get(voter, 0) for voter in sought}

    @property
    def _founding(self) -> e.Genesis:
        return e.decode_genesis(self._genesis)

    def _find_param(self, name: str, index: int) -> Iterator[None]:
        origin = self._state.origins.get(name)
        if origin is None or origin.index < index:
            self._params[name, index] = self._state.params[name]
            return
        looked = max(0, index - MAX_LOOK)
        for _, payload in self._back(index, looked):
            if payload is None:
                yield
                continue
            value = _setting(payload, name)
            if value is not None:
                self._params[name, index] = value
                return
        founding = {each.name: each.value for each in self._founding.parameters}
        if self._reaches_back(looked) and name in founding:
            self._params[name, index] = founding[name]

    def _reaches_back(self, last: int) -> bool:
        """Whether a look back to `last` has seen all since the genesis."""
        return last == 0 and self._history.log.base <= 1

    def _back(self, before: int, last: int) -> Iterator[tuple[int, bytes | None]]:
        """Entries below `before` down to `last` or the oldest that is here, newest first; None in
        an entry's place where it is time for a pause."""
        first = max(last, self._history.log.base, 1)
        for index in range(before - 1, first - 1, -1):
            if index % STEP == 0:
                yield index, None
            try:
                payload = self._history.log.payload(index)
            except NotHeldError:  # pruned meanwhile
                return
            yield index, payload


def _setting(payload: bytes, name: str) -> int | None:
    """The value that an entry gives a parameter, if it does."""
    if not payload.startswith(_PARAMETER):
        return None
    entry = e.decode_entry(payload).entry
    assert isinstance(entry, e.ParameterEntry)
    return next((each.value for each in entry.settings if each.name == name), None)
