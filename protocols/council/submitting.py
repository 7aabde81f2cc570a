"""How what waits reaches the leader: directly, then through all members, then through everybody.

    a frame of PROTOCOL         submissions, votes and approvals, one after another
    gossip of SUBMISSIONS       one of them

A submission goes to whom we take for the leader; unratified after half a time-out, it goes to
every member, so that none of them can miss what a leader leaves out, and is gossiped by daemons
without a seat, which may reach no member; again every time-out until it is ratified or expires.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from protocols.codec import Message
from protocols.effects import Effect, Publish, Send
from protocols.errors import LimitError
from protocols.ledger.entries import MAX_SUBMISSION
from protocols.packing import cut, pack, unpack

PROTOCOL = "/synapse/submit/1.0.0"
SUBMISSIONS = "submission"
"""The gossip topic."""

MAX_ITEMS = 512
"""In one frame."""
MAX_BYTES = 128 << 10
"""Of the items in one frame, or one item: a tenth of a second on a home uplink."""
MAX_MESSAGE = 4 << 10
MAX_FRAME = 4 + MAX_MESSAGE + MAX_BYTES
FLUSH_EVERY = 0.005
"""Seconds between two frames to the leader: what comes meanwhile shares one, and a lone
submission does not wait at all (Nagle's rule, by the clock)."""
MAX_OUTBOX = 4096
"""Items that wait for the next frame."""
MOST_AGAIN = 64
"""Items that are sent again at once, the oldest first; the others follow."""
MOST_GOSSIPED = 8
"""... of which so many are gossiped: each costs every daemon a millisecond."""


class Items(Message, frozen=True, array_like=True):
    """How long the items behind it are."""

    lengths: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1, le=MAX_SUBMISSION)]],
        msgspec.Meta(min_length=1, max_length=MAX_ITEMS),
    ]


def pack_items(items: Sequence[bytes]) -> list[bytes]:
    """Frames of some items."""
    frames: list[bytes] = []
    part: list[bytes] = []
    size = 0
    for item in items:
        if part and (size + len(item) > MAX_BYTES or len(part) == MAX_ITEMS):
            frames.append(pack(Items(lengths=[len(one) for one in part]), part))
            part, size = [], 0
        part.append(item)
        size += len(item)
    if part:
        frames.append(pack(Items(lengths=[len(one) for one in part]), part))
    return frames


def unpack_items(frame: bytes) -> list[bytes]:
    """The items in a frame. Raises MalformedError, LimitError."""
    if len(frame) > MAX_FRAME:
        raise LimitError(f"a frame of {len(frame)} bytes where {MAX_FRAME} are allowed")
    message, raw = unpack(frame, Items, MAX_MESSAGE)
    return cut(raw, message.lengths)


class Outbox:
    """What we submit until it is ratified."""

    def __init__(self, me: bytes) -> None:
        self._me = me
        self._fresh: list[bytes] = []
        self._flushed_at = -FLUSH_EVERY
        self._again: dict[bytes, float] = {}
        self._again_at: float | None = None
        # No later than the first of them: what is settled meanwhile leaves it as it is.

    def put(self, data: bytes) -> None:
        """For the leader, with the next frame."""
        if len(self._fresh) < MAX_OUTBOX:
            self._fresh.append(data)

    def keep(self, name: bytes, now: float, time_out: float) -> None:
        """Send it again until `settled`."""
        at = self._again[name] = now + time_out / 2
        self._again_at = at if self._again_at is None else min(at, self._again_at)

    def settled(self, name: bytes) -> None:
        """It waits no longer."""
        self._again.pop(name, None)

    def wake_at(self) -> float | None:
        """When something is due (mono seconds)."""
        due = self._again_at
        if not self._fresh:
            return due
        at = self._flushed_at + FLUSH_EVERY
        return at if due is None else min(at, due)

    def flush(self, leader: bytes | None, now: float) -> list[Effect]:
        """The frames that are due to the leader."""
        if not self._fresh or now < self._flushed_at + FLUSH_EVERY:
            return []
        fresh, self._fresh = self._fresh, []
        self._flushed_at = now
        if leader is None or leader == self._me:
            return []
        return [Send(leader, PROTOCOL, frame) for frame in pack_items(fresh)]

    def due(self, now: float, time_out: float) -> list[bytes]:
        """The names of what is to be sent to everybody, the oldest first."""
        if self._again_at is None or now < self._again_at:
            return []
        names = [name for name, at in self._again.items() if at <= now][:MOST_AGAIN]
        for name in names:
            del self._again[name]
            self._again[name] = now + time_out
        self._again_at = min(self._again.values(), default=None)
        return names

    def spread(
        self, items: Sequence[bytes], members: Sequence[bytes], *, gossip: bool
    ) -> list[Effect]:
        """To every member; and by `gossip`, a few of them, where we may reach none."""
        effects: list[Effect] = []
        for frame in pack_items(items):
            effects += [Send(one, PROTOCOL, frame) for one in members if one != self._me]
        if gossip:
            effects += [Publish(SUBMISSIONS, item) for item in items[:MOST_GOSSIPED]]
        return effects
