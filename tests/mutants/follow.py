"""Bugs in how daemons outside the council follow the ledger, and in proofs of it."""

from tests.mutants.catchers import Catcher, Family, NamedTests
from tests.mutants.mutant import Change, Mutant

CHAIN = "protocols/follow/chain.py"
INSTALL = "protocols/follow/install.py"
POOL = "protocols/council/pool.py"
PROOF = "protocols/ledger/proof.py"
DRIVER = "synapsed/driver.py"


def _mutant(name: str, drops: str, file: str, old: str, new: str, *catchers: Catcher) -> Mutant:
    return Mutant(name, drops, (Change(file, old, new),), catchers)


def tests(*files: str) -> tuple[Catcher, ...]:
    """Test files, tried one after another."""
    return tuple(NamedTests((f"tests/test_{file}.py",)) for file in files)


MUTANTS = (
    _mutant(
        "follower-passes-an-epochs-end",
        "rule 6: no certificate covers entries behind its epoch's last",
        CHAIN,
        "            if certificate.said.index != head.index:  # rule 6",
        "            if certificate.said.index < head.index:  # rule 6",
        *tests("council_epoch_end"),
    ),
    _mutant(
        "follower-keeps-the-first-council",
        "an epoch's end names the council that ratifies the next epoch",
        INSTALL,
        "        self._council = following\n",
        "        self._council = self._council\n",
        *tests("follow_snapshot", "archive"),
    ),
    _mutant(
        "follower-believes-the-entries",
        "the entries of a range are those that its certificate ratifies",
        CHAIN,
        "        if proven_hash(self._realm.network, proof, spine.head.index) != spine.head.hash:",
        "        if proven_hash(self._realm.network, proof, spine.head.index) == b'':",
        *tests("follow_ranges", "follow_storm", "follow_epochs"),
    ),
    _mutant(
        "follower-believes-the-certificate",
        "a range's certificate is verified against the epoch's council",
        CHAIN,
        "check_ratified(self._realm, self.history.council, certificate, self._verify)",
        "len(certificate.signatures)",
        *tests("follow_ranges", "follow_storm", "follow_epochs"),
        Family("whispers", 40),
    ),
    _mutant(
        "certified-is-taken-for-ratified",
        "acknowledgements certify; only certificate-acknowledgements ratify",
        PROOF,
        "    if not certificate.ratifies or certificate.said.term == 0:",
        "    if certificate.said.term == 0:",
        *tests("follow_ranges", "follow_epochs", "archive", "follow_snapshot"),
    ),
    _mutant(
        "snapshot-believed",
        "a snapshot's digest is what a ratified checkpoint states",
        INSTALL,
        "        if hashlib.sha256(found.state).digest() != checkpoint_digest(found.payload):",
        "        if not found.state:",
        *tests("follow_snapshot"),
    ),
    _mutant(
        "link-of-another-entry",
        "an epoch's end is certified by its council",
        PROOF,
        "    if said.head != Head(header.index, chain_hash(realm.network, header)):",
        "    if said.index != header.index:",
        *tests("follow_epochs", "follow_snapshot", "archive"),
    ),
    _mutant(
        "sent-before-synced",
        "what was saved is synced before anything that rests on it leaves",
        DRIVER,
        "if saves or (leaves and self._unsynced):",
        "if saves:",
        *tests("driver"),
    ),
    _mutant(
        "honest-leader-suspected",
        "a submission is overdue only a time-out after this leader was told of it",
        POOL,
        "            if item.told is None or now.mono < item.told + time_out:",
        "            if now.mono < (item.told or 0.0) + time_out:",
        *tests("pool"),
        Family("whispers", 40),
    ),
)
