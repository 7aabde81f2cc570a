"""A committed round, recomputed by somebody who did not serve its group: a learner, or an owner.

Everything is fetched from the group's replicas, for as long as they keep it: deltas for KEEP_ROUNDS
rounds, outer states for KEEP_STATES, and all of it for SPARE_S at least. What comes is named by its
hash, so nobody need be believed; a round that is wrong is a case against each who signed it.

A learner does this of its own accord, at random (`is_ours`): the draw is from the record's hash and
its own id, so nobody knows before who will look.
"""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import trio

from protocols.errors import NotHeldError, SynapseError
from protocols.learn import messages
from protocols.learn.case import Wrong
from protocols.learn.claims import MAX_OUTER, NOTHING, Record
from synapsed.training.errors import BlobUnknownError
from synapsed.training.recompute import remake_round

if TYPE_CHECKING:
    from synapsed.training.lineage import Lineage

log = logging.getLogger(__name__)

ONE_IN = 512
"""Rounds of a group that one learner recomputes. Beside the deltas of all learners (20 of a quarter
byte a value) it fetches the outer state, of 4 to 12 bytes a value, where a learner sends and
receives about half a byte a value in a round: at one in 512 that is 4 % more, and with 20 learners
one round in 26 of each group is looked at by somebody beside the three, who look at all of them."""
ASK_S = 10.0
"""For a record, or a version, that the replicas have to make first."""
AGAIN_S = 1.0

Answer = Literal["right", "wrong", "gone"]


class Reviewed(msgspec.Struct, frozen=True):
    """What a round is found to be."""

    answer: Answer
    """`gone`: what it was made from is not kept any more (or the round is not known)."""
    why: str = ""
    """Which parts differ, or what is not there."""
    record: Record | None = None


def is_ours(record: Record, me: bytes, one_in: int = ONE_IN) -> bool:
    """Whether this learner recomputes a round."""
    said = record.round
    seed = b"review" + said.head + said.result + said.after + me
    return int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") % one_in == 0


class Reviewer:
    """One lineage's."""

    def __init__(self, lineage: "Lineage") -> None:
        self._lineage = lineage
        self._turn = trio.Lock()
        """One at a time: it is worth as much as a round of the machine's time."""

    def recorded(self, record: Record, one_in: int = ONE_IN) -> None:
        """A round has a record, here: it may be our turn."""
        said, post = record.round, self._lineage.post
        served = post.me in self._lineage.seats(said.group, said.epoch)
        if not served and not self._turn.locked() and is_ours(record, post.me, one_in):
            post.spawn(self._look, record)

    async def _look(self, record: Record) -> None:
        try:
            await self.review(record.round.group, record.round.number, record)
        except SynapseError as error:
            log.info("reviewing: %s", error)

    async def review(self, group: int, number: int, record: Record | None = None) -> Reviewed:
        """Recompute a round; whoever signed a wrong one is accused. Raises ComputeError and
        whatever else says that it could not be done here."""
        async with self._turn:
            found = await self._review(group, number, record)
        post = self._lineage.post
        post.tell("training.reviewed", group=group, number=number, answer=found.answer)
        if found.answer == "wrong" and found.record is not None:
            for each in found.record.by:
                self._lineage.accuser.round_is_wrong(Wrong(found.record.round, each))
        return found

    async def _review(self, group: int, number: int, record: Record | None) -> Reviewed:
        record = record or await self._record(group, number)
        if record is None:
            return Reviewed("gone", f"no record of round {number} of group {group} is to be had")
        try:
            why = await self._recomputed(record)
        except NotHeldError as error:
            return Reviewed("gone", error.message, record)
        return Reviewed("wrong" if why else "right", why, record)

    async def _record(self, group: int, number: int) -> Record | None:
        """Of a round that may be over for long: records are kept longer than what they name."""
        lineage, chain = self._lineage, self._lineage.chains[group]
        asked = messages.Ask(model=lineage.post.lineage, group=group, number=number)
        with trio.move_on_after(ASK_S):
            while chain.record(number) is None:
                lineage.wanted_records.add(group)
                for peer in lineage.seats(group, lineage.epoch):
                    lineage.post.say(peer, asked)
                await trio.sleep(AGAIN_S)
        return chain.record(number)

    async def _recomputed(self, record: Record) -> str:
        lineage, post, said = self._lineage, self._lineage.post, record.round
        plan = lineage.plans.get(said.plan)
        if plan is None:
            raise NotHeldError("the plan that it was made by is not known here")
        now = lineage.seats(said.group, lineage.epoch)
        peers = [
            peer
            for peer in dict.fromkeys((*lineage.seats(said.group, said.epoch), *now))
            if peer != post.me
        ]
        # The state first: it is kept for the shortest time.
        wanted = {} if said.before == NOTHING else {said.before: -MAX_OUTER}
        most = lineage.max_delta(said.group)
        wanted |= {each.digest: -most for each in said.inputs}
        for digest, size in wanted.items():
            await post.exchange.fetch_of(peers, post.lineage, digest, size)
        out = post.blobs.folder / "tmp" / "review"
        try:
            base = await self._base(record, peers)
            return await remake_round(
                post.compute,
                plan,
                said,
                base=base,
                deltas={digest: post.blobs.path(digest) for digest in wanted},
                out=out,
            )
        finally:
            await trio.to_thread.run_sync(lambda: shutil.rmtree(out, ignore_errors=True))

    async def _base(self, record: Record, peers: Sequence[bytes]) -> Path:
        """The version before, as a file. BlobUnknownError, ComputeError."""
        lineage, post, said = self._lineage, self._lineage.post, record.round
        try:
            return await lineage.version_file(said.group, said.parent, "review")
        except BlobUnknownError:
            pass
        size = lineage.chains[said.group].version_size
        with trio.move_on_after(ASK_S):
            while not post.blobs.has_version(said.parent):
                try:
                    await post.exchange.fetch_version(peers, post.lineage, said.parent, size)
                except BlobUnknownError:
                    await trio.sleep(AGAIN_S)  # whoever was asked makes it now
        return post.blobs.version(said.parent)
