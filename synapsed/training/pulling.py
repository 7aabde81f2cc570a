"""Deltas that are pushed to a primary here: looked at, fetched, parsed, and only then taken."""

import logging
from collections.abc import Callable

import trio

from protocols.errors import SynapseError
from protocols.learn import delta, messages
from protocols.learn.claims import Claim, Made
from protocols.learn.partition import Group
from protocols.learn.rounds import Rounds
from protocols.peerid import peer_id_text
from synapsed.training.post import Post

log = logging.getLogger(__name__)

MAX_PULLING = 64
"""Pushes whose blobs are on their way, of one group: an honest learner has one or two."""


class Pulling:
    """Of one group."""

    def __init__(
        self,
        post: Post,
        group: Group,
        rounds: Callable[[], Rounds],
        taken: Callable[[bytes, messages.Push], None],
    ) -> None:
        """`taken` is told of a push whose bytes are here, and are a delta."""
        self.group = group
        self._post = post
        self._rounds = rounds
        self._taken = taken
        self._pulling: set[tuple[bytes, int]] = set()

    def pushed(self, peer: bytes, push: messages.Push) -> None:
        """Look at what is signed; only then at its bytes (messages.py)."""
        refused = self._rounds().screen(peer, push)
        if refused is not None:
            self._refuse(peer, refused)
            return
        source = push.said.learner if isinstance(push.said, Claim) else push.said.aggregator
        made = self._made_of(push)
        key = (source, made.number)
        if key in self._pulling or len(self._pulling) >= MAX_PULLING:
            return  # it is said again until it is answered
        if self._post.attend(peer, self._pull, peer, push, key):
            self._pulling.add(key)

    def _made_of(self, push: messages.Push) -> Made:
        made = push.said.made if isinstance(push.said, Claim) else (push.said.made,)
        return next(one for one in made if one.group == self.group.number)

    def _refuse(self, peer: bytes, refused: messages.Refused) -> None:
        self._post.tell(
            "training.refused",
            group=self.group.number,
            peer=peer_id_text(peer),
            reason=refused.reason,
            number=refused.number,
        )
        self._post.say(peer, refused)

    async def _pull(self, peer: bytes, push: messages.Push, key: tuple[bytes, int]) -> None:
        """Have a delta's bytes here, look at them, and offer it."""
        made = self._made_of(push)
        try:
            await self._post.exchange.fetch(peer, self._post.lineage, {made.digest: made.size})
            data = await trio.to_thread.run_sync(self._post.blobs.read, made.digest)
            delta.parse(data, [tile.count for tile in self.group.tiles])
        except delta.DeltaError as error:
            log.warning("group %d: a delta of %s: %s", key[1], peer_id_text(peer), error)
            said = self._rounds().log
            self._refuse(
                peer,
                messages.Refused(
                    model=self._post.lineage,
                    group=self.group.number,
                    number=said.number,
                    base=said.head,
                    digest=made.digest,
                    reason="malformed",
                ),
            )
        except SynapseError as error:
            log.debug("group %d: fetching a delta: %s", self.group.number, error)
        else:
            self._taken(peer, push)
        finally:
            self._pulling.discard(key)
