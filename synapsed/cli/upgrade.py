"""upgrade ls|show|status|mode|accept|refuse|propose|rollback|replay: through a running daemon."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synapsed.cli import candidates, upgradeauthor, upgradecheck, upgradeshow
from synapsed.cli.common import Cli, command, path_of
from synapsed.cli.names import slot_named, upgrade_cid
from synapsed.cli.proposing import NoWait, submitted_rows
from synapsed.cli.upgradeauthor import Fuel, FuelPerRow, Pages
from synapsed.control import ledgermodels
from synapsed.control import upgrademodels as said
from synapsed.control.problems import EXIT_FAILED

if TYPE_CHECKING:
    from synapsed.cli.output import Output
    from synapsed.control.client import Client

upgrade = typer.Typer(
    help="Components that the network replaces: slots, modules, rollouts.", no_args_is_help=True
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="UPGRADE",
        help="A proposal's CID, its beginning, or a slot for its newest.",
        autocompletion=candidates.upgrades,
    ),
]
SlotName = Annotated[
    str, typer.Argument(metavar="SLOT", help="`upgrade slots`.", autocompletion=candidates.slots)
]
SlotOption = Annotated[
    str | None,
    typer.Option("--slot", metavar="SLOT", help="Only this.", autocompletion=candidates.slots),
]
Title = Annotated[str | None, typer.Option(help="In a line.")]
Words = Annotated[str, typer.Option(help="Why.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    upgradeauthor.register(upgrade)
    upgradecheck.register(upgrade)
    app.add_typer(upgrade, name="upgrade")


# -- seeing -----------------------------------------------------------------------------------


def _all(client: "Client") -> said.Upgrades:
    return client.call("GET", "/v1/upgrades", said.Upgrades)


@command(upgrade, "ls")
def ls(cli: Cli, slot: SlotOption = None) -> None:
    """Upgrades that were proposed, newest first."""
    if slot is not None:
        slot_named(slot)
    with cli.client() as client:
        found = [each for each in _all(client).upgrades if slot in (None, each.slot)]
    cli.done({"upgrades": found}, lambda out: upgradeshow.upgrades(out, found))


@command(upgrade, "status")
def status(
    cli: Cli,
    slot: Annotated[
        str | None,
        typer.Argument(metavar="[SLOT]", help="Only this.", autocompletion=candidates.slots),
    ] = None,
) -> None:
    """What runs in each slot on this daemon, and how rollouts go."""
    if slot is not None:
        slot_named(slot)
    with cli.client() as client:
        found = _all(client)
    if slot is None:
        cli.done(found, lambda out: upgradeshow.statuses(out, found))
        return
    one = next(each for each in found.slots if each.slot == slot)
    cli.done(one, lambda out: upgradeshow.status(out, one))


@command(upgrade, "show")
def show(
    cli: Cli,
    name: Name,
    source: Annotated[bool, typer.Option("--source", help="Print the source, no more.")] = False,
    difference: Annotated[
        bool,
        typer.Option(
            "--difference", help="Print what is other in the source than before, no more."
        ),
    ] = False,
) -> None:
    """One upgrade: record, risk, evidence, stages, reports, and what is other in its source."""
    if source and difference:
        raise typer.BadParameter("--source and --difference are two things: give one of them")
    with cli.client() as client:
        cid = upgrade_cid(client, name)
        path = f"/v1/upgrades/{cid}"
        found = client.call("GET", path, said.UpgradeDetail)
        if _lacks(found):
            what = "fetch an upgrade"
            found = cli.work(client, what, f"{path}/fetch", said.UpgradeDetail)
    shown = upgradeshow.Shown(
        **{field: getattr(found, field) for field in found.__struct_fields__},
        difference=upgradeshow.difference(found),
    )
    if cli.json or not (source or difference):
        cli.done(shown, lambda out: upgradeshow.upgrade(out, shown))
        return
    _there(shown)
    if difference and shown.replaces.native:
        raise upgradeauthor.NoSourceError(
            "it replaces the daemon's own reference, which is no module with a source",
            remedy="--source prints its own; protocols/slots/ has the reference",
        )
    if difference:
        upgradeshow.changes(cli.out, shown.difference)
    elif shown.manifest is not None:
        upgradeshow.source(cli.out, shown.manifest.source)


def _lacks(found: said.UpgradeDetail) -> bool:
    """Whether something of it could be fetched, and is not here."""
    manifest, replaced = found.manifest, found.replaced
    lacks = manifest is None or manifest.source.text is None
    old = found.replaces.manifest is not None and (replaced is None or replaced.text is None)
    return not found.record.native and (lacks or old)


def _there(found: said.UpgradeDetail) -> None:
    """NoSourceError where there is no source to be printed."""
    manifest = found.manifest
    if manifest is not None and manifest.source.text is not None:
        return
    if found.record.native:
        why = "it goes back to the daemon's own reference: protocols/slots/"
    elif manifest is None:
        why = found.manifest_why_not
    else:
        why = manifest.source.why_not
    raise upgradeauthor.NoSourceError(
        f"its source is not here: {why}", remedy="`synapsectl peers`: somebody must have it"
    )


# -- the owner's say --------------------------------------------------------------------------


@command(upgrade, "mode")
def mode(
    cli: Cli,
    choice: Annotated[
        Literal["auto", "ask", "off", "config"] | None,
        typer.Argument(metavar="[MODE]", help="auto, ask or off; config: what the config says."),
    ] = None,
    slot: SlotOption = None,
) -> None:
    """Let ratified upgrades run here (auto), only after your word (ask), or never (off)."""
    if slot is not None:
        slot_named(slot)
    with cli.client() as client:
        if choice is None:
            modes = [
                said.ModeInfo(each.slot, each.mode, each.mode_origin)
                for each in _all(client).slots
                if slot in (None, each.slot)
            ]
            found = said.Modes(modes)
        else:
            asked = said.ModeRequest(mode=None if choice == "config" else choice, slot=slot)
            found = client.call("PUT", "/v1/upgrades/mode", said.Modes, asked)
    rows = [(each.slot, each.mode, each.origin) for each in found.modes]
    cli.done(found, lambda out: out.table(("SLOT", "MODE", "FROM"), rows))


@command(upgrade, "accept")
def accept(cli: Cli, name: Name) -> None:
    """Let an upgrade run here, where you want to be asked. Ends a quarantine, too."""
    _say(cli, name, "accept")


@command(upgrade, "refuse")
def refuse(cli: Cli, name: Name) -> None:
    """Never run an upgrade here. Of one that is under way everybody is told, signed."""
    _say(cli, name, "refuse")


def _say(cli: Cli, name: str, word: Literal["accept", "refuse"]) -> None:
    with cli.client() as client:
        cid = upgrade_cid(client, name)
        found = client.call("POST", f"/v1/upgrades/{cid}/{word}", said.UpgradeWord)

    def show_(out: "Output") -> None:
        done = "accepted" if word == "accept" else "refused"
        out.line(f"{done}: version {found.version} of {found.slot}")
        if found.reported:
            out.line("a signed refusal is on its way to the ledger")
        elif word == "accept" and found.why_not:
            out.line(f"it does not run yet: {upgradeshow.WHY_NOT[found.why_not]}")

    cli.done(found, show_)


# -- proposing --------------------------------------------------------------------------------


@command(upgrade, "propose")
def propose(
    cli: Cli,
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", parser=path_of, help="Of `upgrade build`.")
    ],
    risks: Annotated[str, typer.Option(help="What could go wrong.")],
    benefits: Annotated[str, typer.Option(help="What it is good for.")],
    title: Title = None,
    text: Words = "",
    description: Annotated[str, typer.Option(help="For the manifest: what the module does.")] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help='Its record is good for so long: "30 d".')
    ] = None,
    changed: Annotated[
        int | None,
        typer.Option(
            metavar="PPM",
            min=0,
            max=1_000_000,
            help="It answers so many rows in a million otherwise; else it claims to answer alike.",
        ),
    ] = None,
    fuel: Fuel = None,
    fuel_per_row: FuelPerRow = None,
    memory_pages: Pages = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Do not try it as the council's members will.")
    ] = False,
    weaker: upgradeauthor.Weaker = False,
    no_wait: NoWait = False,
) -> None:
    """Propose a built module: try it, keep it in the store, announce it, open the vote."""
    for option, words in (("--risks", risks), ("--benefits", benefits)):
        if not words.strip():
            raise typer.BadParameter("who votes wants to read them", param_hint=option)
    upgradeauthor.built_folder(folder)
    expires_in = None if expires is None else _seconds(expires)
    with cli.client() as client:
        _all(client)  # no daemon, or no ledger: said before anything is tried
    if not unchecked:
        limits = (fuel, fuel_per_row, memory_pages)
        upgradecheck.must_be_sound(
            cli, folder, changed=changed is not None, limits=limits, weaker=weaker
        )
    asked = said.UpgradeRequest(
        path=str(folder.absolute()),
        risks=risks,
        benefits=benefits,
        title=title,
        text=text,
        description=description,
        expires_in=expires_in,
        fuel=fuel,
        fuel_per_row=fuel_per_row,
        memory_pages=memory_pages,
        changed_ppm=changed,
    )
    with cli.client() as client:
        what = "submit an upgrade"
        found = cli.work(
            client,
            what,
            "/v1/upgrades",
            ledgermodels.Submitted,
            asked,
            wait=not no_wait,
        )
        _opened(cli, client, found)


def _seconds(text: str) -> int:
    from synapsed.cli.amounts import parse_amount  # noqa: PLC0415

    try:
        found = parse_amount(text, "ms") // 1000
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from error
    if found < 1:
        raise typer.BadParameter("a record is good for a second at least", param_hint="--expires")
    return found


@command(upgrade, "rollback")
def rollback(
    cli: Cli,
    *,
    slot: SlotName,
    to: Annotated[
        int | None,
        typer.Option(metavar="VERSION", min=0, help="Else the last before; 0: the reference."),
    ] = None,
    title: Title = None,
    text: Words = "",
    risks: Annotated[str, typer.Option(help="What could go wrong.")] = "",
    benefits: Annotated[str, typer.Option(help="What it is good for.")] = "",
    no_wait: NoWait = False,
) -> None:
    """Propose the bytes of a former version again, under the next number."""
    slot_named(slot)
    asked = said.RollbackRequest(to=to, title=title, text=text, risks=risks, benefits=benefits)
    with cli.client() as client:
        path, what = f"/v1/upgrades/slots/{slot}/rollback", "submit a rollback"
        found = cli.work(client, what, path, ledgermodels.Submitted, asked, wait=not no_wait)
        _opened(cli, client, found)


def _opened(cli: Cli, client: "Client", found: ledgermodels.Submitted) -> None:
    """Say what became of it, and what happens next."""
    if cli.json:
        cli.done(found, lambda _out: None)
        return
    params = client.call("GET", "/v1/params", ledgermodels.Params).params
    values = {each.name: each.value for each in params}
    from synapsed.cli.amounts import amount  # noqa: PLC0415
    from synapsed.cli.output import short_cid  # noqa: PLC0415

    cid = found.subject or ""
    out, short = cli.out, short_cid(cid)
    out.pairs([("proposal", cid), *submitted_rows(found)])
    once = "next" if found.index is not None else "once it is ratified"
    stage, wait = amount(values["upgrade.stage_ms"], "ms"), "vote.window_ms"
    out.line(
        f"{once}: a vote of {amount(values[wait], 'ms')}, `synapsectl proposal vote {short} yes`"
    )
    _say_who_must_approve(client, out, found)
    out.line(
        "  meanwhile members of the council check the module, each signed; keep this daemon up"
    )
    out.line(
        f"  accepted, it begins after {amount(values['execute.delay_ms'], 'ms')}: in shadow, then "
        f"for 10, 50 and 100 %, each {stage} at least"
    )
    out.line(f"  `synapsectl upgrade show {short}` tells how far it has come")


def _say_who_must_approve(client: "Client", out: "Output", found: ledgermodels.Submitted) -> None:
    """What is risky needs people, whom nobody else tells."""
    if found.index is None:
        return
    path = f"/v1/proposals/{found.subject}"
    info = client.call("GET", path, ledgermodels.ProposalDetail).proposal
    if info.approvals_needed:
        from synapsed.cli.output import count  # noqa: PLC0415

        keys = count(info.approvals_needed, "human key")
        out.line(f"  its risk is {info.risk}: {keys} must approve, `synapsectl proposal approve`")


# -- replaying --------------------------------------------------------------------------------


@command(upgrade, "replay")
def replay(
    cli: Cli,
    slot: SlotName,
    version: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Else the one in force; 0: the reference."),
    ] = None,
    proposal: Annotated[
        str | None,
        typer.Option(
            metavar="UPGRADE", help="One that is only proposed.", autocompletion=candidates.upgrades
        ),
    ] = None,
) -> None:
    """Try a version on what this daemon has recorded. Fails where it does not answer."""
    if version is not None and proposal is not None:
        raise typer.BadParameter("--version and --proposal name one version: give one of them")
    slot_named(slot)
    with cli.client() as client:
        cid = None if proposal is None else upgrade_cid(client, proposal)
        asked = said.ReplayRequest(version=version, proposal=cid)
        path, what = f"/v1/upgrades/slots/{slot}/replay", "replay recorded batches"
        found = cli.work(client, what, path, said.Replayed, asked)
    cli.done(found, lambda out: _replayed(out, found))
    if found.traps:
        raise typer.Exit(EXIT_FAILED)


def _replayed(out: "Output", found: said.Replayed) -> None:
    if not found.batches:
        out.line(f"nothing was recorded yet: {found.slot} has answered nothing on this daemon")
        return
    which = "the native reference" if not found.module else f"version {found.version}"
    seconds = found.seconds / found.batches
    out.pairs(
        [
            ("version", f"{which} of {found.slot}"),
            ("batches", f"{found.batches}, {found.rows} rows"),
            ("otherwise", f"{found.changed} answered otherwise than they were"),
            ("failed", f"{found.traps}" + (f": {found.first_trap}" if found.traps else "")),
            (
                "took",
                f"{1e6 * seconds:.0f} µs a batch" + (f", {found.fuel} fuel" * bool(found.fuel)),
            ),
        ]
    )
