"""What a scenario with regions waits for and promises."""

from collections import Counter

from protocols.learn.fanin import Pair
from simnet import learnregionparts as parts
from simnet.checks import Finding, ask
from simnet.learnregions import TENSORS, newest_groups
from simnet.learnregionsteps import of_lineage, regions_of, statuses
from simnet.world import World
from synapsed.training import said

Regions = dict[str, int]
"""Numbers of regions by peer id."""


@ask.register
async def ask_routed(check: parts.Routed, world: World) -> Finding:
    lineage = world.learn.lineages.get(check.lineage, "")
    told = await statuses(world.running())
    region_of = regions_of(world, check.regions)
    leaders = _leaders(told, lineage, region_of)
    right = learners = 0
    through: set[tuple[str, int | None]] = set()
    for peer, status in told.items():
        each = of_lineage(status, lineage)
        if each is None or not each.joined:
            continue
        learners += 1
        near = region_of.get(peer)
        if not check.through:
            right += not each.aggregator
        elif each.aggregator:
            right += region_of.get(each.aggregator) == near
            through.add((each.aggregator, near))
        else:
            right += leaders == {near}
    way = f"through {len(through)} aggregators" if check.through else "straight"
    gathered = len(through) == len({near for _, near in through})
    text = f"{right} of {learners} learners send {way}"
    return Finding(gathered and 0 < learners == right, text)


def _leaders(
    told: dict[str, said.TrainStatus], lineage: str, region_of: Regions
) -> set[int | None]:
    """Regions that have a group's primary."""
    every = [of_lineage(status, lineage) for status in told.values()]
    groups = newest_groups([each for each in every if each is not None])
    return {region_of.get(group.primary) for group in groups.values()}


@ask.register
async def ask_gathered(check: parts.Gathered, world: World) -> Finding:
    lineage = world.learn.lineages.get(check.lineage, "")
    region_of = regions_of(world, check.regions)
    sums: Counter[int | None] = Counter()
    for peer, count in world.learn.regions.sums_of(lineage).items():
        sums[region_of.get(peer)] += count
    leaders = _leaders(await statuses(world.running()), lineage, region_of)
    holds = all(
        sums[number] >= check.sums or leaders == {number} for number in range(len(check.regions))
    )
    each = ", ".join(str(sums[number]) for number in range(len(check.regions)))
    return Finding(holds, f"sums in committed rounds, by region: {each}")


@ask.register
async def ask_crossed_less(check: parts.CrossedLess, world: World) -> Finding:
    meters = world.learn.regions.meters
    lacking = [name for name in (check.before, check.after) if name not in meters]
    if lacking:
        return Finding(False, f"nothing was metered as {lacking[0]!r}")
    before, after = meters[check.before], meters[check.after]
    times = before.each / max(1.0, after.each)
    text = f"{before.each / 1e3:.0f} kB a round between regions, then {after.each / 1e3:.0f}:"
    return Finding(times >= check.times, f"{text} {times:.1f} times less")


@ask.register
async def ask_fan_in(check: parts.FanIn, world: World) -> Finding:
    found = world.learn.regions.meters.get(check.meter)
    if found is None:
        return Finding(False, f"nothing was metered as {check.meter!r}")
    names = {daemon.identity.text.encode(): daemon.index for daemon in world.daemons}
    moved = {pair for pair, count in found.moved.items() if count >= TENSORS}
    inside = sum(count for pair, count in found.moved.items() if pair in found.allowed)
    share = inside / max(1, sum(found.moved.values()))
    every = len(names) * (len(names) - 1) // 2
    text = f"{len(moved)} pairs of {every} moved tensors, {found.predicted} by the rule"
    text += f", which have {share:.1%} of the bytes"

    def told(pair: Pair) -> str:
        return f"{names.get(pair[0])} and {names.get(pair[1])} ({found.moved[pair]} bytes)"

    if beyond := sorted(moved - found.allowed):
        text += f"; beyond them {', '.join(map(told, beyond[:3]))}"
    return Finding(bool(moved) and share >= check.share, text)


@ask.register
async def ask_audited(check: parts.Audited, world: World) -> Finding:
    record = world.learn.regions
    honest = [same for daemon, same in record.audits if daemon not in record.liars]
    right, wrong = honest.count(True), honest.count(False)
    text = f"{len(honest)} sums were recomputed: {right} right, {wrong} wrong"
    return Finding(right >= check.count, text)


@ask.register
async def ask_caught(check: parts.Caught, world: World) -> Finding:
    lineage = world.learn.lineages.get(check.lineage, "")
    record = world.learn.regions
    liars = {daemon.identity.text: daemon for daemon in world.choose(check.who)}
    honest = {(by, whom) for by, whom in record.caught if by not in record.liars}
    least = min(sum(whom == liar for _, whom in honest) for liar in liars)
    wronged = {whom for _, whom in honest} - liars.keys()
    told = await statuses(world.running())
    through = 0
    for peer, status in told.items():
        each = of_lineage(status, lineage)
        through += each is not None and each.aggregator in liars and peer not in liars
    text = f"{', '.join(map(str, liars.values()))} caught by {least} daemons or more, "
    text += f"{through} honest learners still send through it, {len(wronged)} honest ones caught"
    return Finding(least >= check.by_at_least and not wronged and not through, text)
