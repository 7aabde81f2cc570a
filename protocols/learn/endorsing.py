"""How a round becomes a record: two of the group's replicas sign it, each for itself.

A replica signs a round once it is committed and it has computed it itself (judging.py), so never
two of one number: an honest primary's log has one right end of each round. The primary's signature
stands in the log's entry, the others send theirs to each other, and whoever has two signatures has
the record, and can prove the round to anybody. A round that was committed and has no record when
its group is replaced is computed and signed by the new group's replicas, under their own epoch.

Who cannot compute (paused, a worker that died, a blob that is missing) signs later, or never: of
three, two who can are needed. It takes the round as right once it has the record of the others.
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
        check: Callable[[Record], None] | None = None,
    ) -> None:
        self._realm = realm
        self._me = me
        self._epoch = epoch
        self.others = tuple(peer for peer in replicas if peer != me)
        self._replicas = tuple(replicas)
        self._sign = sign
        self._verify = verify
        self._recall = recall
        self._check = check
        self._records: dict[int, Record] = {}
        self.open: dict[int, Round] = {}
        """Committed rounds without a record."""
        self._heard: dict[int, dict[bytes, bytes]] = {}
        """Signatures, by round and replica."""
        self._late: dict[int, set[bytes]] = {}
        """Whose signatures came when the record was there, by round."""
        self.next = 0
        """The round that is committed next."""
        self.mute = False
        """Whether we sign nothing: what our log begins with was proven by nobody here."""

    def turn(self, epoch: int, replicas: Sequence[bytes]) -> None:
        """Another epoch: what we computed and has no record is signed under it."""
        self._epoch, self._replicas = epoch, tuple(replicas)
        self.others = tuple(peer for peer in replicas if peer != self._me)
        signed = {number for number in self.open if self._me in self._heard[number]}
        self._heard.clear()
        for number, decided in self.open.items():
            self.open[number] = mine = msgspec.structs.replace(decided, epoch=epoch)
            heard = self._heard[number] = {}
            if number in signed:
                heard[self._me] = self._sign(round_message(self._realm, mine))

    def record(self, number: int) -> Record | None:
        """Of that round, where there is one."""
        return self._records.get(number) or self._recall(number)

    def right(
        self, decided: Round, by: Endorsement
    ) -> tuple[Endorse | None, Sequence[bytes], Record | None]:
        """A committed round that we computed: what to tell, whom, and its record where it has one
        already. `by`: its primary's signature, as the log has it: who has that needs its own
        alone, so ours is for the primary."""
        number = decided.number
        self._reached(number)
        known = self.record(number)
        if known is not None:
            return None, (), known
        heard = self._heard.setdefault(number, {})
        to = self.others
        if decided.epoch == self._epoch and by.replica in self.others:
            heard[by.replica] = by.signature
            to = (by.replica,)
        self.open[number] = decided = msgspec.structs.replace(decided, epoch=self._epoch)
        if self.mute:
            return None, (), self._complete(number)
        heard[self._me] = signature = self._sign(round_message(self._realm, decided))
        told = by.replica == self._me and by.signature == signature
        endorse = None if told else self._endorse(decided, signature)
        return endorse, to, self._complete(number)

    def lacks(self, peer: bytes, record: Record) -> bool:
        """Whether somebody who says its signature of a round that has a record does not know that:
        it said it before."""
        if any(one.replica == peer for one in record.by):
            return True
        again = self._late.setdefault(record.round.number, set())
        while len(self._late) > KEPT:
            del self._late[min(self._late)]
        if peer in again:
            return True
        again.add(peer)
        return False

    def _reached(self, number: int) -> None:
        self.next = max(self.next, number + 1)
        for old in [it for it in self._heard if it + AHEAD < number and it not in self.open]:
            del self._heard[old]

    def again(self) -> list[Endorse]:
        """Ours, of every round that has no record yet."""
        return [
            self._endorse(decided, self._heard[number][self._me])
            for number, decided in self.open.items()
            if self._me in self._heard[number]
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

    def check(self, record: Record) -> None:
        """Raise SynapseError unless two of its group's replicas signed it."""
        if self._check is not None:
            self._check(record)
        else:
            mine = record.round.epoch == self._epoch
            check_record(self._realm, record, self._replicas if mine else (), self._verify)

    def adopt(self, record: Record) -> Record:
        """A checked record from elsewhere, of a round as our log has it."""
        self._reached(record.round.number)
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
        self.mute = False
        self.open.pop(number, None)
        self._heard.pop(number, None)
        self._records[number] = record
        while len(self._records) > KEPT:
            del self._records[min(self._records)]
        return record


def record_size(record: Record) -> int:
    """Bytes of it in a message."""
    return len(encode(record))
