"""What a scenario file says of the ledger: who founds it, what is submitted, what must hold."""

from typing import Annotated, Literal

from msgspec import Meta, field

from simnet.parts import Check, Count, Part, Step, Who


class Founding(Part, kw_only=True):
    """The genesis: the first council, everybody's first reputation, and parameters."""

    members: Who
    reputation: Count = 100  # of each member
    others: Annotated[int, Meta(ge=0)] = 0  # of each daemon that is no member; 0: a newcomer
    params: dict[str, int] = field(default_factory=dict)


# -- steps ------------------------------------------------------------------------------------


class Load(Step, kw_only=True, tag="load"):
    """`who` submit `count` notes, one every `every` seconds in all, in turn; each is waited for.

    In the background they go on while later steps are done.
    """

    who: Who
    count: Count
    every: Annotated[float, Meta(ge=0)] = 0.1
    background: bool = False


class Propose(Step, kw_only=True, tag="propose"):
    """One daemon proposes to set parameters; later steps call the proposal `name`."""

    name: str
    who: int
    set: dict[str, int]
    title: str = "a parameter"


class Vote(Step, kw_only=True, tag="vote"):
    """Daemons vote, all at once, each until its vote is ratified."""

    who: Who
    proposal: str
    choice: Literal["yes", "no", "abstain"] = "yes"


class Leader(Step, kw_only=True, tag="leader"):
    """Call the daemon that leads the council now `name`."""

    name: str
    asked: Who = "running"


class Height(Step, kw_only=True, tag="height"):
    """Call the highest index that any daemon has ratified `name`."""

    name: str


class Wipe(Step, kw_only=True, tag="wipe"):
    """Lose the disks of daemons that have ended: their stores, and what they had signed."""

    who: Who


class DoubleSign(Step, kw_only=True, tag="double-sign"):
    """A daemon that has ended comes back as a liar with its keys.

    Whatever it acknowledges as a member, it signs something else at that index too; when it
    leads, it sends a second batch behind each.
    """

    who: Who


# -- checks -----------------------------------------------------------------------------------


class Above(Check, kw_only=True, tag="above"):
    """Everyone's ratified ledger is `more` entries above a height named before."""

    height: str
    more: Count = 1
    who: Who = "running"


class LedgersAgree(Check, kw_only=True, tag="ledgers-agree"):
    """Everyone has ratified `index` or more, and has the same entry at the least such height."""

    index: Count = 1
    who: Who = "running"


class OneHistory(Check, kw_only=True, tag="one-history"):
    """Entry by entry all ledgers are one; whatever a daemon ever called ratified is in it."""

    who: Who = "running"


class NotesRatified(Check, kw_only=True, tag="notes-ratified"):
    """Of the notes that were submitted, this share was ratified, and all stand in the ledger."""

    share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    count: Count = 1
    p99: Annotated[float, Meta(ge=0)] = 0  # seconds from submission; 0: not bounded


class Parameter(Check, kw_only=True, tag="parameter"):
    """On everyone it has this value, since one index, and each names a certificate of a quorum."""

    name: str
    value: int
    who: Who = "running"


class Seated(Check, kw_only=True, tag="seated"):
    """Everyone knows a council of epoch `epoch` or later with all of `members`, none of `out`."""

    members: Who = field(default_factory=list)
    out: Who = field(default_factory=list)
    epoch: Count = 1
    who: Who = "running"


class Guilty(Check, kw_only=True, tag="guilty"):
    """Everyone's ledger has proof that these daemons signed what excludes each other."""

    members: Who
    who: Who = "running"


class RoleIs(Check, kw_only=True, tag="role"):
    """They say that this is what they are to the council."""

    who: Who
    role: Literal["member", "willing", "follower", "lost-state"]
