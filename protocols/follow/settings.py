"""How a follower behaves."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    announce_every: float = 0.5
    """Between two announcements of heads: each costs every daemon about 1 ms of gossip."""
    timeout: float = 5.0
    """For an answer of MAX_RANGE bytes: a home uplink of 1 Mbit/s takes 2 s."""
    in_flight: int = 4
    """Ranges asked for or waiting: with a third of a second of work in each, a round trip of a
    second is covered."""
    poll_every: float = 20.0
    """Until a neighbour is told what we have, gossip or not: it answers if it has more."""
    patience: float = 0.25
    """How long a member waits for its own seat to bring what others have ratified."""
    snapshot_gap: int = 0
    """Entries that a newcomer lacks from which on it begins at a checkpoint; 0 for never, unless
    nobody has the entries any longer."""
    keep_snapshots: bool = True
    """Whether the state at the newest checkpoint is kept, for newcomers."""
    prune: bool = False
    """Whether entries below the newest checkpoint but one are forgotten."""

    def __post_init__(self) -> None:
        if min(self.announce_every, self.timeout, self.poll_every) <= 0 or self.patience < 0:
            raise ValueError("a follower's times must be above 0")
        if self.in_flight < 1 or self.snapshot_gap < 0:
            raise ValueError("a follower asks for one range at least, and gaps are not negative")
        if self.prune and not self.keep_snapshots:
            raise ValueError("who prunes entries must keep the state that they led to")
