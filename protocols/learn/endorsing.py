"""How a committed round becomes a record: two of the group's replicas sign it, each on its own.

A replica signs a round once it knows that the round is committed, so never two of one number; it
sends its signature to the other two, and whoever has two signatures has the record, and can prove
the round to anybody. A round that was committed and has no record when its group is replaced is
signed by the new group's replicas, under their own epoch: what they took over is the same round.
"""

from collections.abc import Callable, Sequence

import msgspec

from protocols.codec import encode
from protocols.envelope import Sign, Verify
from protocols.errors import MalformedError
from protocols.learn.claims import Endorsement, Record, Round, check_record, round_message
from protocols.learn.messages import Endorse
from protocols.peerid import public_key_of
from protocols.realm import Realm

KEPT = 64
"""Records in memory, of one group: whoever needs older ones costs a read."""
AHEAD = 4
"""Rounds beyond ours whose endorsements are kept: a replica hears of a commit when it can."""
ENDORSERS = 2

Recall = Callable[[int], Record | None]
"""A record that was saved, by its round's number."""


class Endorsing:
    """The records of one group at one replica."""

    def __init__(
        self,
        realm: Realm,
        me: bytes,
        epoch: int,
        replicas: Sequence[bytes],
        *,
        sign: Sign,
        verify: Verify,
        recall: Recall,
    ) -> None:
        self._realm = realm
        self._me = me
        self._epoch = epoch
        self.others = tuple(peer for peer in replicas if peer != me)
        self._replicas = tuple(replicas)
        self._sign = sign
        self._verify = verify
        self._recall = recall
        self._records: dict[int, Record] = {}
        self.open: dict[int, Round] = {}
        """Committed rounds without a record."""
        self._heard: dict[int, dict[bytes, bytes]] = {}
        """Signatures, by round and replica."""
        self.next = 0
        """The round that is committed next."""

    def record(self, number: int) -> Record | None:
        """Of that round, where there is one."""
        return self._records.get(number) or self._recall(number)

    def committed(self, decided: Round) -> tuple[Endorse | None, Record | None]:
        """What to tell the others of a round, and its record where it has one already."""
        number = decided.number
        self.next = max(self.next, number + 1)
        for old in [it for it in self._heard if it + AHEAD < number and it not in self.open]:
            del self._heard[old]
        known = self.record(number)
        if known is not None:
            return None, known
        self.open[number] = decided = msgspec.structs.replace(decided, epoch=self._epoch)
        signature = self._sign(round_message(self._realm, decided))
        self._heard.setdefault(number, {})[self._me] = signature
        return self._endorse(decided, signature), self._complete(number)

    def again(self) -> list[Endorse]:
        """Ours, of every round that has no record yet."""
        return [
            self._endorse(decided, self._heard[number][self._me])
            for number, decided in self.open.items()
        ]

    def endorsed(self, peer: bytes, said: Endorse) -> Record | None:
        """A signature of another replica's; the record that it completes.

        Raises MalformedError where it is none of its round.
        """
        number = said.number
        if peer not in self.others or said.epoch != self._epoch:
            return None
        if not number <= self.next + AHEAD or self.record(number) is not None:
            return None
        decided = self.open.get(number)
        if decided is None:
            if number >= self.next:
                self._heard.setdefault(number, {})[peer] = said.signature
            return None
        if not self._signed(decided, peer, said.signature):
            raise MalformedError("an endorsement of another round than the one committed here")
        self._heard[number][peer] = said.signature
        return self._complete(number)

    def adopt(self, record: Record) -> Record | None:
        """A record from elsewhere; None where it adds nothing. Raises BadClaimError."""
        decided = self.open.get(record.round.number)
        if decided is None or record.round.epoch != self._epoch:
            return None  # another epoch's is whole without us; ours comes by our own signatures
        check_record(self._realm, record, self._replicas, self._verify)
        if msgspec.structs.replace(record.round, epoch=self._epoch) != decided:
            raise MalformedError("a record of another round than the one committed here")
        return self._keep(record)

    def _endorse(self, decided: Round, signature: bytes) -> Endorse:
        return Endorse(
            model=decided.model,
            group=decided.group,
            number=decided.number,
            epoch=decided.epoch,
            signature=signature,
        )

    def _signed(self, decided: Round, peer: bytes, signature: bytes) -> bool:
        message = round_message(self._realm, decided)
        return self._verify(public_key_of(peer), message, signature)

    def _complete(self, number: int) -> Record | None:
        decided, heard = self.open[number], self._heard[number]
        for peer in [it for it in heard if it != self._me]:
            if not self._signed(decided, peer, heard[peer]):
                del heard[peer]  # it came before the round, and could not be looked at then
        if len(heard) < ENDORSERS:
            return None
        by = tuple(Endorsement(peer, heard[peer]) for peer in sorted(heard))
        return self._keep(Record(round=decided, by=by))

    def _keep(self, record: Record) -> Record:
        number = record.round.number
        self.open.pop(number, None)
        self._heard.pop(number, None)
        self._records[number] = record
        while len(self._records) > KEPT:
            del self._records[min(self._records)]
        return record


def record_size(record: Record) -> int:
    """Bytes of it in a message."""
    return len(encode(record))
