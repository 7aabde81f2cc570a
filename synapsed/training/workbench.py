"""One group's versions as files: replayed, aggregated into the next one, compacted.

The worker writes next to what is kept (`tmp/`), and only what the log has committed becomes a base
of the chain. What the primary made last lies here until its round is committed, and is then the
version that the next one begins from; after a restart, or where another one led, it is replayed.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

from protocols.learn import messages
from protocols.learn import round_ports as rounds
from protocols.learn.claims import Round
from protocols.learn.plan import Plan
from synapsed.compute.errors import BadDeltaError, BadHeadError
from synapsed.training.chain import Chain, Replay
from synapsed.training.errors import BlobUnknownError
from synapsed.training.post import Post


class Working(msgspec.Struct, frozen=True):
    """A version of the group as a file, and the outer optimiser's state after it."""

    head: bytes
    path: Path
    state: Path | None


class Workbench:
    """Of one group at one replica."""

    def __init__(
        self, post: Post, chain: Chain, plan: Plan, find: Callable[[bytes], Awaitable[int]]
    ) -> None:
        """`find` says which version a head is, once the chain has it, or raises
        BlobUnknownError."""
        self._post = post
        self._chain = chain
        self._plan = plan
        self._find = find
        self._made: dict[bytes, Working] = {}
        """By the result that makes it: what was aggregated and is not committed."""
        self._working: Working | None = None
        self._lock = trio.Lock()

    @property
    def _group(self) -> int:
        return self._chain.group.number

    @property
    def _out(self) -> Path:
        """Where the worker writes."""
        return self._post.blobs.folder / "tmp" / f"group-{self._group}"

    async def working(self, head: bytes) -> Working:
        """The version `head` as a file. BlobUnknownError, ComputeError."""
        async with self._lock:
            if self._working is not None and self._working.head == head:
                return self._working
            number = await self._find(head)
            how = self._chain.replay(number)
            began = trio.current_time()
            path = await replayed(self._post, self._chain, how, self._out.name)
            if how.links and number == self._chain.number:
                self._chain.replay_ms = 1e3 * (trio.current_time() - began)
            return self._work_on(Working(head, path, None))

    def _work_on(self, working: Working) -> Working:
        """The current version's file is another: the one before goes."""
        before, self._working = self._working, working
        if before is not None and before.head != working.head:
            self._discard(before)
        return working

    def _discard(self, gone: Working) -> None:
        """Files that only we knew; a base stays."""
        if gone.path.is_relative_to(self._out):
            gone.path.unlink(missing_ok=True)
        if gone.state is not None:
            gone.state.unlink(missing_ok=True)

    def committed(self, decided: Round) -> None:
        """A round: what was made of it here is what the next one begins from."""
        made = self._made.pop(decided.result, None)
        if made is not None and made.head == decided.head:
            self._work_on(made)
        for gone in self._made.values():
            self._discard(gone)
        self._made.clear()

    def begin_anew(self) -> None:
        """Whatever is wrong with the current version's file: it is made again."""
        self._working = None

    async def make_round(
        self, wanted: rounds.Aggregate, others: Sequence[bytes]
    ) -> rounds.Aggregated:
        """A round's result, and the version after it. `others` have what is lacking here.

        Raises BadDeltaError where none of the parts can be used, or another SynapseError.
        """
        post = self._post
        began = trio.current_time()
        base = await self.working(wanted.base)
        await self._have(wanted.parts, others)
        inputs = [(post.blobs.path(part.blob.digest), part.weight) for part in wanted.parts]
        made = await post.compute.aggregate(
            self._plan,
            wanted.number,
            self._group,
            base.path,
            inputs=inputs,
            out=self._out,
            state=base.state,
        )
        digest = await trio.to_thread.run_sync(post.blobs.take, Path(made.result.path))
        state = None if made.state is None else Path(made.state.path)
        self._made[digest] = Working(made.version.head, Path(made.version.path), state)
        post.tell(
            "training.aggregated",
            group=self._group,
            number=wanted.number,
            inputs=len(inputs),
            seconds=round(trio.current_time() - began, 3),
        )
        return rounds.Aggregated(
            wanted.ticket,
            messages.Blob(digest, made.result.size),
            made.version.head,
            made.shares,
            tuple(wanted.parts[index].blob.digest for index in made.bad),
        )

    async def unusable(self, wanted: rounds.Aggregate) -> tuple[bytes, ...]:
        """Which of the parts are no deltas. SynapseError."""
        bad = []
        base = await self.working(wanted.base)
        for part in wanted.parts:
            try:
                path = self._post.blobs.path(part.blob.digest)
                await self._post.compute.check_delta(base.path, path)
            except BadDeltaError:
                bad.append(part.blob.digest)
        return tuple(bad)

    async def _have(self, parts: Sequence[rounds.Part], others: Sequence[bytes]) -> None:
        """What the log says that two of three have; from the others, if need be. NotHeldError."""
        fetch = self._post.exchange.fetch_of
        for part in parts:
            if not self._post.blobs.has(part.blob.digest):
                await fetch(others, self._post.lineage, part.blob.digest, part.blob.size)


async def replayed(post: Post, chain: Chain, how: Replay, folder: str) -> Path:
    """A version as a file. Where its results do not make it, they are forgotten, and so fetched
    again. BlobUnknownError, ComputeError."""
    if not how.links:
        return how.path
    out = post.blobs.folder / "tmp" / folder
    try:
        made = await post.compute.advance(chain.group.number, how.path, how.links, out)
    except BadHeadError as error:
        chain.rewind()
        post.tell("training.rewound", group=chain.group.number, why=str(error))
        raise BlobUnknownError(f"group {chain.group.number}: {error}") from error
    return Path(made.path)


async def compact(post: Post, chain: Chain, why: str, number: int | None = None) -> None:
    """Make a chain's newest version (or another) a file, and let go what then need not stay.

    Raises WrongHeadError, BlobUnknownError, ComputeError, StoreError.
    """
    how = chain.replay(number)
    if not how.links:
        return
    began = trio.current_time()
    # The current version's file may have the same name in the group's own folder.
    path = await replayed(post, chain, how, f"compact-{chain.group.number}")
    root = await trio.to_thread.run_sync(partial(post.blobs.take_version, path, how.head))
    chain.compacted(how.number, root)
    chain.trim()
    post.tell(
        "training.compacted",
        group=chain.group.number,
        number=how.number,
        results=len(how.links),
        why=why,
        seconds=round(trio.current_time() - began, 3),
    )
