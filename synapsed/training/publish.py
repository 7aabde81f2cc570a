"""A checkpoint: the groups' newest versions as a model, with the rounds that made it.

The child's files are its parent's, with other values; the evidence is every committed round between
the two (protocols/learn/evidence.py), so that the council's members can tell whose doing it is, and
that nobody slipped values in which no round made.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from protocols.changes import CheckpointChange
from protocols.cid import cid_text
from protocols.learn import messages
from protocols.learn.claims import Record, Sum, check_record
from protocols.learn.evidence import (
    Span,
    Stand,
    heads_digest,
    read_evidence,
    shares,
    write_evidence,
)
from protocols.manifest import MAX_NAME, DatasetManifest, FileRef
from synapsed.models import import_artefacts, import_model
from synapsed.store import Store
from synapsed.store.reasons import CHECKPOINT, PUBLISHED
from synapsed.training.chain import Chain
from synapsed.training.errors import CannotLearnError
from synapsed.training.lineage import Lineage

T = TypeVar("T")

RECORDS_S = 60.0
"""For rounds that are not here: asked of the groups' replicas."""
ASK_AGAIN_S = 1.0
AT_ROUND = " at round "
"""Between the name that a lineage has and the round of its checkpoint: a name of its own, so that
the lineage's still stands for one model."""


class Made(msgspec.Struct, frozen=True):
    """A checkpoint that is in the store."""

    model: bytes
    """Its manifest's CID."""
    evidence: bytes
    evidence_size: int
    change: CheckpointChange
    round: int
    """The lowest of its groups'."""


class Publisher:
    """Makes checkpoints of one lineage."""

    def __init__(self, store: Store, lineage: Lineage, files: list[tuple[str, Path]]) -> None:
        """`files` are the parent's, in its manifest's order."""
        self._store = store
        self._lineage = lineage
        self._files = files

    async def make(self, parent: bytes, begins: Sequence[Stand], name: str) -> Made:
        """Write, import and pin a checkpoint of what is here, as a child of `parent`, whose groups
        stood at `begins`. Raises CannotLearnError, ComputeError, StoreError, and what an import
        does."""
        lineage = self._lineage
        chains = lineage.chains
        ends = tuple(Stand(chain.number, chain.head) for chain in chains)
        if tuple(begins) == ends:
            raise CannotLearnError(
                "nothing was learned since the last checkpoint", remedy="wait for a round"
            )
        records = await self._records(begins, ends)
        folder = lineage.post.blobs.aside()
        try:
            round_ = min(stand.number for stand in ends)
            named = name.partition(AT_ROUND)[0][: MAX_NAME - 24] + f"{AT_ROUND}{round_}"
            model = await self._write(folder, chains, ends, named)
            data = write_evidence(
                Span(model=lineage.post.lineage, begins=tuple(begins), ends=ends),
                records,
                await self._sums(records),
            )
            evidence = await _thread(partial(self._keep, folder.with_suffix(".rounds"), data))
        finally:
            await _thread(partial(shutil.rmtree, folder, ignore_errors=True))
        change = CheckpointChange(
            training=lineage.post.lineage,
            parent=parent,
            manifest=model,
            evidence=evidence,
            heads=heads_digest(lineage.post.lineage, ends),
            shares=shares(read_evidence(data), [chain.group.elements for chain in chains]),
        )
        return Made(model, evidence, len(data), change, round_)

    async def _write(
        self, folder: Path, chains: Sequence[Chain], ends: Sequence[Stand], name: str
    ) -> bytes:
        post = self._lineage.post
        versions = {}
        for chain, stand in zip(chains, ends, strict=True):
            how = chain.replay(stand.number)
            path = how.path
            if how.links:
                out = folder.with_suffix(".versions")
                made = await post.compute.advance(chain.group.number, how.path, how.links, out)
                path = Path(made.path)
            versions[chain.group.number] = path
        group_bytes = self._lineage.terms.plan.group_bytes
        try:
            await post.compute.write_model(self._files, group_bytes, versions, folder)
        finally:
            await _thread(partial(shutil.rmtree, folder.with_suffix(".versions"), True))
        take = partial(import_model, self._store, folder, name, reason=CHECKPOINT)
        return (await _thread(take)).cid

    def _keep(self, path: Path, data: bytes) -> bytes:
        """The evidence, as a dataset of one file."""
        named = path.with_name("rounds")
        try:
            named.write_bytes(data)
            cid, _ = import_artefacts(
                self._store, [named], "flat", self._described, reason=PUBLISHED
            )
        finally:
            named.unlink(missing_ok=True)
        return cid

    def _described(self, files: Sequence[FileRef]) -> DatasetManifest:
        return DatasetManifest(
            name="rounds",
            description=f"Rounds of {cid_text(self._lineage.post.lineage)}",
            files=tuple(files),
        )

    # -- rounds ------------------------------------------------------------------------------------

    async def _records(self, begins: Sequence[Stand], ends: Sequence[Stand]) -> list[Record]:
        """Every round between, with those that are not here fetched. CannotLearnError."""
        found: list[Record] = []
        with trio.move_on_after(RECORDS_S):
            for chain, begin, end in zip(self._lineage.chains, begins, ends, strict=True):
                while len(here := chain.records(begin.number, end.number)) < (
                    end.number - begin.number
                ):
                    self._ask(chain, begin.number + len(here))
                    await trio.sleep(ASK_AGAIN_S)
                found += here
            return found
        raise CannotLearnError(
            "the rounds since the last checkpoint could not all be had",
            remedy="try again while the groups' replicas are up",
        )

    def _ask(self, chain: Chain, number: int) -> None:
        post, group = self._lineage.post, chain.group.number
        self._lineage.wanted_records.add(group)
        asked = messages.Ask(model=post.lineage, group=group, number=number)
        for peer in self._lineage.seats(group, self._lineage.epoch):
            post.say(peer, asked)

    async def _sums(self, records: Sequence[Record]) -> list[Sum]:
        """The regions' sums among the inputs, as far as they are here (credits are lost for those
        that are not, and nothing else)."""
        found = []
        for record in records:
            for each in record.round.inputs:
                if each.of and (said := self._lineage.sum_of(each.digest)) is not None:
                    found.append(said)
        return found


def check(lineage: Lineage, record: Record) -> None:
    """Raises BadClaimError unless two of its group's replicas signed it."""
    post = lineage.post
    replicas = lineage.seats(record.round.group, record.round.epoch)
    check_record(post.realm, record, replicas, post.verify)


async def _thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)
