"""Who does what in a run, drawn from its seed."""

import random

from simnet.virtual.case import Case
from simnet.virtual.plan import Cast

TWINS = "twins"
"""A liar that is two daemons with one identity and one seat key."""


class Roles:
    """By node number; those below the council's size have the first seats."""

    def __init__(self, case: Case, rng: random.Random) -> None:
        size, family = case.size, case.family
        most = (size - 1) // 3
        count = rng.randint(1, most) if family.liars and most else 0
        drawn = rng.sample(range(size), most)
        self.liars = {number: rng.choice(family.liars) for number in sorted(drawn[:count])}
        """How each of them lies."""
        self.members = tuple(number for number in range(size) if number not in self.liars)
        self.victims = tuple(sorted(drawn[count:]))
        """Members that may lose their memory: with the liars they are fewer than a third."""
        rolled = any(spec.kind == "rollback" for spec in family.faults)
        self.forgetful = self.victims if rolled else ()
        """Those of them that may come to sign against what they signed before."""
        self.newcomers = tuple(range(size, size + family.newcomers))
        doubled = [number for number, kind in self.liars.items() if kind == TWINS]
        end = size + family.newcomers
        self.twins = {end + place: number for place, number in enumerate(doubled)}
        """Second instances: whose."""

    @property
    def cast(self) -> Cast:
        """Whom faults may befall."""
        return Cast(self.members, self.victims, self.newcomers, bool(self.twins))

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self.members) + len(self.liars) + len(self.newcomers) + len(self.twins)
