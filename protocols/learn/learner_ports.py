"""What a learner (learner.py) is told, and what it asks for."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from protocols.effects import Effect
from protocols.learn.claims import Round
from protocols.learn.messages import (
    Blob,
)
from protocols.learn.round_ports import Heard, Say, Tick
from protocols.plan import CodecName, Phase, Plan
from protocols.realm import Realm


class LearnerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one learner."""

    realm: Realm
    model: bytes
    plan: Plan
    me: bytes
    groups: tuple[int, ...]
    ahead: int = 400
    """Thousandths of a round's steps that are trained while the round before is open (rule 3);
    0 waits. Of 15 steps of a second, 6 hide what a round takes on a home uplink (2 to 4 s, and a
    follower's recomputation of it). Many more would let fast learners run away from slow ones,
    until every round is as wide as one."""
    ack_ms: int = 3_000
    """Until a primary that says nothing is looked for anew: a take-over takes four heartbeats."""
    relay_ms: int = 5_000
    """Until an aggregator that says nothing is passed over: it fetches our deltas meanwhile, half a
    megabyte a group and learner on a home uplink; and, beside two patiences of the plan, until one
    that has them and brings no acknowledgement is."""
    ask_ms: int = 5_000
    """Between questions for rounds, where nothing comes by itself."""


class Resumed(msgspec.Struct, frozen=True):
    """The worker has these versions: (number, head) by group."""

    versions: Mapping[int, tuple[int, bytes]]


class Paused(msgspec.Struct, frozen=True):
    """No worker. What was trained and not sent is lost, what was sent is not."""


class Trained(msgspec.Struct, frozen=True):
    """Train is done."""

    seq: int


class Encoded(msgspec.Struct, frozen=True):
    """Encode is done: a blob for each group that was asked for (fewer, where one changed nothing
    or could not be encoded)."""

    seq: int
    made: Mapping[int, Blob]


class Applied(msgspec.Struct, frozen=True):
    """Apply is done, and this is the version that it made."""

    group: int
    number: int
    head: bytes


class NotApplied(msgspec.Struct, frozen=True):
    """It failed; it is tried again."""

    group: int


class CaughtUp(msgspec.Struct, frozen=True):
    """CatchUp is done."""

    group: int
    number: int
    head: bytes


class NotCaughtUp(msgspec.Struct, frozen=True):
    """It failed; it is tried again."""

    group: int


class Routed(msgspec.Struct, frozen=True):
    """Who aggregates for us from now on (regions.py)."""

    aggregator: bytes | None


Event = (
    Resumed
    | Paused
    | Heard
    | Trained
    | Encoded
    | Applied
    | NotApplied
    | CaughtUp
    | NotCaughtUp
    | Routed
    | Tick
)


class Train(msgspec.Struct, frozen=True):
    """Effect: do so many inner steps, and say Trained."""

    seq: int
    steps: int
    gradient: bool
    """The one step's gradient is what is sent; AdamW runs at the primary."""
    phase: Phase


class Encode(msgspec.Struct, frozen=True):
    """Effect: encode these groups' changes, and say Encoded."""

    seq: int
    groups: tuple[int, ...]
    codec: CodecName
    phase: Phase


class Apply(msgspec.Struct, frozen=True):
    """Effect: apply this round's result to the worker's version, and say Applied."""

    round: Round


class CatchUp(msgspec.Struct, frozen=True):
    """Effect: fetch this whole version of the group, have the worker take it in place of its own,
    and say CaughtUp."""

    group: int
    number: int
    head: bytes


class GiveBack(msgspec.Struct, frozen=True):
    """Effect: this delta reaches nobody: add it to the group's error feedback."""

    group: int
    digest: bytes


class Silent(msgspec.Struct, frozen=True):
    """Effect: this aggregator did not answer in time (regions.py chooses another)."""

    aggregator: bytes


Effects = list[Effect | Say | Train | Encode | Apply | CatchUp | GiveBack | Silent]


State = Literal["paused", "idle", "ahead", "waiting", "training", "trained", "encoding"]
"""
idle      sent what there was          ahead     the next round's first steps, rounds still open
waiting   those are done               training  from the rounds' results: all steps, or the rest
trained   all steps are done           encoding  deltas are being made
"""
