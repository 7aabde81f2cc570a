"""The types of single values on the control socket, with their limits.

Each is also a pattern or a range of the OpenAPI document, so what passes the schema is accepted
or refused for what it means, and not for its form. What a pattern asks for stands beside it in
words: they are the document's description, and what a refusal says (wording.py).
"""

from typing import Annotated

from msgspec import Meta

from protocols.changes import MAX_TEXT
from synapsed.config.options import MIN_QUOTA

NAME_LIMIT = 128
"""Characters in a model's name, as in its manifest (protocols/manifest.py)."""

PART_LIMIT = 256
"""Characters in the name of an expert or tensor: published ones stop near 100."""

PATH_LIMIT = 4096
"""Linux's PATH_MAX."""

FILTER_LIMIT = 10_000
"""Experts or tensors in one pull: more than any model has experts; ask for the whole instead."""

RATE_LIMIT = 1 << 50
"""Bytes per second, and bytes of quota: a petabyte, so that sums stay far inside 64 bits."""

MAX_PULLS_LIMIT = 64
"""As in the config."""

MAX_JOB = 1 << 53
"""Numbers that JSON's readers keep exactly."""

_CID = "^baf[ky]rei[a-h][a-z2-7]{50}[aeimquy4]"
CID_PATTERN = f"{_CID}$"
"""A CIDv1 of ours in base32: `b`, then 01 (55 or 71) 12 20, a digest, and two bits of padding."""

PEER_PATTERN = "^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$"
"""The peer id of an Ed25519 key."""

MAX_ENTRIES = 1000
"""In one answer: a screen has fifty, and 4 MiB stop it before."""

SLOT_PATTERN = "^[a-z][a-z0-9_]{0,63}$"

A_PEER = "the peer id of an Ed25519 key in base58"
A_CID = "a content id (bafyrei...) in full"
A_SLOT = "a slot's name such as peer_scoring (`synapsectl upgrade slots`)"
IN_PATHS = {CID_PATTERN: A_CID, PEER_PATTERN: A_PEER, SLOT_PATTERN: A_SLOT}
"""What the patterns of paths and queries ask for."""

WORDS: dict[str, str] = {}
"""What each pattern asks for."""


def _like(pattern: str, words: str, limit: int | None = None) -> Meta:
    """Text that `pattern`, which has no end of its own, matches up to the text's end.

    `$` alone means that to OpenAPI's readers; Python's also stands before a last newline.
    """
    whole = rf"{pattern}$(?!\n)"
    WORDS[whole] = words
    return Meta(pattern=whole, description=f"{words[0].upper()}{words[1:]}.", max_length=limit)


ModuleName = Annotated[
    str,
    _like(
        r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*",
        "a module's name: letters, digits and underscores, joined by dots",
        NAME_LIMIT,
    ),
]
ExpertName = Annotated[
    str,
    _like(
        r"^([a-z][a-z0-9_]*\.)?layer(0|[1-9][0-9]{0,5})\.expert(0|[1-9][0-9]{0,5})",
        "an expert's name such as layer4.expert7",
        NAME_LIMIT,
    ),
]
PeerText = Annotated[str, _like(PEER_PATTERN.removesuffix("$"), A_PEER)]

Name = Annotated[
    str,
    _like(
        r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+",
        "some text without control or direction-changing characters",
        NAME_LIMIT,
    ),
]

PathText = Annotated[str, _like(r"^/[^\x00]*", "an absolute path", PATH_LIMIT)]
"""Absolute: the daemon does not run in its caller's folder."""
Part = Annotated[str, Meta(min_length=1, max_length=PART_LIMIT)]
Parts = Annotated[list[Part], Meta(max_length=FILTER_LIMIT)]
Text = Annotated[str, Meta(max_length=4096)]
Word = Annotated[
    str,
    _like(
        r"^[a-z0-9][a-z0-9._+-]*", "lower-case letters, digits, dots, dashes, + and _", NAME_LIMIT
    ),
]
CidText = Annotated[str, _like(_CID, A_CID)]
Cids = Annotated[list[CidText], Meta(max_length=64)]
KeyText = Annotated[
    str, _like("^z6Mk[1-9A-HJ-NP-Za-km-z]{44}", "an Ed25519 key in base58 (z6Mk...)")
]
ApprovalSignature = Annotated[
    str, _like("^[0-9a-f]{128}", "an Ed25519 signature: 128 hexadecimal digits")
]
ParameterName = Annotated[
    str,
    _like(r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", "a parameter's name such as limits.upload", 64),
]
ParameterValue = Annotated[int, Meta(ge=0, le=MAX_JOB)]
SlotText = Annotated[str, _like(SLOT_PATTERN.removesuffix("$"), A_SLOT)]
UpgradeText = Annotated[str, Meta(max_length=MAX_TEXT)]
NoteText = Annotated[str, Meta(min_length=1, max_length=1024)]
RawSubmission = Annotated[bytes, Meta(min_length=1, max_length=1 << 17)]
Bytes = Annotated[int, Meta(ge=0, le=RATE_LIMIT)]
Quota = Annotated[int, Meta(ge=int(MIN_QUOTA), le=RATE_LIMIT)]
