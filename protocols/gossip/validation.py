"""Validation by table: the conditions of a message in order, the first that holds decides.

The table is data, so that its test walks over it: a row without a case fails.

REJECT costs whoever sent the message its score. So it is only for what a sender could have
seen for itself: bytes that are wrong wherever and whenever they are read. What depends on a
clock, or on what somebody has heard before, is IGNOREd: not kept, not passed on, no harm.
(gossipsub 1.1 makes the same distinction, for the same reason: an honest relay must not be
made to pay for what a liar says differently to different peers.)
Source: https://github.com/libp2p/specs/blob/master/pubsub/gossipsub/gossipsub-v1.1.md
"""

import enum
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from protocols.codec import decode_plain
from protocols.envelope import Opened, Verify, open_envelope
from protocols.errors import MalformedError, NotCanonicalError, SynapseError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Verdict(enum.Enum):
    """What happens to a message: kept and passed on, dropped, or dropped and held against it."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


class Row(Generic[T_contra]):
    """One condition of a table: where `holds`, the message gets `verdict`, for `reason`."""

    __slots__ = ("holds", "name", "reason", "verdict")

    def __init__(
        self, name: str, verdict: Verdict, holds: Callable[[T_contra], bool], reason: str
    ) -> None:
        self.name = name
        self.verdict = verdict
        self.holds = holds
        self.reason = reason

    def __repr__(self) -> str:
        return f"Row({self.name}: {self.verdict.value}, {self.reason})"


def first_row(table: Sequence[Row[T_contra]], subject: T_contra) -> Row[T_contra] | None:
    """The first row whose condition holds for `subject`; None where it passes them all."""
    for row in table:
        if row.holds(subject):
            return row
    return None


class Sealed(Generic[T]):
    """An envelope before a table: what it says, taken apart as far as the rows ask.

    Nothing here is verified but by `verifies`; `kind` is the type of the message in it.
    """

    def __init__(
        self,
        data: bytes,
        *,
        where: bytes,
        payload_type: bytes,
        kind: Any,
        verify: Verify,
        limit: int,
    ) -> None:
        self.data = data
        self.limit = limit
        self._where = where
        self._payload_type = payload_type
        self._kind = kind
        self._verify = verify

    def _open(self, verify: Verify) -> Opened | None:
        try:
            return open_envelope(self.data, self._where, self._payload_type, verify, self.limit)
        except MalformedError:
            return None

    @cached_property
    def opened(self) -> Opened | None:
        """The envelope's parts."""
        return self._open(lambda _key, _message, _signature: True)

    @cached_property
    def plain(self) -> object | SynapseError:
        """The payload as plain values, or why it has none."""
        try:
            return decode_plain(self.sure.payload, self.limit)
        except SynapseError as error:
            return error

    @cached_property
    def said(self) -> T | None:
        """The message, if the payload is one."""
        try:
            said: T = msgspec.convert(self.plain, self._kind, builtin_types=(bytes,))
        except (msgspec.ValidationError, MalformedError):
            return None
        return said

    @property
    def sure(self) -> Opened:
        """The envelope's parts, behind the row that says there are some."""
        assert self.opened is not None
        return self.opened

    @property
    def it(self) -> T:
        """The message, behind the row that says there is one."""
        assert self.said is not None
        return self.said

    def verifies(self) -> bool:
        """Whether the signature is the signer's, for our network and use."""
        return self._open(self._verify) is not None


ENVELOPE_ROWS: tuple[Row[Sealed[Any]], ...] = (
    Row("too-large", Verdict.REJECT, lambda h: len(h.data) > h.limit, "too large"),
    Row("not-an-envelope", Verdict.REJECT, lambda h: h.opened is None, "not an envelope of ours"),
    Row(
        "not-canonical",
        Verdict.REJECT,
        lambda h: isinstance(h.plain, NotCanonicalError),
        "not the canonical encoding of its content",
    ),
    Row(
        "not-dag-cbor",
        Verdict.REJECT,
        lambda h: isinstance(h.plain, SynapseError),
        "its payload is not DAG-CBOR",
    ),
)
"""How every table of envelopes begins."""
