"""What each step of a scenario does. Every one answers with a few words on what happened."""

import time
from collections.abc import Awaitable, Callable
from functools import partial, singledispatch

import trio

from protocols.errors import SynapseError
from simnet import scenario as s
from simnet.checks import Finding, held_bytes, look
from simnet.daemon import Daemon
from simnet.liars import start_liar
from simnet.models import differences, files_of, tile_sizes
from simnet.weather import Weather
from simnet.world import ExportRecord, Model, Published, PullRecord, World
from synapsed.control import models

POLL_S = 0.25
"""Between two looks of a wait."""

POLL_EACH_S = 0.02
"""The same for each daemon that runs: a look asks all of them, at 2 ms each on both sides."""

TELL_S = 5.0
"""Between two lines that say what a wait still waits for."""

GOOD_PART = 0.25
"""Of a model's bytes, what makes a holder worth killing: headers alone are everywhere."""


class StepError(SynapseError):
    """A step could not be done, or what it waited for did not come."""

    code = "step-failed"


def no_progress(_: models.Progress) -> None:
    """Steps tell of ends, not of the way."""


async def at_once(
    daemons: list[Daemon], act: Callable[[Daemon], Awaitable[None]], limit: int = 1000
) -> None:
    """`act` on all daemons, `limit` at a time; the first failure is raised as it is."""
    turn = trio.CapacityLimiter(limit)
    failed: list[SynapseError] = []

    async def one(daemon: Daemon, nursery: trio.Nursery) -> None:
        async with turn:
            try:
                await act(daemon)
            except SynapseError as error:
                failed.append(error)
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for daemon in daemons:
            nursery.start_soon(one, daemon, nursery)
    if failed:
        raise failed[0]


def named(daemons: list[Daemon]) -> str:
    """The daemons as people read them."""
    numbers = [daemon.index for daemon in daemons]
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"daemons {numbers[0]}-{numbers[-1]}"
    return f"daemon{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers))}"


async def wait_for(world: World, check: s.Checks, within: float) -> Finding:
    """Look until the check holds or the time is over; the last finding."""
    told = trio.current_time()
    deadline = told + within
    while True:
        finding = await look(check, world)
        if finding.holds or trio.current_time() >= deadline:
            return finding
        if trio.current_time() - told >= TELL_S:
            told = trio.current_time()
            world.say(f"        ... {finding.text}")
        await trio.sleep(max(POLL_S, POLL_EACH_S * len(world.running())))


@singledispatch
async def perform(step: s.Step, world: World) -> str:
    """Do one step; StepError, LifeError or what the control socket answered."""
    raise NotImplementedError(type(step))


# -- lives ------------------------------------------------------------------------------------


@perform.register
async def do_start(step: s.Start, world: World) -> str:
    chosen = world.choose(step.who)
    await at_once(chosen, world.start, step.at_once)
    return f"{named(chosen)} ready"


@perform.register
async def do_restart(step: s.Restart, world: World) -> str:
    chosen = world.choose(step.who)
    await at_once(chosen, partial(world.start, kind="restart"), 8)
    return f"{named(chosen)} started again"


async def _signal(world: World, who: s.Who, number: str, kind: str) -> str:
    chosen = world.choose(who)

    async def one(daemon: Daemon) -> None:
        world.mark(kind, daemon.index)
        world.weather.faults[kind] += 1
        await daemon.signal(world.forks, number)

    await at_once(chosen, one)
    return f"{named(chosen)}: SIG{number}"


@perform.register
async def do_kill(step: s.Kill, world: World) -> str:
    return await _signal(world, step.who, "KILL", "kill")


@perform.register
async def do_stop(step: s.Stop, world: World) -> str:
    return await _signal(world, step.who, "TERM", "stop")


@perform.register
async def do_pause(step: s.Pause, world: World) -> str:
    return await _signal(world, step.who, "STOP", "pause")


@perform.register
async def do_resume(step: s.Resume, world: World) -> str:
    return await _signal(world, step.who, "CONT", "resume")


@perform.register
async def do_pick(step: s.Pick, world: World) -> str:
    but = {daemon.index for daemon in world.choose(step.but)}
    fit = [daemon for daemon in world.choose(step.out_of) if daemon.index not in but]
    if step.holding:
        model = world.models[step.holding]
        held = [(daemon, await held_bytes(daemon, model.cid)) for daemon in fit if daemon.up]
        fit = [daemon for daemon, (count, _) in held if count >= GOOD_PART * model.size]
    if len(fit) < step.count:
        raise StepError(f"only {len(fit)} daemons fit, and {step.count} are to be picked")
    chosen = sorted(world.random.sample(fit, step.count), key=lambda daemon: daemon.index)
    world.names[step.name] = [daemon.index for daemon in chosen]
    return f"{step.name} = {named(chosen)}"


# -- models -----------------------------------------------------------------------------------


@perform.register
async def do_import(step: s.Import, world: World) -> str:
    model = world.models[step.model]
    for daemon in world.choose(step.who):
        world.mark("import", daemon.index)
        asked = models.ImportRequest(path=str(model.folder), name=model.name)
        result = await daemon.client.work(
            "/v1/models/import", models.ImportResult, asked, no_progress
        )
        model.cid = result.cid
        model.tiles = await _tiles(daemon, model.cid)
    if not world.timeline.model:
        world.timeline.model = f"{model.name}, {model.size / 1e6:.0f} MB"
        world.timeline.tiles = model.tiles
        sizes = tile_sizes(model.folder)
        world.timeline.sizes = sizes if len(sizes) == model.tiles else []
        copies = world.scenario.config.get("replication", {}).get("copies", 0)
        world.timeline.copies = int(copies)
    return f"{model.cid}: {model.size / 1e6:.1f} MB, {model.tiles} tiles"


async def _tiles(daemon: Daemon, cid: str) -> int:
    """Tiles of a model that `daemon` has just imported; it counts them when it announces them."""
    with trio.move_on_after(TELL_S):
        while True:
            if tiles := (await daemon.model(cid)).tiles:
                return tiles
            await trio.sleep(POLL_S)
    raise StepError(f"{daemon} has imported {cid} and does not say how many tiles it has")


@perform.register
async def do_pull(step: s.Pull, world: World) -> str:
    model = world.models[step.model]
    chosen = world.choose(step.who)
    if step.background:
        for daemon in chosen:
            world.nursery.start_soon(_pull, world, daemon, model, step.experts)
        return f"{named(chosen)} began"
    began = len(world.pulls)
    async with trio.open_nursery() as nursery:
        for daemon in chosen:
            nursery.start_soon(_pull, world, daemon, model, step.experts)
    done = world.pulls[began:]
    failed = [record for record in done if record.seconds is None]
    if failed:
        raise StepError(f"daemon {failed[0].daemon} did not get it: {failed[0].error}")
    return "; ".join(
        f"daemon {record.daemon}: {record.fetched / 1e6:.1f} MB from {record.sources} peers "
        f"in {record.seconds:.1f} s"
        for record in done
    )


async def _pull(world: World, daemon: Daemon, model: Model, experts: list[str]) -> None:
    record = PullRecord(daemon.index, model.name, world.now)
    world.pulls.append(record)
    world.mark("pull", daemon.index)
    asked = models.PullRequest(experts=experts)
    try:
        result = await daemon.client.work(
            f"/v1/models/{model.cid}/pull", models.PullResult, asked, no_progress
        )
    except SynapseError as error:
        record.error = str(error)
        return
    record.seconds = world.now - record.began
    record.fetched = result.fetched
    record.sources = sum(source.bytes > 0 for source in result.sources)
    world.mark("pulled", daemon.index)


@perform.register
async def do_export(step: s.Export, world: World) -> str:
    model = world.models[step.model]
    found: list[str] = []
    for daemon in world.choose(step.who):
        folder = world.work / "exports" / f"{daemon.index}-{model.name}"
        folder.parent.mkdir(exist_ok=True)
        asked = models.ExportRequest(path=str(folder))
        await daemon.client.work(
            f"/v1/models/{model.cid}/export", models.ExportResult, asked, no_progress
        )
        wrong = await trio.to_thread.run_sync(differences, model.folder, folder)
        record = ExportRecord(daemon.index, model.name, len(files_of(model.folder)), wrong)
        world.exports.append(record)
        if wrong:
            raise StepError(f"{daemon} exported other files: {'; '.join(wrong[:5])}")
        world.mark("exported", daemon.index)
        found.append(f"{daemon}: {record.files} files, cmp equal")
    return "; ".join(found)


# -- announcements ----------------------------------------------------------------------------


@perform.register
async def do_announce(step: s.Announce, world: World) -> str:
    chosen = world.choose(step.who)
    for number in range(step.count):
        due = trio.current_time() + step.every
        await announce(world, chosen[number % len(chosen)], len(world.published))
        await trio.sleep_until(due)
    return f"{step.count} announcements by {named(chosen)}"


async def announce(world: World, daemon: Daemon, number: int) -> None:
    """Have `daemon` publish proposal `number` of this world."""
    draft = models.ProposalDraft(title=f"proposal {number} of seed {world.seed}")
    at = time.time()
    made = await daemon.client.call("POST", "/v1/announcements", models.AnnouncementInfo, draft)
    world.published[made.id] = Published(daemon.index, at)


# -- links ------------------------------------------------------------------------------------


@perform.register
async def do_partition(step: s.Partition, world: World) -> str:
    groups = [[daemon.index for daemon in world.choose(group)] for group in step.groups]
    world.fabric.change(lambda weather: weather.partition(groups, step.cut))
    world.weather.faults["partition"] += 1
    return " | ".join(named([world.daemons[i] for i in group]) for group in groups)


@perform.register
async def do_heal(_step: s.Heal, world: World) -> str:
    world.fabric.change(Weather.heal)
    return "all links carry again"


@perform.register
async def do_links(step: s.Links, world: World) -> str:
    links = [
        (one.index, other.index)
        for one in world.choose(step.senders)
        for other in world.choose(step.receivers)
        if one is not other
    ]
    links += [(receiver, sender) for sender, receiver in links] if step.both else []

    def alter(weather: Weather) -> None:
        for link in links:
            weather.set_link(link, step.shape)

    world.fabric.change(alter)
    return f"{len(set(links))} links"


@perform.register
async def do_rates(step: s.Rates, world: World) -> str:
    chosen = world.choose(step.who)

    def alter(weather: Weather) -> None:
        for daemon in chosen:
            weather.set_uplink(daemon.index, step.up)
            weather.set_downlink(daemon.index, step.down)

    world.fabric.change(alter)
    return f"{named(chosen)}: {step.up / 1e6:g} MB/s up, {step.down / 1e6:g} MB/s down (0: free)"


@perform.register
async def do_reset(step: s.Reset, world: World) -> str:
    chosen = world.choose(step.who)
    for daemon in chosen:
        world.fabric.reset_all(daemon.index)
    return f"connections of {named(chosen)} reset"


# -- liars, time ------------------------------------------------------------------------------


@perform.register
async def do_lie(step: s.Lie, world: World) -> str:
    model = world.models[step.model]
    world.liars[step.name] = [
        await start_liar(world, step.name, number, step.how, model) for number in range(step.count)
    ]
    return f"{step.count} of them, {step.how}"


@perform.register
async def do_wait(step: s.Wait, world: World) -> str:
    finding = await wait_for(world, step.until, step.within)
    if not finding.holds:
        raise StepError(f"not within {step.within:.0f} s: {finding.text}")
    return finding.text


@perform.register
async def do_let(step: s.Let, _world: World) -> str:
    await trio.sleep(step.seconds)
    return f"{step.seconds:g} s passed"
