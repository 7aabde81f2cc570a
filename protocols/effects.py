"""What a protocol machine asks its driver to do.

A machine is `handle(event, now) -> list[Effect]`: one ordered list, in which `Save` stands
before the `Send` or `Publish` that depends on it. A driver performs them in order; the
simulator may crash a node between any two.
"""

import msgspec


class Save(msgspec.Struct, frozen=True):
    """Make `key` of `table` durable (or gone, where `value` is None)."""

    table: str
    key: bytes
    value: bytes | None


class Send(msgspec.Struct, frozen=True):
    """Send `data` to one peer on a stream protocol."""

    peer: bytes
    protocol: str
    data: bytes


class Publish(msgspec.Struct, frozen=True):
    """Gossip `data` on the topic of `kind`."""

    kind: str
    data: bytes


class Emit(msgspec.Struct, frozen=True):
    """Tell the local user: an event of `kind` with JSON-able fields."""

    kind: str
    fields: dict[str, str | int | float | bool | list[str] | None]


class Blame(msgspec.Struct, frozen=True):
    """Count a fault against a peer; the net decides what that costs it."""

    peer: bytes
    fault: str
    why: str


Effect = Save | Send | Publish | Emit | Blame
