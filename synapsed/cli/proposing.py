"""proposal create: what is proposed, from options or a file."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from protocols.errors import SynapseError
from synapsed.cli import candidates
from synapsed.cli.common import Cli
from synapsed.cli.manifests import read_manifest
from synapsed.control import ledgermodels as said
from synapsed.control.fields import CID_PATTERN, NAME_LIMIT

if TYPE_CHECKING:
    from synapsed.cli.output import Output
    from synapsed.control.client import Client

NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Do not wait until the council has ratified it.")
]


def create(
    cli: Cli,
    *,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The proposal, JSON or TOML; - reads JSON."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help='A parameter: "limits.upload=20 Mbit/s".',
            autocompletion=candidates.parameters,
        ),
    ] = None,
    add_human: Annotated[
        str | None, typer.Option(metavar="NAME=KEY", help="Let this human key approve.")
    ] = None,
    remove_human: Annotated[
        str | None, typer.Option(metavar="NAME=KEY", help="Let it no longer.")
    ] = None,
    adopt: Annotated[
        str | None, typer.Option(metavar="KIND=CID", help="Adopt an adapter, model, ...")
    ] = None,
    title: Annotated[str | None, typer.Option(help="In a line.")] = None,
    text: Annotated[str, typer.Option(help="Why.")] = "",
    link: Annotated[
        list[str] | None, typer.Option(metavar="CID", help="A manifest that it is about.")
    ] = None,
    no_wait: NoWait = False,
) -> None:
    """Open a proposal: parameters, a human key, an adoption, or a question in words.

    `upgrade propose` is for components of the daemon.
    """
    changes = {
        "--set": set_,
        "--add-human": add_human,
        "--remove-human": remove_human,
        "--adopt": adopt,
    }
    given = {option: value for option, value in changes.items() if value}
    _one_of(file, given, [title, text, link])
    with cli.client() as client:
        if file is not None:
            draft = read_manifest(file)
        else:
            fields = [_field(client, option, value) for option, value in given.items()]
            links = [cid_given(each, "--link") for each in link or []]
            words = {"title": title or _title(given), "text": text, "links": links}
            draft = {"kind": "text", **words, **(fields[0] if fields else {})}
        path, what = "/v1/proposals", "submit a proposal"
        found = cli.work(client, what, path, said.Submitted, draft, wait=not no_wait)

    def show(out: "Output") -> None:
        from synapsed.cli.output import short_cid  # noqa: PLC0415

        cid = found.subject or ""
        out.pairs([("proposal", cid), *submitted_rows(found)])
        once = "" if found.index is not None else "once it is ratified, "
        out.line(f"{once}`synapsectl proposal vote {short_cid(cid)} yes` votes for it")

    cli.done(found, show)


def _one_of(file: Path | None, given: dict[str, Any], words: list[Any]) -> None:
    if file is not None and (given or any(words)):
        raise typer.BadParameter("FILE says it all: give no other option with it")
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} are two proposals: give one of them")
    if file is None and not given and not words[0]:
        raise typer.BadParameter(
            "give a FILE, --set, --add-human, --remove-human, --adopt, or --title for words"
        )


def _title(given: dict[str, Any]) -> str:
    """For a proposal whose author gave none."""
    ((option, value),) = given.items()
    if option == "--set":
        return f"Set {', '.join(value)}"[:NAME_LIMIT]
    verbs = {
        "--add-human": "Add the human key",
        "--remove-human": "Remove the human key",
        "--adopt": "Adopt the",
    }
    return f"{verbs[option]} {value.partition('=')[0]}"[:NAME_LIMIT]


def _field(client: "Client", option: str, value: Any) -> dict[str, Any]:
    """What an option adds to the request."""
    if option == "--set":
        known = {each.name: each for each in client.call("GET", "/v1/params", said.Params).params}
        changes = [_change(each, known) for each in value]
        once_each((each.name for each in changes), "the parameter", option)
        return {"kind": "parameter", "changes": changes}
    if option == "--adopt":
        what, equals, cid = value.partition("=")
        if not equals:
            raise typer.BadParameter(f"{value!r} is not KIND=CID", param_hint=option)
        cid_given(cid, option)
        if what not in (kinds := get_args(get_type_hints(said.AdoptionProposal)["what"])):
            raise typer.BadParameter(
                f"{what[:100]!r} cannot be adopted: {', '.join(kinds)} can", param_hint=option
            )
        return {"kind": "adoption", "what": what, "manifest": cid}
    name, key = named_key(value, option)
    action = "add" if option == "--add-human" else "remove"
    return {"kind": "human-key", "action": action, "name": name, "key": key}


def _change(text: str, params: dict[str, said.ParamInfo]) -> said.ParameterChange:
    from synapsed.cli.amounts import amount, within  # noqa: PLC0415

    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    param = params.get(name)
    if param is None:
        raise typer.BadParameter(
            f"there is no parameter {name!r}: `synapsectl params` lists them", param_hint="--set"
        )
    try:
        number = within(name, value, param.unit, param.least, param.most)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error
    if number == param.value:
        is_now = f"{name} is {amount(number, param.unit)} already: `synapsectl params {name}`"
        raise typer.BadParameter(is_now, param_hint="--set")
    return said.ParameterChange(name=name, value=number)


def once_each(names: Iterable[str], what: str, option: str) -> None:
    """Refuse an option that says two things of one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise typer.BadParameter(f"{what} {name} is given twice", param_hint=option)
        seen.add(name)


def cid_given(text: str, option: str) -> str:
    """A CID in full; typer.BadParameter."""
    if not re.fullmatch(CID_PATTERN, text):
        raise typer.BadParameter(
            f"{text[:100]!r} is no CID in full (bafyrei...): `synapsectl announcements --json` "
            "has those of what is announced",
            param_hint=option,
        )
    return text


def named_key(text: str, option: str) -> tuple[str, str]:
    """(name, key) of NAME=KEY."""
    from protocols.keytext import parse_key  # noqa: PLC0415

    name, _, key = text.partition("=")
    try:
        parse_key(key)
    except SynapseError as error:
        raise typer.BadParameter(
            f"{text[:100]!r} is not NAME=z6Mk...: `synapsectl human new` prints a key",
            param_hint=option,
        ) from error
    if not name:
        raise typer.BadParameter("the key needs a name: NAME=z6Mk...", param_hint=option)
    return name, key


def submitted_rows(found: said.Submitted) -> list[tuple[str, str]]:
    """What became of a submission, for people."""
    rows = []
    if found.work_seconds:
        rows.append(("proof of work", f"{found.work_seconds:.1f} s of CPU, as newcomers pay"))
    if found.index is None:
        return [*rows, ("submitted", f"{found.id}; not ratified yet")]
    by = f", {signed(found.certificate)}" if found.certificate is not None else ""
    return [*rows, ("ratified", f"at index {found.index} after {found.seconds:.1f} s{by}")]


def signed(certificate: said.CertificateInfo) -> str:
    """A certificate in a few words."""
    count, seats = len(certificate.signers), certificate.seats
    return f"{count} of {seats} signed in epoch {certificate.epoch}, term {certificate.term}"
