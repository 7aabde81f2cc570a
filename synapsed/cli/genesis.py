"""genesis seat|new|show: founding a network. No daemon is needed, nor may it run for `seat`."""

import difflib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from protocols.errors import SynapseError
from synapsed.cli.common import Cli, command, path_of
from synapsed.cli.proposing import named_key, once_each
from synapsed.control.problems import ConflictError

if TYPE_CHECKING:
    from synapsed.cli.output import Output
    from synapsed.ledger.genesis import Member

LEAST_SEATS = 4
"""Of a council that bears one liar, or one member that is down."""

genesis = typer.Typer(help="Found a network: its first ledger entry.", no_args_is_help=True)


class FounderInfo(msgspec.Struct):
    """A founding member, as `genesis seat|show --json` print it."""

    peer_id: str
    key: str
    name: str
    reputation: int
    line: str = ""
    """What `genesis new --member` takes."""


class GenesisInfo(msgspec.Struct):
    """What `genesis new|show --json` print."""

    network: str
    hash: str
    created: float
    path: str
    seats: list[FounderInfo]
    reputation: dict[str, int]
    """Granted to others than the seats."""
    humans: dict[str, str]
    parameters: dict[str, int]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(genesis, name="genesis")


@command(genesis, "seat")
def seat(
    cli: Cli,
    name: Annotated[str, typer.Option(help="What people shall call it.")] = "",
    reputation: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="What the founders agreed to grant it.")
    ] = None,
) -> None:
    """Print what this daemon brings to a founding: send the line to whoever runs `genesis new`."""
    from synapsed.ledger import genesis as founding  # noqa: PLC0415 - pynacl, SQL

    member = founding.founding_seat(cli.places(), name)
    if reputation is not None:
        member = msgspec.structs.replace(member, reputation=reputation)
    found = _founder(member)
    cli.done(found, lambda out: out.line(found.line))


def _founder(member: "Member") -> FounderInfo:
    from protocols.keytext import key_text  # noqa: PLC0415
    from protocols.peerid import peer_id_text  # noqa: PLC0415
    from synapsed.ledger.genesis import member_text  # noqa: PLC0415

    return FounderInfo(
        peer_id=peer_id_text(member.peer),
        key=key_text(member.seat_key),
        name=member.name,
        reputation=member.reputation,
        line=member_text(member),
    )


@command(genesis, "new")
def new(
    cli: Cli,
    *,
    out_file: Annotated[
        Path, typer.Argument(metavar="FILE", parser=path_of, help="To be made: genesis.toml.")
    ],
    network: Annotated[str, typer.Option(metavar="ID", help="The network's name.")],
    member: Annotated[
        list[str],
        typer.Option(
            metavar="LINE|FILE", help="A line of `genesis seat`, or a file of them; - is stdin."
        ),
    ],
    human: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=KEY", help="Who may approve what is risky."),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help='Not its default: "vote.window_ms=1 h".'),
    ] = None,
    grant: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER=N", help="Reputation of somebody without a seat."),
    ] = None,
) -> None:
    """Write a network's genesis file from its founders' lines (repeat the options)."""
    from protocols.peerid import peer_id_text  # noqa: PLC0415
    from synapsed.ledger import genesis as founding  # noqa: PLC0415

    members = [found for text in member for found in _members(text)]
    humans = [_human(text) for text in human or []]
    settings = [_setting(text) for text in param or []]
    grants = [_grant(text) for text in grant or []]
    once_each((peer_id_text(each.peer) for each in members), "the founder", "--member")
    once_each((name for name, _ in humans), "the human key", "--human")
    once_each((name for name, _ in settings), "the parameter", "--param")
    once_each((peer_id_text(peer) for peer, _ in grants), "the grant to", "--grant")
    payload = founding.compose(
        network, members, dict(humans), dict(settings), int(time.time() * 1000), grants=dict(grants)
    )
    try:
        with out_file.open("x", encoding="utf-8") as file:
            file.write(founding.dump(payload))
    except FileExistsError as error:
        raise ConflictError(f"{out_file} is there already", remedy="name another file") from error
    except OSError as error:
        raise ConflictError(f"cannot write {out_file}: {error.strerror}") from error
    _said(cli, payload, out_file)


def _members(text: str) -> "list[Member]":
    """The members of a line, of a file of lines, or of stdin."""
    from synapsed.ledger.genesis import parse_member  # noqa: PLC0415

    if text.startswith("12D3KooW"):
        return [parse_member(text)]
    try:
        lines = sys.stdin.read() if text == "-" else Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise typer.BadParameter(
            f"{text[:100]!r} is no line of `genesis seat`, nor a file of them: {why}",
            param_hint="--member",
        ) from error
    found = [line for line in lines.splitlines() if line.strip() and not line.startswith("#")]
    return [parse_member(line) for line in found]


def _human(text: str) -> tuple[str, bytes]:
    from protocols.keytext import parse_key  # noqa: PLC0415

    name, key = named_key(text, "--human")
    return name, parse_key(key)


def _setting(text: str) -> tuple[str, int]:
    from protocols.ledger.params import REGISTRY  # noqa: PLC0415
    from synapsed.cli.amounts import within  # noqa: PLC0415

    name, equals, value = text.partition("=")
    known = REGISTRY.get(name)
    if not equals:
        raise typer.BadParameter(f"{text[:100]!r} is not NAME=VALUE", param_hint="--param")
    if known is None:
        near = difflib.get_close_matches(name, REGISTRY, n=1)
        which = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(REGISTRY)}"
        raise typer.BadParameter(
            f"there is no parameter {name[:100]!r}; {which}", param_hint="--param"
        )
    try:
        return name, within(name, value, known.unit, known.least, known.most)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--param") from error


def _grant(text: str) -> tuple[bytes, int]:
    from protocols.peerid import parse_peer_id  # noqa: PLC0415

    peer, _, amount = text.partition("=")
    try:
        if not (amount.isascii() and amount.isdigit()):
            raise ValueError(f"{amount!r} is not a whole number")
        return parse_peer_id(peer), int(amount[:20])
    except (SynapseError, ValueError) as error:
        raise typer.BadParameter(f"{text[:100]!r}: {error}", param_hint="--grant") from error


@command(genesis, "show")
def show(
    cli: Cli,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", parser=path_of, help="Else this daemon's own."),
    ] = None,
) -> None:
    """What a genesis file founds. Compare its hash with whoever gave it to you."""
    from synapsed.ledger import genesis as founding  # noqa: PLC0415

    path = file or cli.places().genesis
    _said(cli, founding.load(path), path)


def _said(cli: Cli, payload: bytes, path: Path) -> None:
    found = _info(payload, path)
    cli.done(found, lambda out: _show(out, found))


def _info(payload: bytes, path: Path) -> GenesisInfo:
    from protocols.keytext import key_text  # noqa: PLC0415
    from protocols.ledger.entries import decode_genesis  # noqa: PLC0415
    from protocols.peerid import peer_id_text  # noqa: PLC0415
    from synapsed.ledger.genesis import Member, genesis_hash  # noqa: PLC0415

    entry = decode_genesis(payload)
    granted = {grant.identity: grant.amount for grant in entry.reputation}
    seats = [
        Member(each.identity, each.key, each.name, granted.pop(each.identity, 0))
        for each in entry.seats
    ]
    return GenesisInfo(
        network=entry.network,
        hash=genesis_hash(payload).hex(),
        created=entry.time / 1000,
        path=str(path.absolute()),
        seats=[_founder(member) for member in seats],
        reputation={peer_id_text(peer): amount for peer, amount in granted.items()},
        humans={each.name: key_text(each.key) for each in entry.humans},
        parameters={each.name: each.value for each in entry.parameters},
    )


def _show(out: "Output", found: GenesisInfo) -> None:
    from protocols.ledger.params import REGISTRY  # noqa: PLC0415
    from synapsed.cli.amounts import amount  # noqa: PLC0415
    from synapsed.cli.output import count, moment, short_peer  # noqa: PLC0415

    seats = len(found.seats)
    quorum = 2 * seats // 3 + 1
    out.pairs(
        [
            ("network", found.network),
            ("hash", found.hash),
            ("created", moment(found.created)),
            ("file", found.path),
            (
                "council",
                f"{count(seats, 'seat')}: {(seats - 1) // 3} may lie or be down, "
                f"{quorum} must be up",
            ),
        ]
    )
    if seats < LEAST_SEATS:
        what = "one seat that is down stops this council, and one that lies breaks it"
        out.verdict("warn", f"{what}: {LEAST_SEATS} bear one")
    out.line("")
    out.table(
        ("MEMBER", "SEAT KEY", "REPUTATION>", "NAME"),
        (
            (short_peer(each.peer_id), short_peer(each.key), str(each.reputation), each.name)
            for each in found.seats
        ),
    )
    if found.reputation:
        out.line("")
        rows = ((peer, str(granted)) for peer, granted in found.reputation.items())
        out.table(("GRANTED TO", "REPUTATION>"), rows)
    out.line("")
    out.table(("HUMAN", "KEY"), found.humans.items(), empty="no human keys: nothing risky can pass")
    changed = {
        name: value
        for name, value in found.parameters.items()
        if name not in REGISTRY or value != REGISTRY[name].default
    }
    if changed:
        out.line("")
        units = {name: known.unit for name, known in REGISTRY.items()}
        rows = ((name, amount(value, units.get(name, ""))) for name, value in changed.items())
        out.table(("PARAMETER", "VALUE>"), rows)
