"""A ledger that grows as a council with keys would have it: entries, certificates, epochs."""

from collections.abc import Callable, Iterable, Sequence

from protocols.changes import ParameterChange
from protocols.cid import cid_of
from protocols.envelope import Verify
from protocols.ledger.chain import Head
from protocols.ledger.council import Certificate, Instant, Kind, Statement, signed_bytes
from protocols.ledger.entries import Body, Founder, Note, Proposal, Vote, encode_entry, settings_of
from protocols.ledger.fold import LedgerState
from protocols.ledger.genesis import compose
from protocols.ledger.signing import cast, submit
from protocols.manifest import ProposalManifest, encode_manifest
from synapsed.keys import Identity
from tests.gossip_kit import MacIdentity, mac_verify

NETWORK = "test"
MANY = 1 << 31
"""Submissions a day, so that one author writes whole ledgers."""
BEGAN = 1_800_000_000_000
Key = Identity | MacIdentity


class Branch:
    """The ledger, who seals it, and all certificates that were ever made."""

    def __init__(
        self,
        seats: int = 4,
        network: str = NETWORK,
        verify: Verify = mac_verify,
        key: Callable[[str], Key] = MacIdentity,
        reputation: dict[bytes, int] | None = None,
        **parameters: int,
    ) -> None:
        self.network = network
        self.verify = verify
        self.members = [key(f"member {number}") for number in range(seats)]
        self.seat_keys = {
            member.peer_id: key(f"seat {number}") for number, member in enumerate(self.members)
        }
        self.author = key("author")
        founders = [
            Founder(member.peer_id, self.seat_keys[member.peer_id].public_key, f"member {number}")
            for number, member in enumerate(self.members)
        ]
        granted = {member.peer_id: 100 for member in self.members} | {self.author.peer_id: 10}
        names = {name.replace("__", "."): value for name, value in parameters.items()}
        self.genesis = compose(
            network,
            BEGAN,
            founders,
            reputation=granted | (reputation or {}),
            humans={},
            parameters={"quota.newcomer": MANY, "work.bits": 0} | names,
        )
        self.ledger = LedgerState.from_genesis(network, self.genesis)
        self.councils = {1: self.ledger.council}
        self.payloads: list[bytes] = [self.genesis]
        self.heads: list[Head] = [self.ledger.head]
        self.epochs: list[int] = [0]
        self._notes = 0

    def append(self, *payloads: bytes) -> None:
        """More entries, whatever they are."""
        for payload in payloads:
            self.epochs.append(self.ledger.epoch)
            self.ledger.apply(payload, self.verify)
            self.payloads.append(payload)
            self.heads.append(self.ledger.head)
            self.councils.setdefault(self.ledger.epoch, self.ledger.council)

    def submission(self, body: Body, who: Key | None = None, life: int = 600_000) -> bytes:
        """Signed by `who`."""
        author = who or self.author
        return submit(
            self.ledger.realm,
            author.peer_id,
            body,
            expires=self.ledger.time + life,
            sign=author.sign,
        )

    def note(self, text: str = "", who: Key | None = None) -> bytes:
        """A note that nobody wrote before."""
        self._notes += 1
        return self.submission(Note(text=text or f"note {self._notes}"), who)

    def notes(self, count: int) -> None:
        """Append so many."""
        for _ in range(count):
            self.append(self.note())

    def propose(self, title: str = "Raise the upload", who: Key | None = None) -> bytes:
        """Append a proposal of a parameter; its CID."""
        author = who or self.author
        change = ParameterChange(settings=settings_of([("limits.upload", len(self.heads))]))
        manifest = encode_manifest(
            ProposalManifest(
                title=title, description="", author=author.peer_id, depends_on=(), change=change
            )
        )
        self.append(self.submission(Proposal(manifest=manifest), author))
        return cid_of(manifest)

    def ballots(self, proposal: bytes, voters: Iterable[Key], number: int) -> list[Vote]:
        """One vote of each, some yes, some no, some neither."""
        epoch = self.ledger.open[proposal].terms.epoch
        return [
            cast(
                self.ledger.realm,
                voter.peer_id,
                proposal,
                choice=(place + number) % 3,
                epoch=epoch,
                number=number,
                sign=voter.sign,
            )
            for place, voter in enumerate(voters)
        ]

    def tick(self, milliseconds: int = 1000) -> None:
        """Let the ledger's time pass, and what is then due happen."""
        tick = self.ledger.tick(self.ledger.time + milliseconds)
        assert tick is not None
        self.append(tick)
        self.append(*self.ledger.due(None))

    def end_epoch(self) -> int:
        """Let time pass to the epoch's end; the index of its last entry."""
        epoch = self.ledger.epoch
        while self.ledger.epoch == epoch:
            self.tick(self.ledger.params["council.epoch_ms"])
        return self.ledger.head.index

    def certify(
        self,
        index: int | None = None,
        seats: Iterable[int] = (0, 1, 2),
        term: int = 1,
        kind: Kind = Kind.CERTIFICATE_ACK,
    ) -> Certificate:
        """What a quorum signs about an entry (the newest)."""
        index = len(self.heads) - 1 if index is None else index
        council = self.councils[self.epochs[index]]
        head = self.heads[index]
        said = Statement(kind, council.epoch, term, head.index, head.hash)
        message = signed_bytes(self.ledger.realm, said)
        chosen = sorted(seats)
        keys = [self.seat_keys[council.seats[seat].identity] for seat in chosen]
        return Certificate(said, chosen, [one.sign(message) for one in keys])


def at(seconds: float) -> Instant:
    """So long after everything began."""
    return Instant(seconds, BEGAN + int(seconds * 1000))


def fork_of(branch: Branch, index: int, payloads: Sequence[bytes] = ()) -> Branch:
    """Another ledger by the same council, the same up to `index`."""
    other = object.__new__(Branch)
    other.__dict__.update(branch.__dict__)
    other.ledger = LedgerState.from_genesis(branch.network, branch.genesis)
    other.payloads, other.heads = [branch.genesis], [other.ledger.head]
    other.epochs, other.councils = [0], {1: other.ledger.council}
    other.append(*branch.payloads[1 : index + 1], *payloads)
    return other


__all__ = ["BEGAN", "NETWORK", "Branch", "at", "encode_entry", "fork_of"]
