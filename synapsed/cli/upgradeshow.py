"""How slots and upgrades look to people.

Titles, texts and sources are others': everything goes through Output, which lets no control
character through.
"""

import difflib
from typing import TYPE_CHECKING

from synapsed.control import upgrademodels as said

if TYPE_CHECKING:
    from collections.abc import Iterable

    from synapsed.cli.output import Output

MAX_LINES = 5000
"""Of each of two sources that are compared: what is longer takes minutes, and nobody reads it."""
SHORT_DIFFERENCE = 120
"""Lines that `upgrade show` prints among the rest."""
SHORT_HASH = 16
TO_MINUTES = len("2000-01-01 00:00")
SHORT_TROUBLE = 200
"""Characters of why a module is not here, which names everybody who was asked."""
TAB = 4

WHY_NOT = {
    "": "",
    "off": "off, the native reference answers",
    "refused": "you refused it",
    "quarantined": "in quarantine, it broke here",
    "asking": "waits for `synapsectl upgrade accept`",
    "late": "its module is not here yet",
}
DUTY = {
    "none": "-",
    "shadow": "beside",
    "coin": "{} of 8",
    "all": "all",
}


class Shown(said.UpgradeDetail):
    """What `upgrade show --json` prints: the daemon's answer, and the difference."""

    difference: list[str] = []  # noqa: RUF012 - msgspec copies it
    """Lines of a unified diff from the source of what it replaces."""


# -- words ----------------------------------------------------------------------------------


def gain(value: float | None) -> str:
    """Of a goal: positive is better."""
    return "-" if value is None else f"{100 * value:+.2f} %"


def _fuel(value: float) -> str:
    """Of the incumbent's; 0 where that is the native reference, which takes none."""
    return f"{100 * value:.0f} %" if value else "-"


def interval(stage: said.StageInfo) -> str:
    """Between which gains the network's lies."""
    return "-" if stage.low is None else f"{100 * stage.low:+.2f} to {gain(stage.high)}"


def stage_name(permille: int) -> str:
    """A stage by the share that runs it."""
    return f"{permille / 10:g} %" if permille else "shadow"


def state_of(info: said.UpgradeInfo) -> str:
    """How far an upgrade has come, in a word or two."""
    if info.state == "stage" and info.permille is not None:
        return stage_name(info.permille)
    return info.reason if info.state == "rejected" and info.reason else info.state


def version_name(version: said.VersionInfo) -> str:
    """A version in a few words."""
    if version.native:
        return "native" if version.number == 0 else f"{version.number} (native)"
    return str(version.number)


# -- slots and this daemon --------------------------------------------------------------------


def statuses(out: "Output", found: said.Upgrades) -> None:
    """Every slot in a line."""
    from synapsed.cli.output import short_text  # noqa: PLC0415

    out.table(
        ("SLOT", "ANSWERS", "LEDGER", "MODE", "STAGE", "HERE", "GAIN>", "NOTE"),
        (_status_row(each) for each in found.slots),
    )
    for broken in found.quarantine:
        what = f"version {broken.version} of {broken.slot}"
        out.verdict("warn", f"{what} is in quarantine here: {broken.why}")
    for slot in found.slots:
        if slot.trouble:
            out.verdict("warn", f"{slot.slot}: {short_text(slot.trouble, SHORT_TROUBLE)}")
    for each in found.upgrades:
        if each.asks:
            what = f"version {each.version} of {each.slot}"
            out.verdict("warn", f"{what} waits for your word: {_ask(each)}")
    if found.jail is not None and found.jail.missing:
        lacks = ", ".join(found.jail.missing)
        runs = "runs all the same" if found.jail.weaker_allowed else "does not run"
        out.verdict("warn", f"the kernel lacks {lacks}, and foreign code {runs}")


def _ask(info: said.UpgradeInfo) -> str:
    from synapsed.cli.output import short_cid  # noqa: PLC0415

    return f"`synapsectl upgrade show {short_cid(info.proposal)}`, then `accept` or `refuse` it"


def _status_row(slot: said.SlotStatus) -> tuple[str, ...]:
    rollout, trial = slot.rollout, slot.trial
    named = slot.current if rollout is None else rollout.candidate
    does = DUTY["none" if named.why_not else slot.duty]
    return (
        slot.slot,
        version_name(slot.answers),
        version_name(slot.current),
        slot.mode,
        "-" if rollout is None else f"{version_name(rollout.candidate)} at {_stage_of(rollout)}",
        does.format(slot.of_eight),
        gain(trial.gain) if trial is not None and trial.permille and trial.pairs else "-",
        named.why_not or slot.current.why_not,
    )


def _stage_of(rollout: said.RolloutInfo) -> str:
    return stage_name(rollout.permille)


def status(out: "Output", slot: said.SlotStatus) -> None:
    """One slot, with all that is known of it here."""
    higher = "higher" if slot.higher_is_better else "lower"
    current = slot.current
    rows = [
        ("slot", f"{slot.slot}, ABI {slot.abi}, risk {slot.risk}"),
        ("goal", f"{slot.goal} in {slot.goal_unit}: {higher} is better"),
        ("answers here", _version(slot.answers)),
        ("in force", _version(current)),
        *(("before", _version(each)) for each in reversed(slot.former)),
        ("mode", f"{slot.mode}, from {slot.mode_origin}"),
        ("recorded", f"{slot.recorded} batches, for `synapsectl upgrade replay {slot.slot}`"),
    ]
    if why := WHY_NOT[current.why_not]:
        rows.append(("not here", why))
    if slot.trouble:
        rows.append(("trouble", slot.trouble))
    if slot.events:
        told = ", ".join(f"{kind} {count}" for kind, count in sorted(slot.events.items()))
        rows.append(("events", told))
    out.pairs(rows)
    if slot.rollout is not None:
        out.line("")
        rollout(out, slot.rollout)
        out.pairs(_ours(slot))
    elif slot.ended is not None:
        ended = slot.ended
        out.line("")
        out.line(_ended(ended))
        stages(out, ended.stages)


def _ended(ended: said.EndedInfo) -> str:
    from synapsed.cli.output import short_cid  # noqa: PLC0415

    became = {
        "settle": f"settled as version {ended.version}",
        "rollback": f"undone by version {ended.version}",
        "lapse": "lapsed",
        "open": "begun",
    }[ended.event]
    return f"The last one, {short_cid(ended.proposal)}: {became} ({ended.reason})"


def _version(version: said.VersionInfo) -> str:
    if version.native:
        return version_name(version)
    since = f", since index {version.index}" if version.index else ""
    return f"{version.number}, module {version.module[:SHORT_HASH]}{since}"


def _ours(slot: said.SlotStatus) -> list[tuple[str, str]]:
    assert slot.rollout is not None
    does = {
        "none": "runs the version in force",
        "shadow": "runs it beside the version in force, and uses that one's answers",
        "coin": f"gives it {slot.of_eight} operations of 8",
        "all": "runs it",
    }[slot.duty]
    why = WHY_NOT[slot.rollout.candidate.why_not]
    rows = [("this daemon", f"does not run it: {why}" if why else does)]
    trial = slot.trial
    if trial is not None:
        rows.append(("calls", f"{trial.calls}, {trial.traps} traps"))
        if trial.compared:
            compared = f"{trial.disagreements} of {trial.compared} otherwise"
            fuel = f", with {_fuel(trial.fuel)} of the fuel" if trial.fuel else ""
            rows.append(("answers", compared + fuel))
        if trial.permille:
            goal = gain(trial.gain) if trial.pairs else "nothing yet"
            pairs = f"{trial.candidate} operations against {trial.incumbent}"
            rows.append(("measured", f"{goal} in {pairs}; {trial.reported} reported"))
    return rows


# -- a rollout ----------------------------------------------------------------------------------


def rollout(out: "Output", found: said.RolloutInfo) -> None:
    """An upgrade under way."""
    from synapsed.cli.output import moment  # noqa: PLC0415

    who = f"{found.expected} of {found.members} with reputation"
    out.pairs(
        [
            ("stage", f"{stage_name(found.permille)}, since index {found.index}: {who}"),
            ("goes on", f"after {moment(found.next_at)}, once {found.quorum} have reported"),
            ("goes back", f"at once where a third fail; undecided at {moment(found.gives_up_at)}"),
        ]
    )
    stages(out, found.stages)
    if found.reports:
        out.line("")
        reports(out, found.reports)


def stages(out: "Output", found: "Iterable[said.StageInfo]") -> None:
    """The history of a rollout: what was measured in each stage."""
    from synapsed.cli.output import duration, moment  # noqa: PLC0415

    rows = [
        (
            stage_name(each.permille),
            str(each.index),
            moment(each.opened_at)[:TO_MINUTES],
            "under way" if each.ended_at is None else duration(each.ended_at - each.opened_at),
            interval(each),
            str(each.reports),
            str(each.traps),
        )
        for each in found
    ]
    if rows:
        out.line("")
        heads = ("STAGE", "INDEX>", "BEGAN", "TOOK", "GAIN", "REPORTS>", "FAILED>")
        out.table(heads, rows)


def reports(out: "Output", found: "Iterable[said.ReportInfo]") -> None:
    """What daemons have signed in the stage under way."""
    from synapsed.cli.output import short_peer  # noqa: PLC0415

    out.table(
        ("REPORT BY", "SAYS", "PAIRS>", "GAIN>", "TRAPS>", "OTHERWISE>", "FUEL>", ""),
        (
            (
                "this daemon" if each.own else short_peer(each.peer_id),
                each.status,
                str(each.pairs),
                gain(each.gain) if each.status == "measured" else "-",
                str(each.traps),
                f"{each.disagreements} of {each.calls}",
                _fuel(each.fuel),
                "" if each.heard else "does not count",
            )
            for each in found
        ),
    )


# -- one upgrade ----------------------------------------------------------------------------------


def upgrades(out: "Output", found: "Iterable[said.UpgradeInfo]") -> None:
    """Those that were proposed."""
    from synapsed.cli.output import short_cid, short_text  # noqa: PLC0415

    title = 15  # with the rest 80 columns; the risk is in `upgrade show`
    out.table(
        ("PROPOSAL", "SLOT", "VERSION>", "STATE", "TITLE", "OURS"),
        (
            (
                short_cid(each.proposal),
                each.slot,
                str(each.version),
                state_of(each),
                short_text(each.title, title),
                each.word or ("asks" if each.asks else "-"),
            )
            for each in found
        ),
        empty="no upgrades; `synapsectl upgrade slots` lists what one may replace",
    )


def difference(found: said.UpgradeDetail) -> list[str]:
    """Lines of a unified diff from the source of what an upgrade replaces; none where one of the
    two is not here."""
    new = None if found.manifest is None else found.manifest.source
    old = found.replaced
    if new is None or new.text is None or old is None or old.text is None:
        return []
    before, after = old.text.splitlines(), new.text.splitlines()
    if max(len(before), len(after)) > MAX_LINES:
        return [f"(a source of more than {MAX_LINES} lines is not compared)"]
    names = (f"version {found.replaces.number}", f"version {found.record.version}")
    return list(difflib.unified_diff(before, after, *names, lineterm=""))


def source(out: "Output", found: said.SourceInfo) -> None:
    """A source as it is, line by line."""
    for line in (found.text or "").splitlines():
        out.line(line.expandtabs(TAB))


def changes(out: "Output", lines: "Iterable[str]") -> None:
    """A unified diff."""
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        out.line(line.expandtabs(TAB), styles.get(line[:1]))


def upgrade(out: "Output", found: Shown) -> None:
    """One upgrade: what is asked, on what evidence, and how far it has come."""
    from synapsed.cli.output import moment, short_cid  # noqa: PLC0415

    info, record = found.upgrade, found.record
    limits = record.limits
    replaces = _version(found.replaces)
    module = "the daemon's own reference" if record.native else f"{record.module}, {record.size} B"
    per_row = f"{limits.fuel} + {limits.fuel_per_row} a row of fuel"
    rows = [
        ("title", info.title),
        ("proposal", info.proposal),
        ("slot", f"{record.slot}, ABI {record.abi}"),
        ("version", f"{record.version}, in place of {replaces}"),
        ("module", module),
    ]
    if not record.native:
        rows += [
            ("limits", f"{per_row}, {limits.memory_pages * 64} KiB"),
            ("source", record.source),
            ("manifest", record.manifest or "-"),
        ]
    rows += [
        ("risk", f"{info.risk}: {found.proposal.why}"),
        *(("risks", line) for line in record.risks.splitlines()),
        *(("benefits", line) for line in record.benefits.splitlines()),
        ("author", info.author),
        ("proposed", moment(info.opened_at)),
        ("expires", f"{moment(record.expires)}, by the ledger's ticks"),
        ("state", _state(info)),
        ("this daemon", f"mode {found.mode}" + (f"; you said {info.word}" if info.word else "")),
    ]
    out.pairs(rows)
    _manifest(out, found)
    if found.rollout is not None:
        out.line("")
        rollout(out, found.rollout)
    else:
        stages(out, found.stages)
    if found.proposal.text:
        out.line("")
        for line in found.proposal.text.splitlines():
            out.line(line)
    _difference(out, found)
    if info.asks:
        out.line("")
        out.line(
            f"`synapsectl upgrade accept {short_cid(info.proposal)}` runs it here, `refuse` never"
        )


def _state(info: said.UpgradeInfo) -> str:
    if info.state == "stage" and info.permille is not None:
        return f"runs for {stage_name(info.permille)}"
    return f"{info.state}: {info.reason}" if info.reason else info.state


def _manifest(out: "Output", found: Shown) -> None:
    manifest = found.manifest
    if manifest is None:
        if found.manifest_why_not:
            out.verdict("warn", f"its manifest is not here: {found.manifest_why_not}")
        return
    said_so = "otherwise than what it replaces" if manifest.changed else "as what it replaces does"
    written = f"{manifest.source.language}, with {', '.join(manifest.source.tools) or 'no tool'}"
    rows = [("claims", f"to answer {said_so}"), ("written in", written)]
    rows += [("says", line) for line in manifest.description.splitlines()]
    for each in manifest.evidence:
        was = f", was {each.baseline:.9g}" if each.baseline else ""
        rows.append(
            ("evidence", f"{each.metric} {each.value:.9g} {each.unit}{was} ({each.workload})")
        )
    if manifest.source.why_not:
        rows.append(("no source", manifest.source.why_not))
    out.pairs(rows)


def _difference(out: "Output", found: Shown) -> None:
    from synapsed.cli.output import short_cid  # noqa: PLC0415

    cid = short_cid(found.upgrade.proposal)
    source_there = found.manifest is not None and found.manifest.source.text is not None
    if not found.difference:
        if source_there:
            out.line("")
            out.line(f"`synapsectl upgrade show {cid} --source` prints its source")
        return
    out.line("")
    if len(found.difference) > SHORT_DIFFERENCE:
        lines = len(found.difference)
        out.line(f"`synapsectl upgrade show {cid} --difference` prints {lines} lines of difference")
        return
    changes(out, found.difference)
