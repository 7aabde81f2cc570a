"""What a council's scenario waits for and promises."""

from collections import Counter

from simnet import councilparts as c
from simnet import councils
from simnet.checks import Finding, ask, of_each, quantile
from simnet.councilrecord import Note
from simnet.daemon import Daemon
from simnet.world import World
from synapsed.control import ledgermodels as said


@ask.register
async def ask_above(check: c.Above, world: World) -> Finding:
    wanted = world.council.heights[check.height] + check.more
    found = [info.index for info in await of_each(world.choose(check.who), councils.ledger)]
    reached = sum(index >= wanted for index in found)
    text = f"{reached} of {len(found)} have ratified {wanted} entries or more (least {min(found)})"
    return Finding(reached == len(found), text)


@ask.register
async def ask_ledgers_agree(check: c.LedgersAgree, world: World) -> Finding:
    daemons = world.choose(check.who)
    heights = [info.index for info in await of_each(daemons, councils.ledger)]
    least = min(heights)
    if least < check.index:
        return Finding(False, f"the shortest ledger ends at {least}, below {check.index}")
    found = await of_each(daemons, lambda daemon: councils.entry(daemon, least))
    hashes = Counter(detail.entry.hash for detail in found)
    text = f"{len(daemons)} ledgers, {len(hashes)} different at index {least}"
    return Finding(len(hashes) == 1, f"{text}; the longest ends at {max(heights)}")


@ask.register
async def ask_one_history(check: c.OneHistory, world: World) -> Finding:
    daemons = world.choose(check.who)
    ledgers = await of_each(daemons, councils.entries)
    names: dict[int, set[str]] = {
        index: set(found) for index, found in world.council.hashes.items()
    }
    for entries in ledgers:
        for each in entries:
            names.setdefault(each.index, set()).add(each.hash)
    forked = sorted(index for index, found in names.items() if len(found) > 1)
    if forked:
        return Finding(False, f"two ratified entries at {', '.join(map(str, forked[:5]))}")
    compared = sum(map(len, ledgers))
    claims = len(world.council.heard)
    if not compared or not claims:
        return Finding(False, "nothing was ratified")
    text = f"{compared} entries of {len(daemons)} ledgers and {claims} claims compared"
    return Finding(True, f"{text}: one entry an index")


@ask.register
async def ask_notes_ratified(check: c.NotesRatified, world: World) -> Finding:
    notes = world.council.notes
    done = {note.index: note for note in notes if note.index is not None}
    text = f"{len(done)} of {len(notes)} notes were ratified"
    lost = await _lost(done, world) if done else []
    if lost:
        return Finding(False, f"{text}, and {len(lost)} of these stand in no ledger now: {lost[0]}")
    if len(done) < max(check.count, check.share * len(notes)):
        failed = next((note.error for note in notes if note.error), "some are under way")
        return Finding(False, f"{text}: {failed}")
    seconds = sorted(note.seconds for note in done.values())
    p99 = quantile(seconds, 0.99)
    text += f"; p50 {quantile(seconds, 0.5):.2f} s, p99 {p99:.2f} s"
    return Finding(not check.p99 or p99 <= check.p99, text)


async def _lost(done: dict[int, Note], world: World) -> list[str]:
    """Notes whose daemons were told that they are ratified, and that the ledger lacks."""
    running = world.running()
    heights = [info.index for info in await of_each(running, councils.ledger)]
    tallest = running[heights.index(max(heights))]
    bodies = {each.index: str(each.body) for each in await councils.entries(tallest)}
    return [note.text for index, note in done.items() if note.text not in bodies.get(index, "")]


@ask.register
async def ask_parameter(check: c.Parameter, world: World) -> Finding:
    daemons = world.choose(check.who)
    found = await of_each(daemons, lambda daemon: councils.param(daemon, check.name))
    right = [info for info in found if info is not None and info.value == check.value]
    if len(right) < len(daemons):
        return Finding(False, f"{check.name} = {check.value} on {len(right)} of {len(daemons)}")
    since = {(info.index, info.proposal) for info in right}
    proven = [info for info in right if _proves(info)]
    text = f"{check.name} = {check.value} on all {len(daemons)}"
    if len(since) != 1:
        return Finding(False, f"{text}, but since different entries: {sorted(map(str, since))}")
    text += f" since index {right[0].index}, {len(proven)} of them name a quorum's certificate"
    return Finding(len(proven) == len(daemons), text)


def _proves(info: said.ParamInfo) -> bool:
    """Whether its certificate covers the entry that set it, by more than two thirds."""
    proof = info.certificate
    if proof is None or info.index is None or proof.kind != "ratified":
        return False
    return proof.index >= info.index and 3 * len(set(proof.signers)) > 2 * proof.seats


@ask.register
async def ask_seated(check: c.Seated, world: World) -> Finding:
    found = await of_each(world.choose(check.who), councils.council)
    inside = {daemon.identity.text for daemon in world.choose(check.members)}
    outside = {daemon.identity.text for daemon in world.choose(check.out)}
    right = 0
    for info in found:
        seats = {seat.peer_id for seat in info.seats}
        right += info.epoch >= check.epoch and inside <= seats and not outside & seats
    epochs = sorted({info.epoch for info in found})
    numbers = {daemon.identity.text: daemon.index for daemon in world.daemons}
    newest = max(found, key=lambda info: info.epoch)
    seated = sorted(numbers.get(seat.peer_id, -1) for seat in newest.seats)
    text = f"{right} of {len(found)} know such a council (epochs {epochs}; newest: {seated})"
    return Finding(right == len(found), text)


@ask.register
async def ask_guilty(check: c.Guilty, world: World) -> Finding:
    liars = [daemon.identity.text for daemon in world.choose(check.members)]

    async def convicted(daemon: Daemon) -> tuple[int, int]:
        """Liars that its ledger has punished, and all proofs that are in it."""
        found = [await councils.reputation(daemon, liar) for liar in liars]
        proofs = [each for each in await councils.entries(daemon) if each.kind == "guilt"]
        return sum(info.banned for info in found), len(proofs)

    found = await of_each(world.choose(check.who), convicted)
    right = sum(banned == len(liars) for banned, _ in found)
    text = f"{right} of {len(found)} ledgers have the proof"
    most = max(proofs for _, proofs in found)
    if most > len(liars):
        return Finding(False, f"{text}, and {most} proofs against {len(liars)} liars")
    return Finding(bool(liars) and right == len(found), text)


@ask.register
async def ask_role(check: c.RoleIs, world: World) -> Finding:
    found = await of_each(world.choose(check.who), councils.ledger)
    roles = Counter(info.role for info in found)
    text = ", ".join(f"{count} {role}" for role, count in sorted(roles.items()))
    return Finding(set(roles) == {check.role}, text)
