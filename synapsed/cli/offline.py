"""Checking an exported ledger, or one entry's proof, without a daemon and whoever made it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from protocols.errors import SynapseError
from synapsed.cli.proposing import signed
from synapsed.control.ledgermodels import CertificateInfo, EntryInfo
from synapsed.control.models import Progress

if TYPE_CHECKING:
    from protocols.follow.archive import ArchiveReader
    from synapsed.cli.common import Cli
    from synapsed.cli.output import Output
    from synapsed.control.client import Client, Watch
    from synapsed.control.ledgerview import View

PART = 256 << 10
"""Bytes read at a time: some thousand entries, a fifth of a second of checking."""


class CannotReadError(SynapseError):
    """A file that is not there, or cannot be opened."""

    code: ClassVar[str] = "unreadable"


class Verified(msgspec.Struct):
    """What `ledger verify --json` prints: all of it is proven by the genesis and signatures."""

    network: str
    genesis: str
    genesis_known: bool
    """Whether it is the one that this machine has or was given; else compare `genesis`."""
    index: int
    hash: str
    entries: int
    epochs: int
    certificates: int
    digest: str
    """Of the state that all entries leave: checkpoint entries state the same."""
    time: float
    seconds: float


def known_genesis(cli: "Cli", given: Path | None) -> bytes | None:
    """The genesis entry that is to be believed: the one given, or this machine's own."""
    from synapsed.ledger import genesis  # noqa: PLC0415 - SQL, pynacl: only where something is verified

    if given is not None:
        return genesis.load(given)
    own = cli.places().genesis
    return genesis.load(own) if own.exists() else None


def from_file(file: Path, watch: "Watch") -> Callable[["ArchiveReader"], None]:
    """Brings an exported ledger's bytes from a file."""

    def feed(reader: "ArchiveReader") -> None:
        try:
            with file.open("rb") as source:
                size, done = file.stat().st_size, 0
                while part := source.read(PART):
                    reader.feed(part)
                    done += len(part)
                    watch(Progress(stage="verify", done=done, total=size))
        except OSError as error:
            raise CannotReadError(f"cannot read {file}: {error.strerror}") from error

    return feed


def from_daemon(client: "Client") -> Callable[["ArchiveReader"], None]:
    """Brings the ledger that a daemon has now."""

    def feed(reader: "ArchiveReader") -> None:
        client.download("/v1/ledger/export", Sink(reader))

    return feed


class Sink:
    """Takes a download, and checks it as it comes."""

    def __init__(self, reader: "ArchiveReader") -> None:
        self._reader = reader

    def write(self, part: bytes) -> int:
        """As a file does."""
        self._reader.feed(part)
        return len(part)


def verify(
    genesis: bytes | None, feed: Callable[["ArchiveReader"], None], *, keep: bool = False
) -> "tuple[Verified, ArchiveReader]":
    """What the exported ledger that `feed` brings is, with every signature checked."""
    from protocols.follow.archive import ArchiveReader  # noqa: PLC0415
    from synapsed import keys  # noqa: PLC0415

    began = time.monotonic()
    reader = ArchiveReader(keys.verify, genesis=genesis, keep=keep)
    feed(reader)
    found = reader.report()
    return (
        Verified(
            network=found.network,
            genesis=found.genesis.hex(),
            genesis_known=genesis is not None,
            index=found.index,
            hash=found.hash.hex(),
            entries=found.entries,
            epochs=found.epochs,
            certificates=found.certificates,
            digest=found.digest.hex(),
            time=found.time / 1000,
            seconds=time.monotonic() - began,
        ),
        reader,
    )


def show_verified(out: "Output", found: Verified) -> None:
    """For people."""
    from synapsed.cli.output import count, moment  # noqa: PLC0415

    out.verdict("pass", f"the ledger of {found.network} is whole, to index {found.index}")
    certificates = count(found.certificates, "certificate")
    out.pairs(
        [
            ("entries", f"{found.entries}, in {count(found.epochs, 'epoch')}, {certificates}"),
            ("head", found.hash),
            ("time", f"{moment(found.time)}, by its own ticks"),
            ("state", f"{found.digest} (its digest)"),
            ("genesis", found.genesis),
        ]
    )
    if not found.genesis_known:
        out.verdict(
            "warn", "no genesis to compare with: ask a founder for its hash, or give --genesis"
        )


def view(reader: "ArchiveReader") -> "View":
    """A kept ledger, to be looked at."""
    from synapsed.control.ledgerview import View  # noqa: PLC0415

    assert reader.ledger is not None
    assert reader.history is not None
    return View(reader.ledger, reader.history, b"", reader.genesis)


# -- one entry ------------------------------------------------------------------------------


MAX_PROOF = 64 << 20
"""Bytes of a proof's file: 4 KB for each of 16,000 epochs."""


class NoGenesisFileError(SynapseError):
    """There is nothing to verify against."""

    code: ClassVar[str] = "no-genesis"


class Proven(msgspec.Struct):
    """What `ledger verify --proof --json` prints."""

    network: str
    genesis: str
    entry: EntryInfo
    certificate: CertificateInfo


def check_proof(genesis: bytes | None, file: Path) -> Proven:
    """What a file of `ledger proof` proves."""
    from protocols.follow.archive import MAGIC, BrokenArchiveError  # noqa: PLC0415
    from protocols.follow.inclusion import check_inclusion  # noqa: PLC0415
    from protocols.ledger.errors import WrongGenesisError  # noqa: PLC0415
    from synapsed import keys  # noqa: PLC0415
    from synapsed.control.entryview import certificate_info, entry_info  # noqa: PLC0415
    from synapsed.ledger.genesis import genesis_hash, network_of  # noqa: PLC0415

    if genesis is None:
        raise NoGenesisFileError(
            "a proof of one entry leads to the genesis, and there is none here",
            remedy="give it with --genesis FILE",
        )
    try:
        with file.open("rb") as source:
            data = source.read(MAX_PROOF)
    except OSError as error:
        raise CannotReadError(f"cannot read {file}: {error.strerror}") from error
    if data.startswith(MAGIC):
        raise BrokenArchiveError(
            f"{file} is an exported ledger, and no proof of one entry",
            remedy="check it with `synapsectl ledger verify FILE`, without --proof",
        )
    try:
        found = check_inclusion(data, network_of(genesis), genesis, keys.verify)
    except WrongGenesisError:
        raise
    except SynapseError as error:
        raise BrokenArchiveError(
            f"{file} proves nothing: it is no proof, or was changed or cut off ({error.message})",
            remedy="`synapsectl ledger proof INDEX` of any daemon of the network writes it anew",
        ) from error
    return Proven(
        network=network_of(genesis),
        genesis=genesis_hash(genesis).hex(),
        entry=entry_info(
            found.payload, index=found.index, epoch=found.epoch, chain=found.hash, time_ms=None
        ),
        certificate=certificate_info(found.certificate, found.council),
    )


def show_proven(out: "Output", found: Proven) -> None:
    """For people."""
    entry, certificate = found.entry, found.certificate
    out.verdict("pass", f"entry {entry.index} of the ledger of {found.network} is ratified")
    out.pairs(
        [
            ("kind", entry.kind),
            ("what", entry.summary),
            *([("author", entry.author)] if entry.author else []),
            ("hash", entry.hash),
            ("certificate", f"{signed(certificate)}, at index {certificate.index}"),
            ("genesis", found.genesis),
        ]
    )
