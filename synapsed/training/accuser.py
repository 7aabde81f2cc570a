"""What was caught here, until it is proposed: cases, with hard links to all that proves them.

A case comes from an audit (audit.py: a region's sum), from a replica that recomputed its primary's
round (host.py), or from an owner's audit of a committed one. The blobs that it names are swept soon
(blobs.py), so they are linked into a folder of the case at once; `docket` publishes and proposes it
(accusing.py). In memory only: who lies again is caught again.
"""

import hashlib
import logging
import os
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import trio

from protocols.errors import LimitError, NotHeldError, SynapseError
from protocols.learn.case import (
    BASE,
    MAX_BYTES,
    Case,
    RoundCase,
    SumCase,
    Wrong,
    accused,
    needed,
    number_of,
    pack,
)
from protocols.learn.claims import Record
from protocols.learn.messages import Proof
from protocols.peerid import peer_id_text
from synapsed.store.errors import disk_errors
from synapsed.training.post import Post

log = logging.getLogger(__name__)

SPREAD_S = 20.0
"""Over which accusers of one liar spread: within some seconds all know of a proposal."""
MAX_WAITING = 4
"""Cases of one lineage that wait: one for each of so many accused. More liars than that at a time
are accused when their turn comes, as they lie again."""

BaseOf = Callable[[int, bytes, str], Awaitable[Path]]
"""(group, root, folder) -> that version as a file; it is kept, or made in that folder below tmp/.
Raises SynapseError."""


class Waiting(msgspec.Struct, frozen=True):
    """A case that is to be proposed."""

    case: Case
    folder: Path
    """Its evidence, by the names that case.py gives the files."""
    not_before: float = 0.0
    """When it may be proposed (trio's clock): others may have caught the same one just now, and one
    accusation is enough."""


class Accuser:
    """One lineage's."""

    def __init__(self, post: Post, base_of: BaseOf) -> None:
        self.waiting: dict[bytes, Waiting] = {}
        """By accused."""
        self._post = post
        self._base_of = base_of

    def sum_is_wrong(self, proof: Proof, record: Record) -> None:
        """An aggregator's, which was recomputed here."""
        self._take(SumCase(proof=proof, record=record))

    def round_is_wrong(self, found: Wrong) -> None:
        """A replica's signature over a round that was recomputed here."""
        self._take(RoundCase(round=found.round, by=found.by))

    def _take(self, case: Case) -> None:
        who = accused(case)
        if who != self._post.me and who not in self.waiting and len(self.waiting) < MAX_WAITING:
            self._post.spawn(self._keep, case)

    async def _keep(self, case: Case) -> None:
        who = accused(case)
        try:
            folder = await self._collected(case)
        except SynapseError as error:
            log.warning("no case against %s: %s", peer_id_text(who), error)
            return
        if who in self.waiting or len(self.waiting) >= MAX_WAITING:  # another was faster
            shutil.rmtree(folder, ignore_errors=True)
            return
        soon = trio.current_time() + random.SystemRandom().uniform(0, SPREAD_S)
        self.waiting[who] = Waiting(case, folder, soon)
        self._post.tell(
            "training.case",
            accused=peer_id_text(who),
            what="sum" if isinstance(case, SumCase) else "round",
            number=number_of(case),
        )

    async def _collected(self, case: Case) -> Path:
        """A folder with everything that it is recomputed from. NotHeldError, LimitError."""
        name = hashlib.sha256(pack(case)).hexdigest()[:16]
        folder = self._post.blobs.folder / "tmp" / f"case-{name}"
        made = folder.with_name(f"base-{name}")
        base = None
        if isinstance(case, RoundCase):
            base = await self._base_of(case.round.group, case.round.parent, made.name)

        def link() -> None:
            total = 0
            shutil.rmtree(folder, ignore_errors=True)
            with disk_errors(folder, "keeping"):
                folder.mkdir(parents=True)
                for each in needed(case):
                    source = base if each.name == BASE else self._post.blobs.path(each.digest)
                    if source is None:
                        raise NotHeldError("a case without its base")
                    os.link(source, folder / each.name)
                    total += source.stat().st_size
            if total > MAX_BYTES:
                raise LimitError(f"a case of {total} bytes is more than the council looks at")

        try:
            await trio.to_thread.run_sync(link)
        except SynapseError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return folder

    def drop(self, who: bytes) -> None:
        """Its case was proposed, or is of no use any more."""
        gone = self.waiting.pop(who, None)
        if gone is not None:
            shutil.rmtree(gone.folder, ignore_errors=True)
