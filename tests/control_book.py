"""What others do at a node's ledger about upgrades: vote, judge, report, let time pass."""

from typing import Any

from protocols.cid import parse_cid
from protocols.ledger.entries import YES, Verdict
from tests.ledger_book import MEMBERS, Book
from tests.upgrade_book import report, rollout


class NodeBook(Book):
    """The book of a node's ledger, so that what is added has a certificate and is told of."""

    def __init__(self, node: Any) -> None:
        self._node = node

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self._node.there.state

    @property
    def payloads(self) -> Any:  # type: ignore[override]
        return self._node.there.payloads

    def add(self, payload: bytes) -> None:
        self._node.ratify(payload)

    def accept(self, proposal: str) -> None:
        """All members vote for it and find it sound; then its vote is over."""
        cid = parse_cid(proposal)
        self.vote(cid, dict.fromkeys(MEMBERS, YES))
        for member in MEMBERS[: self.state.open[cid].terms.verdicts]:
            self.submit(member, Verdict(proposal=cid, claim="sound", holds=True))
        self.later(self.state.params["vote.window_ms"])
        assert self.state.closed.get(cid).accepted

    def begin(self, proposal: str) -> None:
        """... and its rollout begins."""
        self.accept(proposal)
        self.later(self.state.params["execute.delay_ms"])

    def stage(self, slot: str, gain: int = 50_000, **fields: Any) -> None:
        """Every member says the same of the stage, which then is over."""
        for member in MEMBERS:
            if self._heard(slot, member):
                self.submit(member, report(self, slot, gain=gain, **fields))
        self.later(self.state.params["upgrade.stage_ms"])

    def _heard(self, slot: str, member: Any) -> bool:
        from protocols.ledger.rollout import is_heard

        return is_heard(rollout(self, slot), member.identity)

    def settle(self, proposal: str, slot: str) -> None:
        """From its vote to being in force."""
        self.begin(proposal)
        while self.state.slot(slot).rollout is not None:
            self.stage(slot)
        assert self.state.slot(slot).current.proposal == parse_cid(proposal)
