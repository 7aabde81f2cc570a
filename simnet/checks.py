"""What steps wait for and what a scenario promises, looked at through the daemons' own sockets."""

import math
from collections.abc import Awaitable, Callable
from functools import singledispatch
from typing import TypeVar

import msgspec
import trio

from protocols.errors import SynapseError
from simnet import scenario as s
from simnet.daemon import Daemon
from simnet.timeline import copies
from simnet.world import World

T = TypeVar("T")


class Finding(msgspec.Struct):
    """Whether a check holds, and what was seen."""

    holds: bool
    text: str


@singledispatch
async def ask(check: s.Check, world: World) -> Finding:
    """Look once. Raises SynapseError where a daemon does not answer."""
    raise NotImplementedError(type(check))


async def look(check: s.Check, world: World) -> Finding:
    """Look once; a daemon that does not answer is a finding too."""
    try:
        return await ask(check, world)
    except SynapseError as error:
        return Finding(False, str(error))


async def of_each(daemons: list[Daemon], get: Callable[[Daemon], Awaitable[T]]) -> list[T]:
    """`get` of every daemon, all at once, in their order; the first SynapseError is raised."""
    found: dict[int, T] = {}
    failed: list[SynapseError] = []

    async def one(at: int, daemon: Daemon) -> None:
        try:
            found[at] = await get(daemon)
        except SynapseError as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        for at, daemon in enumerate(daemons):
            nursery.start_soon(one, at, daemon)
    if failed:
        raise failed[0]
    return [found[at] for at in range(len(daemons))]


# -- the swarm --------------------------------------------------------------------------------


@ask.register
async def ask_met(check: s.Met, world: World) -> Finding:
    daemons = world.choose(check.who)
    running = {daemon.identity.text for daemon in world.running()}

    async def met(daemon: Daemon) -> int:
        # Of a peer that was just killed a daemon may not know yet.
        return len(running & {peer.peer_id for peer in await daemon.peers("connected")})

    counts = await of_each(daemons, met)
    enough = sum(count >= check.peers for count in counts)
    text = (
        f"{enough} of {len(daemons)} are connected to {check.peers} or more (least: {min(counts)})"
    )
    return Finding(enough == len(daemons), text)


@ask.register
async def ask_live_lists_equal(check: s.LiveListsEqual, world: World) -> Finding:
    daemons = world.choose(check.who)
    running = {daemon.identity.text for daemon in world.running()}
    liars = {liar.identity.text for group in world.liars.values() for liar in group}

    async def live(daemon: Daemon) -> set[str]:
        others = {peer.peer_id for peer in await daemon.peers("live")}
        return (others | {daemon.identity.text}) - liars

    lists = await of_each(daemons, live)
    right = sum(found == running for found in lists)
    missing = max(len(running - found) for found in lists)
    ghosts = max(len(found - running) for found in lists)
    text = f"{right} of {len(daemons)} live lists name exactly the {len(running)} that run"
    if right < len(daemons):
        text += f" (at worst {missing} missing, {ghosts} that do not run)"
    return Finding(right == len(daemons), text)


async def catalog(daemon: Daemon) -> frozenset[str]:
    """The ids in a daemon's catalog."""
    return frozenset(said.id for said in await daemon.announcements())


@ask.register
async def ask_catalogs_equal(check: s.CatalogsEqual, world: World) -> Finding:
    daemons = world.choose(check.who)
    catalogs = await of_each(daemons, catalog)
    everything = frozenset().union(*catalogs)
    least = min(len(found) for found in catalogs)
    equal = len(set(catalogs)) == 1 and least >= check.count
    text = f"{len(daemons)} catalogs, {len(set(catalogs))} different"
    text += f", of {least} to {len(everything)} announcements"
    return Finding(equal, text)


@ask.register
async def ask_delivered(check: s.Delivered, world: World) -> Finding:
    daemons = world.choose(check.who)
    catalogs = await of_each(daemons, catalog)
    pairs = len(world.published) * len(daemons)
    arrived = sum(len(world.published.keys() & found) for found in catalogs)
    share = arrived / pairs if pairs else 0.0
    text = f"{arrived} of {pairs} (announcement, daemon) pairs, {share:.4%}"
    delays = delivery_delays(world)
    if delays:
        text += f"; p50 {quantile(delays, 0.5):.2f} s, p99 {quantile(delays, 0.99):.2f} s"
    in_time = not check.p99 or (bool(delays) and quantile(delays, 0.99) <= check.p99)
    return Finding(share >= check.share and in_time, text)


def delivery_delays(world: World) -> list[float]:
    """Seconds from publishing to accepting, of every pair but the publishers' own."""
    return [
        at - published.at
        for id, published in world.published.items()
        for daemon, at in world.accepted[id].items()
        if daemon != published.issuer
    ]


def quantile(values: list[float], share: float) -> float:
    """The least value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@ask.register
async def ask_nobody_died(_check: s.NobodyDied, world: World) -> Finding:
    dead = [str(daemon) for daemon in world.daemons if daemon.died]
    return Finding(not dead, f"{', '.join(dead)} died" if dead else "nobody died unasked")


@ask.register
async def ask_happened(check: s.Happened, world: World) -> Finding:
    count = world.weather.faults[check.fault]
    return Finding(count >= check.count, f"{check.fault} happened {count} times")


# -- models -----------------------------------------------------------------------------------


@ask.register
async def ask_replicated(check: s.Replicated, world: World) -> Finding:
    model = world.models[check.model]
    daemons = world.choose(check.who)
    held = await of_each(daemons, lambda daemon: daemon.own_tiles(model.cid))
    each = copies(held, model.tiles)
    few = sum(count < check.copies for count in each)
    whole = sum(sum(length for _, length in runs) == model.tiles for runs in held)
    text = f"{model.tiles - few} of {model.tiles} tiles have {check.copies} copies or more"
    text += f" (least {min(each, default=0)}); {whole} hold it whole"
    return Finding(bool(each) and few == 0, text)


async def held_bytes(daemon: Daemon, model: str) -> tuple[int, bool]:
    """Verified bytes of a model on a daemon's disk, and whether they are all."""
    for info in await daemon.models():
        if info.cid == model:
            return info.held, info.complete
    return 0, False


@ask.register
async def ask_holds(check: s.Holds, world: World) -> Finding:
    model = world.models[check.model]
    daemons = world.choose(check.who)
    held = await of_each(daemons, lambda daemon: held_bytes(daemon, model.cid))
    whole = sum(complete for _, complete in held)
    return Finding(whole == len(daemons), f"{whole} of {len(daemons)} hold {model.name} whole")


@ask.register
async def ask_lacks(check: s.Lacks, world: World) -> Finding:
    model = world.models[check.model]
    daemons = world.choose(check.who)
    held = await of_each(daemons, lambda daemon: held_bytes(daemon, model.cid))
    most = max(count for count, _ in held) / model.size
    return Finding(most <= check.at_most, f"nobody of {len(daemons)} holds more than {most:.1%}")


@ask.register
async def ask_pulled(_check: s.Pulled, world: World) -> Finding:
    done = [record for record in world.pulls if record.seconds is not None]
    failed = [f"daemon {record.daemon}: {record.error}" for record in world.pulls if record.error]
    text = f"{len(done)} of {len(world.pulls)} pulls ended well"
    if done:
        text += f", the slowest in {max(record.seconds or 0.0 for record in done):.1f} s"
    if failed:
        text += f"; {'; '.join(failed[:3])}"
    return Finding(bool(done) and len(done) == len(world.pulls), text)


@ask.register
async def ask_exports_equal(check: s.ExportsEqual, world: World) -> Finding:
    equal = sum(not record.differences for record in world.exports)
    text = f"{equal} of {len(world.exports)} exports are byte-identical"
    return Finding(equal == len(world.exports) >= check.count, text)


@ask.register
async def ask_sent_at_most(check: s.SentAtMost, world: World) -> Finding:
    model = world.models[check.model]
    senders = {daemon.index for daemon in world.choose(check.who)}
    moved = world.weather.moved
    sent = sum(count for (sender, _), count in moved.items() if sender in senders)
    times = sent / model.size
    text = f"{sent / 1e6:.1f} MB sent, {times:.2f} times the model (at most {check.times:g})"
    return Finding(times <= check.times, text)


# -- liars ------------------------------------------------------------------------------------


@ask.register
async def ask_blamed(check: s.Blamed, world: World) -> Finding:
    names = check.liars if isinstance(check.liars, list) else [check.liars]
    liars = [liar for name in names for liar in world.liars.get(str(name), [])]
    lists = await of_each(world.choose(check.by), lambda daemon: daemon.peers("all"))
    blamed = [
        sum(any(p.peer_id == liar.identity.text and p.faults for p in peers) for peers in lists)
        for liar in liars
    ]
    text = ", ".join(
        f"{liar} blamed by {count} of {len(lists)}"
        for liar, count in zip(liars, blamed, strict=True)
    )
    return Finding(bool(liars) and min(blamed) >= check.by_at_least, text or "no liar was started")
