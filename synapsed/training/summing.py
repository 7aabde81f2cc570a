"""Regions' sums by the compute worker: made here as an aggregator, or made again as an auditor."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from protocols.errors import SynapseError
from protocols.learn import messages
from protocols.learn.aggregator_ports import Combine, Combined
from protocols.learn.audit import Recompute
from protocols.learn.partition import Group
from protocols.plan import Plan
from synapsed.store.errors import disk_errors
from synapsed.training.post import Post
from synapsed.training.recompute import remake_sum, write_blank

log = logging.getLogger(__name__)


class Summing:
    """One lineage's."""

    def __init__(self, post: Post, plan: Plan, groups: Sequence[Group]) -> None:
        self._post = post
        self._plan = plan
        self._groups = groups
        self._made = 0
        """Sums that were made here: each in a folder of its own."""

    async def combined(self, wanted: Combine) -> Combined:
        """A sum, and what it leaves, as blobs of ours. Raises ComputeError, DiskError."""
        blobs = self._post.blobs
        with self._folder() as out:
            made = await self._post.compute.combine(
                self._plan,
                wanted.number,
                write_blank(self._groups[wanted.group], self._blank(wanted.group)),
                [(blobs.path(part.blob.digest), part.weight) for part in wanted.parts],
                out,
                carry=None if wanted.carry is None else blobs.path(wanted.carry.digest),
            )
            digest = await trio.to_thread.run_sync(blobs.take, Path(made.delta.path))
            left = await trio.to_thread.run_sync(blobs.take, Path(made.left.path))
        return Combined(
            wanted.ticket,
            messages.Blob(digest, blobs.size(digest)),
            tuple(wanted.parts[index].source for index in made.bad),
            messages.Blob(left, blobs.size(left)),
        )

    async def is_right(self, wanted: Recompute) -> bool | None:
        """Whether a sum, and what it left, is what its parts make; None: could not tell."""
        named = [part.blob for part in wanted.parts] + [wanted.blob]
        named += [blob for blob in (wanted.carry, wanted.left) if blob is not None]
        files = {blob.digest: self._post.blobs.path(blob.digest) for blob in named}
        blank = write_blank(self._groups[wanted.group], self._blank(wanted.group))
        try:
            with self._folder() as out:
                return await remake_sum(
                    self._post.compute, self._plan, wanted, blank=blank, deltas=files, out=out
                )
        except SynapseError as error:
            log.info("auditing: %s", error)
            return None

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """For one sum's files: two groups' may be equal to the byte, and so named alike."""
        self._made += 1
        path = self._out / str(self._made)
        with disk_errors(path, "making"):
            path.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _blank(self, group: int) -> Path:
        return self._out / f"blank-{group}"

    @property
    def _out(self) -> Path:
        return self._post.blobs.folder / "tmp" / "region"
