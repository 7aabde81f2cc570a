"""human new|show|sign: keys with which people approve what is risky. No daemon is needed."""

from pathlib import Path
from string import hexdigits
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from protocols.ledger.chain import HASH_LENGTH
from synapsed.cli.common import Cli, command, path_of
from synapsed.control import ledgermodels as said
from synapsed.control.fields import CID_PATTERN

if TYPE_CHECKING:
    from protocols.realm import Realm
    from synapsed.cli.output import Output

human = typer.Typer(help="Keys of people who approve what is risky.", no_args_is_help=True)

KeyFile = Annotated[Path, typer.Argument(metavar="FILE", parser=path_of, help="The key's file.")]


class HumanKeyInfo(msgspec.Struct):
    """What `human new|show --json` prints."""

    key: str
    path: str


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(human, name="human")


@command(human, "new")
def new(cli: Cli, file: KeyFile) -> None:
    """Make a key, in a file of mode 0600. Keep it off the daemon's machine."""
    from synapsed import keys  # noqa: PLC0415 - pynacl: only where a key is used

    made = keys.create_human(file)
    _said(cli, HumanKeyInfo(key=made.text, path=str(file.absolute())))


@command(human, "show")
def show(cli: Cli, file: KeyFile) -> None:
    """The public key: what a genesis file or a proposal names."""
    from synapsed import keys  # noqa: PLC0415

    _said(cli, HumanKeyInfo(key=keys.load_human(file).text, path=str(file.absolute())))


def _said(cli: Cli, found: HumanKeyInfo) -> None:
    cli.done(found, lambda out: out.pairs([("key", found.key), ("file", found.path)]))


@command(human, "sign")
def sign_(
    cli: Cli,
    proposal: Annotated[str, typer.Argument(metavar="CID", help="In full.")],
    key: Annotated[Path, typer.Option(metavar="FILE", parser=path_of, help="The key's file.")],
    ledger: Annotated[
        str,
        typer.Option(
            metavar="NETWORK/HASH|FILE", help="As `proposal show` has it; or the genesis file."
        ),
    ],
) -> None:
    """Approve a proposal on a machine without a daemon: prints a signature to carry over."""
    import re  # noqa: PLC0415

    if not re.fullmatch(CID_PATTERN, proposal):
        raise typer.BadParameter("give the proposal's CID in full: the signature is over it")
    found = sign(key, parse_realm(ledger), proposal)

    def show(out: "Output") -> None:
        out.pairs([("key", found.key), ("signature", found.signature)])
        out.line(
            f"synapsectl proposal approve {proposal} --key {found.key} "
            f"--signature {found.signature}"
        )

    cli.done(found, show)


def parse_realm(text: str) -> "Realm":
    """The ledger that a text, or a genesis file, names."""
    from protocols.errors import SynapseError  # noqa: PLC0415
    from protocols.realm import Realm  # noqa: PLC0415
    from synapsed.ledger import genesis  # noqa: PLC0415

    network, _, name = text.partition("/")
    if len(name) == 2 * HASH_LENGTH and not set(name) - set(hexdigits):
        return Realm(network, bytes.fromhex(name))
    try:
        return genesis.realm_of(genesis.load(path_of(text)))
    except SynapseError as error:
        raise typer.BadParameter(
            f"{text[:100]!r} is not NETWORK/HASH as `proposal show` has it, and as a genesis "
            f"file: {error}",
            param_hint="--ledger",
        ) from error


def sign(file: Path, realm: "Realm", proposal: str) -> said.ApprovalRequest:
    """The approval of a proposal (its CID) by the key in `file`."""
    from protocols.cid import parse_cid  # noqa: PLC0415
    from protocols.ledger.signing import approval_message  # noqa: PLC0415
    from synapsed import keys  # noqa: PLC0415

    key = keys.load_human(file)
    signature = key.sign(approval_message(realm, parse_cid(proposal)))
    return said.ApprovalRequest(key=key.text, signature=signature.hex())
