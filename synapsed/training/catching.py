"""Versions that a group's log has and its chain here has not: asked for, proven, and linked."""

import logging
from collections.abc import Callable, Sequence

import trio

from protocols.errors import SynapseError
from protocols.learn import messages
from protocols.learn.claims import Record
from protocols.learn.rounds import Rounds
from synapsed.training.chain import Chain
from synapsed.training.errors import BlobUnknownError
from synapsed.training.post import Post

log = logging.getLogger(__name__)

ASK_AGAIN_S = 1.0
"""Until rounds that nobody told of are asked for again."""
CATCH_UP_S = 10.0
"""For a replica to get a version that it has the log of; then the round is tried again."""


class Catching:
    """Of one group."""

    def __init__(
        self,
        post: Post,
        chain: Chain,
        rounds: Callable[[], Rounds],
        others: Callable[[], Sequence[bytes]],
        check: Callable[[Record], None],
    ) -> None:
        """`others` may have what we lack; `check` raises SynapseError for a record that proves
        nothing."""
        self.chain = chain
        self._post = post
        self._rounds = rounds
        self._others = others
        self._check = check
        self._behind = False
        self._linked = trio.Event()

    def catch_up(self) -> None:
        """Our versions lack rounds that our log has: ask the other two for them."""
        if not self._behind:
            self._behind = True
            self._post.spawn(self._ask)

    async def _ask(self) -> None:
        while self.chain.number < self._rounds().log.number:
            wanted = messages.Ask(
                model=self._post.lineage, group=self.chain.group.number, number=self.chain.number
            )
            for peer in self._others():
                self._post.say(peer, wanted)
            await trio.sleep(ASK_AGAIN_S)
        self._behind = False

    async def records(self, peer: bytes, said: messages.Records) -> None:
        """Rounds that we lack, from whoever has them, each proven."""
        try:
            for record in said.records:
                decided = record.round
                if (
                    decided.number == self.chain.number
                    and decided.number < self._rounds().log.number
                ):
                    self._check(record)
                    blobs = {decided.result: decided.size}
                    await self._post.exchange.fetch(peer, self._post.lineage, blobs)
                    self.chain.follow(decided)
                    self._linked.set()
            behind = self.chain.number < self._rounds().log.number
            if (
                behind
                and said.oldest > self.chain.number
                and said.number == self._rounds().log.number
            ):
                await self._take_version(peer, said.number, self._rounds().log.head)
        except SynapseError as error:
            log.debug("group %d: catching up: %s", self.chain.group.number, error)

    async def _take_version(self, peer: bytes, number: int, root: bytes) -> None:
        size = self.chain.version_size
        await self._post.exchange.fetch_version([peer], self._post.lineage, root, size)
        if number > self.chain.number:
            self.chain.begin(number, root)
            self._linked.set()
            self._rounds().oldest = self.chain.oldest

    async def number_of(self, head: bytes) -> int:
        """Which version that is; one that our log has, and our chain will. BlobUnknownError."""
        with trio.move_on_after(CATCH_UP_S):
            while True:
                number = self.chain.number_of(head)
                if number is not None:
                    return number
                self.catch_up()
                self._linked = trio.Event()
                await self._linked.wait()
        raise BlobUnknownError(f"version {head.hex()[:16]} is not here, and nobody gave it")
