"""What a proposal would change, as its manifest says it.

    parameter    sets parameters of the network, all or none
    human-key    lets a person's key approve what is risky, or no longer
    adoption     has daemons adopt a manifest: an adapter, a model, ...
    upgrade      replaces a component of the daemon

Only the form is checked here. Whether a change is possible, and how risky it is, the ledger
says (ledger_changes.py).
"""

import re
from typing import Annotated, Literal

import msgspec

from protocols.cid import CID_LENGTH, is_cid
from protocols.codec import Message
from protocols.errors import MalformedError
from protocols.peerid import PUBLIC_KEY_LENGTH

MAX_SETTINGS = 16
"""Parameters that one proposal sets: a class of risk has eight."""
MAX_TEXT = 2048
"""Characters of an upgrade's risks or benefits."""

Value = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_WORD = r"[a-z][a-z0-9_]*"
ParameterName = Annotated[str, msgspec.Meta(max_length=64, pattern=rf"^{_WORD}(\.{_WORD})+\Z")]
ShortName = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Cid = Annotated[bytes, msgspec.Meta(min_length=CID_LENGTH, max_length=CID_LENGTH)]
Key = Annotated[bytes, msgspec.Meta(min_length=PUBLIC_KEY_LENGTH, max_length=PUBLIC_KEY_LENGTH)]

_LINES = {ord("\n"): None, ord("\t"): None}
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*")


class BadChangeError(MalformedError):
    """A change whose parts contradict each other."""

    code = "bad-change"


class Setting(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One parameter's new value, in the registry's unit."""

    name: ParameterName
    value: Value


class ParameterChange(Message, frozen=True, tag_field="kind", tag="parameter"):
    """Parameters of the network and their new values, by rising name."""

    settings: Annotated[tuple[Setting, ...], msgspec.Meta(min_length=1, max_length=MAX_SETTINGS)]

    def __post_init__(self) -> None:
        names = [setting.name for setting in self.settings]
        if names != sorted(set(names)):
            raise BadChangeError("the parameters are not in order of their names, or one is twice")


class HumanKeyChange(Message, frozen=True, tag_field="kind", tag="human-key"):
    """A person's Ed25519 key."""

    action: Literal["add", "remove"]
    name: ShortName
    key: Key

    def __post_init__(self) -> None:
        if not _PRINTABLE.fullmatch(self.name):
            raise BadChangeError("a human key's name holds control characters")


class AdoptionChange(Message, frozen=True, tag_field="kind", tag="adoption"):
    """A manifest to adopt, which must be of the kind that is stated."""

    what: Literal["adapter", "dataset", "expert", "kernel", "model"]
    manifest: Cid

    def __post_init__(self) -> None:
        if not is_cid(self.manifest):
            raise BadChangeError("an adoption names something that is not a content id")


class UpgradeChange(Message, frozen=True, tag_field="kind", tag="upgrade"):
    """A component's new version: the manifest of its code, and what its author expects.

    It is voted on, and its outcome recorded. Nothing puts it in force by itself.
    """

    component: Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[a-z][a-z0-9._-]*\Z")]
    version: ShortName
    manifest: Cid
    risks: Text
    benefits: Text

    def __post_init__(self) -> None:
        if not is_cid(self.manifest):
            raise BadChangeError("an upgrade names something that is not a content id")
        for text in (self.version, self.risks.translate(_LINES), self.benefits.translate(_LINES)):
            if not _PRINTABLE.fullmatch(text):
                raise BadChangeError("an upgrade's version, risks or benefits hold controls")


Change = ParameterChange | HumanKeyChange | AdoptionChange | UpgradeChange


def touched(change: Change | None) -> tuple[bytes, ...]:
    """The manifests that a change acts on, beside those that the proposal links to."""
    return (change.manifest,) if isinstance(change, AdoptionChange | UpgradeChange) else ()
