"""The types of single values on the control socket, with their limits.

Each is also a pattern or a range of the OpenAPI document, so what passes the schema is accepted
or refused for what it means, and not for its form.
"""

from typing import Annotated

from msgspec import Meta

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

CID_PATTERN = "^baf[ky]rei[a-h][a-z2-7]{50}[aeimquy4]$"
"""A CIDv1 of ours in base32: `b`, then 01 (55 or 71) 12 20, a digest, and two bits of padding."""

ModuleName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=NAME_LIMIT)
]
ExpertName = Annotated[
    str,
    Meta(
        pattern=r"^([a-z][a-z0-9_]*\.)?layer(0|[1-9][0-9]{0,5})\.expert(0|[1-9][0-9]{0,5})$",
        max_length=NAME_LIMIT,
    ),
]
PeerText = Annotated[str, Meta(pattern="^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$")]
"""The peer id of an Ed25519 key in base58."""

Name = Annotated[
    str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$", max_length=NAME_LIMIT)
]
"""Text without control or direction-changing characters."""

PathText = Annotated[str, Meta(pattern=r"^/[^\x00]*$", max_length=PATH_LIMIT)]
"""Absolute: the daemon does not run in its caller's folder."""
Part = Annotated[str, Meta(min_length=1, max_length=PART_LIMIT)]
Parts = Annotated[list[Part], Meta(max_length=FILTER_LIMIT)]
Text = Annotated[str, Meta(max_length=4096)]
Word = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._+-]*$", max_length=NAME_LIMIT)]
CidText = Annotated[str, Meta(pattern=CID_PATTERN)]
Cids = Annotated[list[CidText], Meta(max_length=64)]
Bytes = Annotated[int, Meta(ge=0, le=RATE_LIMIT)]
