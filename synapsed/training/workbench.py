"""One group's versions as files: replayed, aggregated into the next one, compacted.

The worker writes next to what is kept (`tmp/`), and only what the log has committed becomes a base
of the chain. What was made last lies here until its round is committed, and right, and is then the
version that the next one begins from; after a restart it is replayed. Primary and followers do the
same here: a round is made of the same files, wherever it is.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from protocols.errors import SynapseError
from protocols.learn import messages
from protocols.learn import round_ports as rounds
from protocols.learn.claims import NOTHING, Round
from synapsed.compute import wire
from synapsed.compute.errors import BadDeltaError, BadHeadError
from synapsed.training.blobs import root_of, sha256_of
from synapsed.training.chain import Chain, Replay
from synapsed.training.errors import BlobUnknownError, StateLackingError
from synapsed.training.post import Post


class Working(msgspec.Struct, frozen=True):
    """A version of the group as a file."""

    head: bytes
    path: Path


class Workbench:
    """Of one group at one replica."""

    def __init__(self, post: Post, chain: Chain, find: Callable[[bytes], Awaitable[int]]) -> None:
        """`find` says which version a head is, once the chain has it, or raises
        BlobUnknownError."""
        self._post = post
        self._chain = chain
        self._find = find
        self._made: dict[bytes, Working] = {}
        """By the result that makes it: what was aggregated and is not committed."""
        self._working: Working | None = None
        self._lock, self._making = trio.Lock(), trio.Lock()
        self._reading: Counter[Path] = Counter()
        """Files that the worker is at."""
        self._gone: set[Path] = set()
        """Those that nobody wants, and somebody may read."""
        self._states: deque[bytes] = deque(maxlen=rounds.KEEP_STATES)
        """Outer states whose bytes are known to be what their names say, since this start."""

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
            return self._work_on(Working(head, path))

    def _work_on(self, working: Working) -> Working:
        """The current version's file is another: the one before goes."""
        before, self._working = self._working, working
        if before is not None and before.head != working.head:
            self._discard(before)
        return working

    def _discard(self, gone: Working) -> None:
        """A file that only we know, once nobody reads it; a base stays."""
        if gone.path.is_relative_to(self._out):
            self._gone.add(gone.path)
        self._clean()

    def _clean(self) -> None:
        kept = set(self._reading) | {made.path for made in self._made.values()}
        if self._working is not None:
            kept.add(self._working.path)
        for path in self._gone - kept:
            path.unlink(missing_ok=True)
        self._gone &= kept

    @contextmanager
    def _read(self, path: Path) -> Iterator[None]:
        """A version's file stays while the worker is at it, whatever is committed meanwhile."""
        self._reading[path] += 1
        try:
            yield
        finally:
            self._reading[path] -= 1
            self._reading += Counter()  # without those at zero
            self._clean()

    def committed(self, decided: Round) -> None:
        """A round: what was made of it here is what the next one begins from."""
        made = self._made.pop(decided.result, None)
        if made is not None and made.head == decided.head:
            self._work_on(made)
        others, self._made = self._made, {}
        for gone in others.values():
            self._discard(gone)

    def begin_anew(self) -> None:
        """Whatever is wrong with the current version's file: it is made again."""
        self._working = None

    async def make_round(
        self, wanted: rounds.Aggregate, others: Sequence[bytes]
    ) -> rounds.Aggregated:
        """A round's result, the version and the outer state after it. `others` have what is
        lacking here. One after another: a round that others proved first is still made, and the
        next one begins from its state.

        Raises BadDeltaError where none of the parts can be used, StateLackingError, or another
        SynapseError.
        """
        async with self._making:
            return await self._make(wanted, others)

    async def _make(self, wanted: rounds.Aggregate, others: Sequence[bytes]) -> rounds.Aggregated:
        post = self._post
        began = trio.current_time()
        base = await self.working(wanted.base)
        with self._read(base.path):
            await self._have(wanted.parts, others)
            before = await self._before(wanted, others)
            inputs = [(post.blobs.path(part.blob.digest), part.weight) for part in wanted.parts]
            made = await post.compute.aggregate(
                wanted.plan,
                wanted.number,
                self._group,
                base.path,
                inputs=inputs,
                out=self._out,
                state=None if before is None else post.blobs.path(before.digest),
            )
        await self._keep(made.result, durable=not wanted.judging)
        after = None
        if made.state is not None:
            after = rounds.State(made.state.digest, made.state.size)
            # One that a power cut takes is fetched from the others.
            await self._keep(made.state, durable=False, believed=True)
            self._states.append(after.digest)
        self._has(made.result.digest, Working(made.version.head, Path(made.version.path)))
        post.tell(
            "training.judged" if wanted.judging else "training.aggregated",
            group=self._group,
            number=wanted.number,
            inputs=len(inputs),
            seconds=round(trio.current_time() - began, 3),
        )
        return rounds.Aggregated(
            wanted.ticket,
            messages.Blob(made.result.digest, made.result.size),
            made.version.head,
            made.shares,
            tuple(wanted.parts[index].blob.digest for index in made.bad),
            before,
            after,
        )

    def _has(self, result: bytes, made: Working) -> None:
        """The version that a result makes: the current one, where others proved it first."""
        if self._chain.head == made.head:
            self._work_on(made)
        else:
            self._made[result] = made

    async def _keep(self, made: wire.Blob, *, durable: bool, believed: bool = False) -> None:
        blobs = self._post.blobs
        take = partial(blobs.take, Path(made.path), durable=durable, believed=believed)
        digest = await trio.to_thread.run_sync(take)
        if durable and digest in blobs.unsynced:
            await trio.to_thread.run_sync(blobs.sync, digest)

    async def _before(
        self, wanted: rounds.Aggregate, others: Sequence[bytes]
    ) -> rounds.State | None:
        """The outer state to begin from, here and whole. Whoever judges a round needs that very
        one (StateLackingError); a primary without it begins from nothing."""
        state = wanted.before
        if state is None:
            return None
        try:
            await self.have_state(state, others)
        except SynapseError as error:
            if wanted.judging and isinstance(error, BlobUnknownError):
                raise StateLackingError(str(error)) from error
            if wanted.judging:
                raise
            self._post.tell("training.momentum-lost", group=self._group, why=str(error))
            return None
        return state

    async def have_state(self, state: rounds.State, others: Sequence[bytes]) -> None:
        """Have an outer state here. BlobUnknownError, StoreError."""
        blobs = self._post.blobs
        if blobs.has(state.digest) and state.digest not in self._states:
            path = blobs.path(state.digest)
            if await trio.to_thread.run_sync(sha256_of, path) != state.digest:
                blobs.drop([state.digest])  # a power cut took a part of it
        if not blobs.has(state.digest):
            fetch = self._post.exchange.fetch_of
            await fetch(others, self._post.lineage, state.digest, state.size)
        if state.digest not in self._states:
            self._states.append(state.digest)

    async def is_sound(self, decided: Round) -> bool:
        """Whether what a round is computed from is still, on our disk, what its names say."""
        blobs = self._post.blobs
        names = [entry.digest for entry in decided.inputs]
        if decided.before != NOTHING:
            names.append(decided.before)
        for name in names:
            if await trio.to_thread.run_sync(sha256_of, blobs.path(name)) != name:
                blobs.drop([name])
                return False
        base = await self.working(decided.parent)
        with self._read(base.path):
            return await trio.to_thread.run_sync(root_of, base.path) == decided.parent

    async def unusable(self, wanted: rounds.Aggregate) -> tuple[bytes, ...]:
        """Which of the parts are no deltas. SynapseError."""
        bad = []
        base = await self.working(wanted.base)
        with self._read(base.path):
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
