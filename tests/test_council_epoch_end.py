"""Rule 6 outside the council: what its last quorum signed past its epoch's end ratifies nothing."""

from protocols.follow.chain import RatifiedChain
from protocols.ledger.council import Certificate, Kind, Statement, signed_bytes
from protocols.ledger.proof import Proof
from tests.follow_kit import Town
from tests.ledger_world import Branch


def test_a_ratification_from_beyond_its_epochs_end_stops_whoever_follows() -> None:
    branch = Branch(council__epoch_ms=60_000)
    branch.notes(3)
    last = branch.end_epoch()
    branch.notes(1)
    seats, head = branch.councils[1].seats, branch.heads[last + 1]
    said = Statement(Kind.CERTIFICATE_ACK, 1, 1, head.index, head.hash)
    keys = [branch.seat_keys[seat.identity] for seat in seats[:3]]
    message = signed_bytes(branch.ledger.realm, said)
    beyond = Certificate(said, [0, 1, 2], [key.sign(message) for key in keys])

    def fold(certificate: Certificate) -> RatifiedChain:
        """What becomes of a follower that is shown the epoch's entries under a certificate."""
        chain = Town(branch).node("node").follower.chain
        proof = Proof(certificate, [])
        chain.begin(branch.payloads[1 : last + 1], proof, save_from=1, check_from=1)
        while chain.batch is not None:
            chain.fold()
        return chain

    honest = fold(branch.certify(last))
    assert (honest.ledger.head.index, honest.halted) == (last, None)
    assert honest.history.council == branch.councils[2]
    assert "beyond its epoch" in str(fold(beyond).halted)
