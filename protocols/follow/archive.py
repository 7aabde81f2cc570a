"""A ledger in a file, and one entry with its proof: checked by anybody, without a daemon.

    b"synapse ledger export 1\n"
    record ...   u32 length ‖ kind ‖ body ‖ the first 16 bytes of sha256(the last ‖ kind ‖ body)

    h   network, and the chain hash of the genesis entry
    g   the genesis entry's bytes
    e   the next entry's bytes
    c   a ratification: of every epoch's last entry, and of the newest entry, right behind them
    z   how many entries and certificates there were: behind it, nothing

The records' checksums are chained, so a file that was cut, or whose records were exchanged, shows
where. They prove nothing: that is done by the entries' chain and the council's signatures, all of
which are checked again, and by the genesis, which whoever checks should know from elsewhere.
"""

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from protocols.codec import Message, decode, encode
from protocols.envelope import Verify
from protocols.errors import MalformedError, NotHeldError, SynapseError
from protocols.follow.history import History
from protocols.follow.log import MemoryLog
from protocols.ledger.chain import Hash, Index
from protocols.ledger.council import Certificate, Council
from protocols.ledger.entries import MAX_GENESIS
from protocols.ledger.errors import WrongGenesisError
from protocols.ledger.fold import LedgerState
from protocols.ledger.proof import Link, ProofError, WrongNetworkError, check_ratified

MAGIC = b"synapse ledger export 1\n"
HEADER, GENESIS, ENTRY, CERTIFICATE, END = b"h", b"g", b"e", b"c", b"z"
CHECKSUM_LENGTH = 16
_LENGTH = 4
MAX_RECORD = MAX_GENESIS
"""Bytes of the largest record: no entry is longer than the first may be."""
MAX_CERTIFICATE = 16 << 10


class BrokenArchiveError(MalformedError):
    """An exported ledger that is not what it claims to be: says which record is the first."""

    code = "broken-archive"


class _Header(Message, frozen=True, array_like=True):
    network: str
    genesis: Hash


class _End(Message, frozen=True, array_like=True):
    entries: Index
    certificates: Index


class Report(msgspec.Struct, frozen=True):
    """What an exported ledger was found to be."""

    network: str
    genesis: bytes
    entries: int
    """Without the genesis."""
    epochs: int
    """That have begun."""
    certificates: int
    index: int
    hash: bytes
    """Of the newest entry."""
    digest: bytes
    """Of the state that all entries leave."""
    time: int
    """The ledger's, in milliseconds."""


# -- writing ------------------------------------------------------------------------------------


class _Writer:
    def __init__(self) -> None:
        self._sum = bytes(CHECKSUM_LENGTH)

    def record(self, kind: bytes, body: bytes) -> bytes:
        self._sum = _checksum(self._sum, kind, body)
        return b"".join((len(body).to_bytes(_LENGTH, "big"), kind, body, self._sum))


def _checksum(before: bytes, kind: bytes, body: bytes) -> bytes:
    return hashlib.sha256(before + kind + body).digest()[:CHECKSUM_LENGTH]


def export(network: str, genesis: bytes, history: History) -> Iterator[bytes]:
    """The file of all ratified entries, part by part.

    Raises NotHeldError where entries were pruned, DamagedRecordError where the disk lost one.
    """
    log, certificate = history.log, history.certificate
    if log.base > 1:
        raise NotHeldError(
            f"entries below {log.base} were pruned here",
            remedy="export from a daemon that keeps all",
        )
    last = 0 if certificate is None else certificate.said.index
    ends = {epoch.last: epoch.link.certificate for epoch in history.ended}
    if certificate is not None:
        ends.setdefault(last, certificate)
    writer = _Writer()
    yield MAGIC
    yield writer.record(HEADER, encode(_Header(network=network, genesis=history.genesis)))
    yield writer.record(GENESIS, genesis)
    for index in range(1, last + 1):
        yield writer.record(ENTRY, log.payload(index))
        if (found := ends.get(index)) is not None:
            yield writer.record(CERTIFICATE, encode(found))
    count = sum(1 for index in ends if index <= last)
    yield writer.record(END, encode(_End(entries=last, certificates=count)))


# -- reading ------------------------------------------------------------------------------------


class ArchiveReader:
    """Takes a file in parts of any size; `report` says what it was.

    `feed` raises BrokenArchiveError at the first record that does not stand; WrongNetworkError,
    WrongGenesisError where it is another ledger than the one that is asked for.
    """

    def __init__(
        self,
        verify: Verify,
        *,
        network: str | None = None,
        genesis: bytes | None = None,
        keep: bool = False,
    ) -> None:
        """`genesis` is the genesis entry's bytes as known from elsewhere; `keep` all entries."""
        self._verify = verify
        self._network = network
        self._known_genesis = genesis
        self._buffer = bytearray()
        self._began = False
        self._sum = bytes(CHECKSUM_LENGTH)
        self._records = 0
        self._header: _Header | None = None
        self._entries = self._certificates = self._proven = 0
        self._council: Council | None = None
        self._payload = b""
        self._ended = False
        self._keep = keep
        self.genesis = b""
        """The genesis entry's bytes, when they were read."""
        self.ledger: LedgerState | None = None
        """The state so far."""
        self.history: History | None = None
        """The entries so far, if they are kept."""

    def feed(self, part: bytes) -> None:
        """The next part of the file."""
        self._buffer += part
        if not self._began:
            self._begin()
        while self._began and (record := self._next()) is not None:
            self._take(*record)

    def _begin(self) -> None:
        if not MAGIC.startswith(bytes(self._buffer[: len(MAGIC)])):
            raise BrokenArchiveError(
                "not an exported ledger, or of another version",
                remedy="`ledger export` writes one; what `ledger proof` wrote is given by --proof",
            )
        if len(self._buffer) >= len(MAGIC):
            del self._buffer[: len(MAGIC)]
            self._began = True

    def _next(self) -> tuple[bytes, bytes] | None:
        """The next whole record: its kind and body."""
        head = _LENGTH + 1
        length = int.from_bytes(self._buffer[:_LENGTH], "big")
        if len(self._buffer) < head:
            return None
        if length > MAX_RECORD or self._ended:
            why = "behind the end" if self._ended else f"of {length} bytes"
            raise BrokenArchiveError(f"record {self._records} is one {why}")
        end = head + length + CHECKSUM_LENGTH
        if len(self._buffer) < end:
            return None
        kind = bytes(self._buffer[_LENGTH:head])
        body = bytes(self._buffer[head : head + length])
        self._sum = _checksum(self._sum, kind, body)
        if self._buffer[head + length : end] != self._sum:
            raise BrokenArchiveError(f"{self._where(kind)} was changed, or one before it removed")
        del self._buffer[:end]
        return kind, body

    def _where(self, kind: bytes) -> str:
        what = {ENTRY: f" (entry {self._entries + 1})", GENESIS: " (the genesis entry)"}
        return f"record {self._records}{what.get(kind, '')}"

    def _take(self, kind: bytes, body: bytes) -> None:
        try:
            self._take_record(kind, body)
        except (WrongNetworkError, WrongGenesisError, BrokenArchiveError):
            raise
        except SynapseError as error:
            raise BrokenArchiveError(f"{self._where(kind)}: {error}") from error
        self._records += 1

    def _take_record(self, kind: bytes, body: bytes) -> None:
        if kind == HEADER and self._header is None:
            self._take_header(decode(body, _Header, MAX_CERTIFICATE))
        elif kind == GENESIS and self._header is not None and self.ledger is None:
            self._take_genesis(self._header, body)
        elif kind == ENTRY and self.ledger is not None:
            self._take_entry(self.ledger, body)
        elif kind == CERTIFICATE and self.ledger is not None and self._entries:
            self._take_certificate(self.ledger, decode(body, Certificate, MAX_CERTIFICATE))
        elif kind == END and self.ledger is not None:
            self._take_end(decode(body, _End, MAX_CERTIFICATE))
        else:
            raise ProofError(f"a record of kind {kind!r} where it cannot stand")

    def _take_header(self, header: _Header) -> None:
        if self._network is not None and header.network != self._network:
            raise WrongNetworkError(
                f"a ledger of network {header.network!r}, not {self._network!r}"
            )
        self._header = header

    def _take_genesis(self, header: _Header, payload: bytes) -> None:
        if self._known_genesis is not None and payload != self._known_genesis:
            raise WrongGenesisError(
                f"the exported ledger begins with the genesis {header.genesis.hex()}, which is "
                "another than the one that is to be believed",
                remedy="`synapsectl genesis show` has the hash of this machine's own; --genesis "
                "FILE names another",
            )
        ledger = LedgerState.from_genesis(header.network, payload)
        if ledger.head.hash != header.genesis:
            raise ProofError("the genesis entry is not the one that the file names")
        self.ledger, self._council, self.genesis = ledger, ledger.council, payload
        if self._keep:
            log = MemoryLog()
            log.begin(ledger.spine)
            self.history = History(log, ledger.council, ledger.genesis)

    def _take_entry(self, ledger: LedgerState, payload: bytes) -> None:
        if self._council is not ledger.council and self._proven != self._entries:
            raise ProofError("an epoch ended without a certificate")
        self._council, self._payload = ledger.council, payload
        ledger.apply(payload, self._verify)
        self._entries += 1
        if self.history is not None:
            self.history.log.append(ledger.head.hash, payload)

    def _take_certificate(self, ledger: LedgerState, certificate: Certificate) -> None:
        council = self._council
        assert council is not None
        if certificate.said.head != ledger.head:
            raise ProofError("a certificate of another entry than the one before it")
        check_ratified(ledger.realm, council, certificate, self._verify)
        self._proven = self._entries
        self._certificates += 1
        if self.history is not None:
            self.history.certificate = certificate
            if ledger.epoch != council.epoch:
                link = Link(self.history.header_at(ledger.head.index), certificate)
                self.history.end_epoch(link, self._payload, ledger.council)

    def _take_end(self, end: _End) -> None:
        if end.entries != self._entries or end.certificates != self._certificates:
            raise ProofError("the file does not hold as many records as it says")
        if self._proven != self._entries:
            raise ProofError(f"no certificate covers the entries above {self._proven}")
        self._ended = True

    def report(self) -> Report:
        """What the whole file says. Raises BrokenArchiveError where it is cut off."""
        ledger = self.ledger
        if ledger is None or not self._ended or self._buffer:
            raise BrokenArchiveError(
                f"the file is cut off behind record {self._records}",
                remedy="export the ledger again",
            )
        return Report(
            network=ledger.network,
            genesis=ledger.genesis,
            entries=self._entries,
            epochs=ledger.epoch,
            certificates=self._certificates,
            index=ledger.head.index,
            hash=ledger.head.hash,
            digest=ledger.digest(),
            time=ledger.time,
        )


def verify_archive(
    parts: Iterable[bytes],
    verify: Verify,
    *,
    network: str | None = None,
    genesis: bytes | None = None,
) -> Report:
    """What an exported ledger is, with every signature checked. Raises as ArchiveReader does."""
    reader = ArchiveReader(verify, network=network, genesis=genesis)
    for part in parts:
        reader.feed(part)
    return reader.report()
