"""tests/vectors/ledger.json: a short ledger with an entry of each kind, read by other means.

`python -m tests.test_ledger_vectors` writes the file again; the format changing is a new version
of the protocol, so do not do that lightly.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import VerifyKey

from protocols.changes import HumanKeyChange, ParameterChange, Setting, Share
from protocols.cid import cid_of
from protocols.codec import decode_plain
from protocols.ledger.entries import YES, GuiltProof, Latency, Measured, Note, Reveal, Verdict
from protocols.ledger.fold import LedgerState
from tests.ledger_book import HUMAN, MEMBERS, NETWORK, OTHER_HUMAN, Book, Person, genesis, verify
from tests.test_ledger_guilt import fork
from tests.test_manifest_vectors import _cbor, _meant, _shown
from tests.training_book import BETTER, MODEL, checkpoint, training
from tests.upgrade_book import change as upgrade
from tests.upgrade_book import heard, report

PATH = Path(__file__).parent / "vectors" / "ledger.json"
ADA, BEN, CLEO, DAN = MEMBERS
ALL = dict.fromkeys(MEMBERS, YES)


def story() -> Book:
    """A ledger by which every kind of entry comes."""
    book = Book(
        genesis(
            parameters={
                "council.checkpoint_entries": 16, "council.epoch_ms": 60_000, "work.bits": 0,
                "council.tick_ms": 500, "upgrade.stage_ms": 5_000, "execute.delay_ms": 2_000,
            }
        )
    )  # fmt: skip
    book.submit(ADA, Note(text="The first line of the audit trail: ähm."))
    upload = book.propose(ADA, ParameterChange(settings=(Setting("limits.upload", 2_500_000),)))
    carol = HumanKeyChange(action="add", name="carol", key=Person("carol").key)
    key = book.propose(BEN, carol, title="Carol approves too")
    linked = book.propose(CLEO, title="About a model", depends_on=(cid_of(b"a model"),))
    for cid in (upload, key, linked):
        book.vote(cid, ALL)
    for human in (HUMAN, OTHER_HUMAN):
        book.approve(key, human)
    better = book.propose(DAN, upgrade(book), title="Evict otherwise")
    book.vote(better, ALL)
    learn = book.propose(ADA, training(), title="Learn")
    book.vote(learn, ALL)
    for member in (ADA, BEN, DAN):
        book.submit(member, Verdict(proposal=learn, claim="fetchable", holds=True))
        book.submit(member, Verdict(proposal=linked, claim="fetchable", holds=True))
        book.submit(member, Verdict(proposal=better, claim="sound", holds=True))
    for member in MEMBERS:
        book.submit(member, book.candidacy(member))
    book.submit(ADA, Latency(epoch=2, measured=(Measured(BEN.identity, 35),)))
    book.later(10_000)
    parts = (Share(ADA.identity, 600), Share(BEN.identity, 125))
    child = book.propose(DAN, checkpoint(book, shares=parts), title="Learned")
    book.vote(child, ALL)
    book.later(3_000)
    for member in heard(book, MEMBERS):
        book.submit(member, report(book))
    book.later(32_000)
    for member in (ADA, CLEO):
        book.submit(member, Reveal(epoch=2, secret=member.secret))
    book.submit(CLEO, GuiltProof(proof=fork(book, DAN)))
    book.later(15_000)
    for member in (ADA, BEN, CLEO):
        said = Verdict(proposal=child, claim="improved", holds=True, interval=BETTER)
        book.submit(member, said)
    book.later(1_000)
    return book


def _kind(payload: bytes) -> str:
    entry: Any = decode_plain(payload)
    kind: str = entry["body"]["kind"] if entry["kind"] == "submission" else entry["kind"]
    return kind


def written() -> dict[str, Any]:
    """What the file says."""
    book = story()
    state = LedgerState.from_genesis(NETWORK, book.payloads[0])
    entries = []
    for index, payload in enumerate(book.payloads):
        if index:
            state.apply(payload, verify)
        entries.append(
            {
                "kind": _kind(payload),
                "value": _shown(decode_plain(payload)),
                "bytes": payload.hex(),
                "chain_hash": state.head.hash.hex(),
            }
        )
    return {"network": NETWORK, "entries": entries, "digest": state.digest().hex()}


VECTORS: Any = json.loads(PATH.read_text()) if PATH.exists() else {"entries": []}
ENTRIES = VECTORS["entries"]


def test_there_is_an_entry_of_each_kind() -> None:
    assert {each["kind"] for each in ENTRIES} == {
        "genesis", "note", "proposal", "verdict", "candidacy", "reveal", "latency", "guilt",
        "votes", "approval", "tick", "outcome", "parameter", "human-key", "credit", "reputation",
        "epoch", "checkpoint", "stage", "report",
    }  # fmt: skip


@pytest.mark.parametrize("index", range(len(ENTRIES)))
def test_the_bytes_are_the_specifications(index: int) -> None:
    assert _cbor(_meant(ENTRIES[index]["value"])).hex() == ENTRIES[index]["bytes"]


def test_the_chain_is_the_specifications() -> None:
    """sha256(domain ‖ epoch ‖ index ‖ prev ‖ skip ‖ sha256(payload)), integers of 8 bytes."""
    hashes, epoch = [], 0
    for index, each in enumerate(ENTRIES):
        prev = hashes[index - 1] if index else bytes(32)
        skip = hashes[index & (index - 1)] if index else bytes(32)
        payload = hashlib.sha256(bytes.fromhex(each["bytes"])).digest()
        packed = struct.pack(">QQ", epoch, index) + prev + skip + payload
        hashes.append(hashlib.sha256(b"/synapse/test/chain/1" + packed).digest())
        assert hashes[index].hex() == each["chain_hash"], index
        if index == 0 or each["kind"] == "epoch":
            epoch += 1


def test_the_signatures_are_the_specifications() -> None:
    """Over the domain and canonical DAG-CBOR; an identity's key are its last 32 bytes."""
    ledger = b"/synapse/test/" + ENTRIES[0]["chain_hash"].encode()
    checked = 0
    for each in ENTRIES:
        entry = _meant(each["value"])
        if entry["kind"] == "submission":
            signature = entry.pop("signature")
            key = VerifyKey(entry["author"][6:])
            key.verify(ledger + b"/submission/1" + _cbor(entry), signature)
            checked += 1
        elif entry["kind"] == "approval":
            message = ledger + b"/approval/1" + _cbor([entry["proposal"]])
            VerifyKey(entry["key"]).verify(message, entry["signature"])
            checked += 1
        elif entry["kind"] == "votes":
            for cid, epoch, ballots in entry["polls"]:
                for voter, choice, number, signature in ballots:
                    message = ledger + b"/vote/1" + _cbor([cid, choice, epoch, number])
                    VerifyKey(voter[6:]).verify(message, signature)
                    checked += 1
    assert checked > 25


def test_it_folds_to_the_same_state() -> None:
    first, *rest = [bytes.fromhex(each["bytes"]) for each in ENTRIES]
    state = LedgerState.from_genesis(VECTORS["network"], first)
    for payload in rest:
        state.apply(payload, verify)
    assert state.digest().hex() == VECTORS["digest"]
    assert state.params["limits.upload"] == 2_500_000
    assert state.epoch == 2
    assert state.head_of(MODEL) == cid_of(b"better")
    assert state.trainings[MODEL].interval == BETTER


def test_the_file_is_what_this_version_writes() -> None:
    assert written() == VECTORS


if __name__ == "__main__":
    PATH.write_text(json.dumps(written(), indent=1, ensure_ascii=False) + "\n")
