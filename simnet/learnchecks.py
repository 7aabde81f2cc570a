"""What a learning scenario waits for and promises."""

from simnet import learnparts as parts
from simnet.checks import Finding, ask, of_each
from simnet.daemon import Daemon
from simnet.learnsteps import group_of, training
from simnet.world import World
from synapsed.control import ledgermodels
from synapsed.training import said


def _lineage(world: World, name: str) -> str:
    """Its CID, or nothing's where no step has made it."""
    return world.learn.lineages.get(name, "")


def _of(status: said.TrainStatus, lineage: str) -> said.TrainingSaid | None:
    return next((each for each in status.trainings if each.lineage == lineage), None)


@ask.register
async def ask_training_open(check: parts.TrainingOpen, world: World) -> Finding:
    lineage = _lineage(world, check.lineage)
    found = await of_each(world.choose(check.who), training)
    count = sum(_of(status, lineage) is not None for status in found)
    return Finding(count == len(found), f"{count} of {len(found)} ledgers have it")


@ask.register
async def ask_trained(check: parts.Trained, world: World) -> Finding:
    lineage = _lineage(world, check.lineage)
    found = [_of(each, lineage) for each in await of_each(world.choose(check.who), training)]
    rounds = [0 if each is None else each.round for each in found]
    why = sorted({f"{each.state}: {each.why}" for each in found if each is not None and each.why})
    text = f"rounds {min(rounds)} to {max(rounds)} of {check.rounds}"
    return Finding(min(rounds) >= check.rounds, "; ".join([text, *why]))


@ask.register
async def ask_loss_fell(check: parts.LossFell, world: World) -> Finding:
    lineage = _lineage(world, check.lineage)
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for sample in world.timeline.learning:
        if sample.lineage == lineage and sample.loss is not None:
            first.setdefault(sample.daemon, sample.loss)
            last[sample.daemon] = sample.loss
    if not first:
        return Finding(False, "nobody has learned anything yet")
    before = sum(first.values()) / len(first)
    after = sum(last.values()) / len(last)
    text = f"from {before:.3f} to {after:.3f} nats a token, {len(first)} learners"
    return Finding(before - after >= check.nats, text)


@ask.register
async def ask_gave(check: parts.Gave, world: World) -> Finding:
    lineage = _lineage(world, check.lineage)
    found = [_of(each, lineage) for each in await of_each(world.choose(check.who), training)]
    given = [0 if each is None else each.contributed for each in found]
    return Finding(min(given) >= check.deltas, f"{min(given)} to {max(given)} of {check.deltas}")


@ask.register
async def ask_one_version(check: parts.OneVersion, world: World) -> Finding:
    lineage = _lineage(world, check.lineage)
    liars = {daemon.index for daemon in world.choose(check.liars)}
    told = {
        key: [found for daemon, found in by.items() if daemon not in liars]
        for key, by in world.learn.heads.items()
        if key[0] == lineage
    }
    heads = {key: set[str]().union(*found) for key, found in told.items() if found}
    apart = [key[1:] for key, found in heads.items() if len(found) > 1]
    shared = sum(len(told[key]) > 1 for key in heads)
    text = f"{len(heads)} versions seen, {shared} of them on several daemons, {len(apart)} differ"
    return Finding(not apart and shared >= check.count, text + (f": {apart[0]}" if apart else ""))


@ask.register
async def ask_took_over(check: parts.TookOver, world: World) -> Finding:
    if check.after not in world.learn.led:
        return Finding(False, f"nobody was named {check.after!r}")
    if check.after in world.learn.succeeded:
        return Finding(True, world.learn.succeeded[check.after])
    lineage, led = _lineage(world, check.lineage), world.learn.led[check.after]
    was = world.daemons[led.daemon].identity.text
    seats = {daemon.identity.text: daemon for daemon in world.daemons}
    newest, leader = (led.epoch, led.term), was
    for status in await of_each(world.running(), training):
        group = group_of(status, lineage, led.group)
        if group is not None and group.primary and (group.epoch, group.term) > newest:
            newest, leader = (group.epoch, group.term), group.primary
    who = seats.get(leader, leader)
    text = f"{who} leads group {led.group} in term {newest[0]}.{newest[1]}"
    text += f", after {led.epoch}.{led.term}"
    if leader != was:
        world.learn.succeeded[check.after] = text
    return Finding(leader != was, text)


@ask.register
async def ask_improved(check: parts.Improved, world: World) -> Finding:
    lineage = _lineage(world, check.lineage)
    found = [_of(each, lineage) for each in await of_each(world.choose(check.who), training)]
    heads = {each.head for each in found if each is not None}
    moved = sum(each is not None and each.head != lineage for each in found)
    text = f"{moved} of {len(found)} have a better checkpoint ({len(heads)} heads)"
    return Finding(moved == len(found) and len(heads) == 1, text)


@ask.register
async def ask_no_bans(check: parts.NoBans, world: World) -> Finding:
    daemons = world.choose(check.who)
    names = {daemon.identity.text: daemon for daemon in daemons}
    lists = await of_each(daemons, lambda daemon: daemon.peers("all"))
    bans = [
        f"{daemon} bans {names[peer.peer_id]}"
        for daemon, peers in zip(daemons, lists, strict=True)
        for peer in peers
        if peer.banned_until is not None and peer.peer_id in names
    ]
    return Finding(not bans, f"{len(daemons)} daemons: {'; '.join(bans) or 'no bans'}")


@ask.register
async def ask_uncredited(check: parts.Uncredited, world: World) -> Finding:
    told = await of_each(world.running()[:1], reputation)
    paid = {each.peer_id: each.credits for each in told[0].reputations if each.credits}
    liars = {daemon.identity.text for daemon in world.choose(check.who)}
    wrong = sorted(liars & paid.keys())
    text = f"{len(paid)} identities earned {sum(paid.values())} credits, {len(wrong)} of them liars"
    return Finding(bool(paid) and not wrong, text)


@ask.register
async def ask_excluded(check: parts.Excluded, world: World) -> Finding:
    lineage = _lineage(world, check.lineage)
    liars = {daemon.identity.text for daemon in world.choose(check.who)}
    found = [_of(each, lineage) for each in await of_each(world.running(), training)]
    told = [set() if each is None else {one.peer for one in each.excluded} for each in found]
    right = sum(each == liars for each in told)
    wronged = set[str]().union(*told) - liars
    text = f"{right} of {len(told)} ledgers exclude {len(liars)}, and {len(wronged)} others"
    return Finding(bool(told) and right == len(told), text)


async def reputation(daemon: Daemon) -> ledgermodels.Reputations:
    """`GET /v1/reputation`."""
    return await daemon.client.call("GET", "/v1/reputation", ledgermodels.Reputations)
