"""What the scripted tests of the council's rules share: four seats, and who leads when."""

from protocols.ledger.council import Certificate, Kind, start_certificate
from protocols.raft.messages import (
    Suspicion,
)
from tests.raft_kit import (
    SETTINGS,
    certify,
    make_council,
)
from tests.raft_lone import Chain, Lone

COUNCIL = make_council(4)
START = start_certificate(COUNCIL)
L1, L2, L3 = (COUNCIL.leader(term) for term in (1, 2, 3))
ME = next(seat for seat in range(4) if seat not in (L1, L2))
OTHERS = [seat for seat in range(4) if seat != ME]


def acked(lone: Lone) -> list[tuple[int, int]]:
    return [(said.term, said.index) for said in lone.signed(Kind.ACK)]


def locked(lone: Lone) -> list[tuple[int, int]]:
    return [(said.term, said.index) for said in lone.signed(Kind.CERTIFICATE_ACK)]


def certified(chain: Chain, term: int = 1, kind: Kind = Kind.ACK) -> Certificate:
    return certify(COUNCIL, kind, term, chain.head, OTHERS)


def give_up(lone: Lone, term: int = 1) -> None:
    """The others suspect the leader of `term`, and so does this member by now."""
    lone.wait(SETTINGS.time_out + 0.01)
    for seat in OTHERS[:2]:
        lone.hear(seat, Suspicion(1, term, 0))


def leader_of_two() -> Lone:
    lone = Lone(L2)
    lone.wait(SETTINGS.time_out + 0.01)
    return lone
