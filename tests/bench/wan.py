"""wan: round trips of a submission through seven daemons, 100 ms of round trip apart.

`commit_rtts` is the median from the leader's receipt to ratification at the leader,
`certificate_rtts` that to the certificate at the other members. In virtual time, with whole
daemons and disks that take 1 ms: nothing here depends on this machine.
"""

from collections.abc import Callable
from statistics import median

from simnet.virtual.wan import trips

REACH = {"commit_rtts": "<= 2.2", "certificate_rtts": "<= 2.7"}

MEMBERS = 7
ROUND_TRIP_S = 0.1
SUBMISSIONS = 200


def measure(say: Callable[[str], None]) -> dict[str, float | int]:
    """Submit one after another, at times that fit nothing."""
    found = trips(MEMBERS, ROUND_TRIP_S, SUBMISSIONS)
    say(f"{len(found.commits)} commits, {len(found.certificates)} certificates at members")
    if len(found.commits) < SUBMISSIONS or len(found.certificates) < SUBMISSIONS * (MEMBERS - 1):
        raise RuntimeError("some submissions were not ratified everywhere")
    return {
        "commit_rtts": round(median(found.commits), 3),
        "certificate_rtts": round(median(found.certificates), 3),
        "commit_rtts_p99": round(sorted(found.commits)[int(0.99 * len(found.commits))], 3),
    }
