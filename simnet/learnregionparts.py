"""What a scenario file says of regions: who aggregates, what crosses, who is caught."""

from typing import Annotated

from msgspec import Meta

from simnet.parts import Check, Count, Step, Time, Who

Regions = Annotated[list[Who], Meta(min_length=2)]
"""Daemons that are near to each other, region by region."""


class Office(Step, kw_only=True, tag="office"):
    """Name the daemon that most learners of `who` send through, once its epoch has some time left:
    whoever aggregates is drawn anew with each."""

    name: str
    lineage: str
    who: Who = "running"
    left: Time = 20.0  # seconds of the epoch
    learners: Count = 2  # that send through it, itself included


class LieInSums(Step, kw_only=True, tag="lie-in-sums"):
    """From now on these say the opposite wherever they sum a region's deltas (lyingcompute.py)."""

    who: Who


class Meter(Step, kw_only=True, tag="meter"):
    """Count what training sends from region to region while `rounds` rounds go by; later checks
    call it `name`."""

    name: str
    lineage: str
    regions: Regions
    rounds: Count
    within: Time = 120.0
    left: Annotated[float, Meta(ge=0)] = 0.0  # seconds of the epoch; else it waits for the next


# -- checks -----------------------------------------------------------------------------------


class Routed(Check, kw_only=True, tag="routed"):
    """Every learner sends through the one aggregator of its own region, unless all primaries are in
    that region; or, if not `through`, straight to the primaries."""

    lineage: str
    regions: Regions
    through: bool = True


class Gathered(Check, kw_only=True, tag="gathered"):
    """In each region somebody aggregated: `sums` of them are in committed rounds. Of a region that
    has all primaries there need be none."""

    lineage: str
    regions: Regions
    sums: Count = 1


class CrossedLess(Check, kw_only=True, tag="crossed-less"):
    """A round took so many times less between regions in the second metering."""

    before: str
    after: str
    times: Annotated[float, Meta(gt=1)]


class FanIn(Check, kw_only=True, tag="fan-in"):
    """Of what training moved while it was metered, this share went between the pairs that
    protocols/learn/fanin.py counts (and aggregators and replicas of which one had to be asked for
    another's rounds). The rest are learners who asked whoever else had what they lacked."""

    meter: str
    share: Annotated[float, Meta(gt=0, le=1)] = 0.9


class Audited(Check, kw_only=True, tag="audited"):
    """So many sums of others were recomputed, and found right, by daemons that do not lie."""

    lineage: str
    count: Count = 1


class Caught(Check, kw_only=True, tag="caught"):
    """`by_at_least` daemons have found out each of `who`; nobody sends through them any more, and
    nobody honest has found out anybody else."""

    who: Who
    lineage: str
    by_at_least: Count = 1
