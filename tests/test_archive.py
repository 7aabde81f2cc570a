"""A ledger in a file, checked offline; and one entry with its proof."""

from collections.abc import Callable

import pytest

from protocols.errors import MalformedError, NotHeldError
from protocols.follow.archive import (
    MAGIC,
    ArchiveReader,
    BrokenArchiveError,
    export,
    verify_archive,
)
from protocols.follow.history import History
from protocols.follow.inclusion import check_inclusion, prove_inclusion
from protocols.follow.log import MemoryLog
from protocols.ledger.chain import BrokenPathError
from protocols.ledger.council import BadCertificateError
from protocols.ledger.errors import WrongGenesisError
from protocols.ledger.proof import Link, ProofError, WrongNetworkError
from tests.gossip_kit import mac_verify
from tests.ledger_world import NETWORK, Branch


def grow(seats: int = 4) -> tuple[Branch, History]:
    """Two epochs and the beginning of a third, as a follower would hold them."""
    branch = Branch(seats, council__epoch_ms=60_000)
    log = MemoryLog()
    log.begin(branch.ledger.spine)
    history = History(log, branch.ledger.council)
    for epoch in (1, 2, 3):
        start = len(branch.heads)
        branch.notes(15)
        if epoch < 3:
            branch.end_epoch()
        for index in range(start, len(branch.heads)):
            log.append(branch.heads[index].hash, branch.payloads[index])
        history.certificate = branch.certify()
        if epoch < 3:
            last = history.head.index
            link = Link(history.header_at(last), history.certificate)
            history.end_epoch(link, branch.payloads[last], branch.ledger.council)
    return branch, history


@pytest.fixture(scope="module")
def grown() -> tuple[Branch, History]:
    return grow()


@pytest.fixture(scope="module")
def archive(grown: tuple[Branch, History]) -> bytes:
    branch, history = grown
    return b"".join(export(NETWORK, branch.genesis, history))


Grown = tuple[Branch, History]


def checked(data: bytes) -> object:
    return verify_archive([data], mac_verify)


def test_an_export_says_what_it_holds(grown: Grown, archive: bytes) -> None:
    branch, _ = grown
    report = verify_archive([archive], mac_verify, network=NETWORK, genesis=branch.genesis)
    assert report.entries == report.index == branch.ledger.head.index
    assert report.epochs == 3
    assert report.certificates == 3
    assert report.hash == branch.ledger.head.hash
    assert report.digest == branch.ledger.digest()
    assert report.genesis == branch.heads[0].hash
    assert report.time == branch.ledger.time


def test_it_is_read_in_parts_of_any_size(archive: bytes) -> None:
    whole = verify_archive([archive], mac_verify)
    for size in (1, 7, 1000):
        parts = (archive[at : at + size] for at in range(0, len(archive), size))
        assert verify_archive(parts, mac_verify) == whole


def test_every_signature_is_checked(archive: bytes) -> None:
    asked: list[bytes] = []

    def verify(key: bytes, message: bytes, signature: bytes) -> bool:
        asked.append(signature)
        return mac_verify(key, message, signature)

    verify_archive([archive], verify)
    assert len(asked) == 3 * 15 + 3 * 3
    assert len(set(asked)) == len(asked)


def test_any_changed_byte_is_found(archive: bytes) -> None:
    for at in range(0, len(archive), 97):
        changed = archive[:at] + bytes((archive[at] ^ 0x10,)) + archive[at + 1 :]
        with pytest.raises(BrokenArchiveError):
            checked(changed)


def test_a_cut_file_is_found_wherever_it_is_cut(archive: bytes) -> None:
    for at in range(0, len(archive), 131):
        with pytest.raises(BrokenArchiveError):
            checked(archive[:at])
    with pytest.raises(BrokenArchiveError):
        checked(archive + b"\0")


def test_the_first_broken_record_is_named(grown: Grown, archive: bytes) -> None:
    branch, _ = grown
    payload = branch.payloads[9]
    at = archive.index(payload) + 20
    changed = archive[:at] + bytes((archive[at] ^ 1,)) + archive[at + 1 :]
    with pytest.raises(BrokenArchiveError, match=r"record 10 \(entry 9\)"):
        checked(changed)


def rewritten(history: History, genesis: bytes, change: Callable[[History], None]) -> bytes:
    """An export whose checksums are right and whose content is not."""
    change(history)
    return b"".join(export(NETWORK, genesis, history))


def other_payload(history: History) -> None:
    log = history.log
    assert isinstance(log, MemoryLog)
    log._payloads[8] = log._payloads[8].replace(b"note 9", b"vote 9")


def no_certificate(history: History) -> None:
    found = history.certificate
    assert found is not None
    history.certificate = type(found)(found.said, found.seats[:2], found.signatures[:2])


def forged_link(history: History) -> None:
    old = history.ended[0]
    certificate = history.ended[1].link.certificate
    history.ended[0] = type(old)(old.council, Link(old.link.header, certificate), old.payload)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_payload, r"entry 9\).*bad-signature|entry 9\)"),
        (no_certificate, "2 seats where 3"),
        (forged_link, "a certificate of another entry"),
    ],
)
def test_checksums_are_not_what_is_believed(change: Callable[[History], None], said: str) -> None:
    branch, history = grow()
    with pytest.raises(BrokenArchiveError, match=said):
        checked(rewritten(history, branch.genesis, change))


def test_another_network_and_another_genesis_are_named(grown: Grown, archive: bytes) -> None:
    other = Branch(seats=5)
    with pytest.raises(WrongNetworkError):
        verify_archive([archive], mac_verify, network="elsewhere")
    with pytest.raises(WrongGenesisError):
        verify_archive([archive], mac_verify, network=NETWORK, genesis=other.genesis)
    with pytest.raises(BrokenArchiveError, match="another version"):
        verify_archive([b"synapse ledger export 2\n" + archive[len(MAGIC) :]], mac_verify)


def test_a_pruned_ledger_is_not_exported_as_if_it_were_whole() -> None:
    branch, history = grow()
    history.log.prune(5)
    with pytest.raises(NotHeldError):
        b"".join(export(NETWORK, branch.genesis, history))


def test_a_ledger_of_nothing_but_its_genesis() -> None:
    branch = Branch()
    log = MemoryLog()
    log.begin(branch.ledger.spine)
    history = History(log, branch.ledger.council)
    report = verify_archive(export(NETWORK, branch.genesis, history), mac_verify)
    assert (report.entries, report.epochs, report.certificates) == (0, 1, 0)


def test_a_reader_that_keeps_entries_can_prove_them(grown: Grown, archive: bytes) -> None:
    branch, _ = grown
    reader = ArchiveReader(mac_verify, keep=True)
    reader.feed(archive)
    reader.report()
    assert reader.genesis == branch.genesis
    assert reader.history is not None
    proof = prove_inclusion(NETWORK, reader.history, 20)
    assert (
        check_inclusion(proof, NETWORK, branch.genesis, mac_verify).payload == branch.payloads[20]
    )


def test_every_entry_is_proven_from_the_genesis_alone(grown: Grown) -> None:
    branch, history = grown
    for index in range(1, len(branch.heads)):
        data = prove_inclusion(NETWORK, history, index)
        found = check_inclusion(data, NETWORK, branch.genesis, mac_verify)
        assert (found.index, found.hash) == (index, branch.heads[index].hash)
        assert found.payload == branch.payloads[index]
        assert found.epoch == branch.epochs[index]
        assert found.certificate.said.epoch == found.epoch


def test_a_proof_with_any_changed_byte_is_refused(grown: Grown) -> None:
    branch, history = grown
    data = prove_inclusion(NETWORK, history, 20)
    for at in range(0, len(data), 11):
        changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises((MalformedError, WrongGenesisError)):
            check_inclusion(changed, NETWORK, branch.genesis, mac_verify)


def test_proofs_of_another_ledger_are_refused_by_name(grown: Grown) -> None:
    branch, history = grown
    data = prove_inclusion(NETWORK, history, 20)
    with pytest.raises(WrongNetworkError):
        check_inclusion(data, "elsewhere", branch.genesis, mac_verify)
    with pytest.raises(WrongGenesisError):
        check_inclusion(data, NETWORK, Branch(seats=5).genesis, mac_verify)
    with pytest.raises((BadCertificateError, ProofError, BrokenPathError)):
        check_inclusion(data, NETWORK, branch.genesis, lambda *_: False)
    with pytest.raises(NotHeldError):
        prove_inclusion(NETWORK, history, 10_000)
