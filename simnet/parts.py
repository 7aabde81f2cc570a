"""What everything in a scenario file is made of."""

from typing import Annotated

import msgspec
from msgspec import Meta

Choice = int | str
Who = Choice | list[Choice]
Count = Annotated[int, Meta(ge=1)]
Time = Annotated[float, Meta(gt=0)]


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """Base of everything in a scenario."""


class Check(Part, tag_field="check"):
    """Something that a step waits for, or that is promised at the end."""


class Step(Part, tag_field="do"):
    """Base of all steps. `note` is what the picture writes beside its mark."""

    note: str = ""
