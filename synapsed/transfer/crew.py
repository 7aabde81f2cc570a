"""The peers of one pull: looked for all the time, asked, dropped when they fail, tried again."""

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import trio

from protocols.errors import LimitError, MalformedError
from protocols.gossip.peerscore import Fault
from synapsed.store import QuotaExceededError, StoreError
from synapsed.transfer.errors import PeerError, PeerRefusedError, PullFailedError, peer_error
from synapsed.transfer.session import Session, Work
from synapsed.transfer.sources import Source, Sources
from synapsed.transfer.talk import Streams

MAX_SESSIONS = 24
"""Peers asked at a time by one pull: each costs two streams and a window of up to 4 MiB."""
REST_SECONDS = 5.0
"""While others wait for a place, who gave nothing for so long makes room, without blame: two dozen
strangers who only sit there, or trickle, keep no honest holder out."""
WATCH_SECONDS = 0.5
"""Between two looks for new sources, and at whether there is still hope."""
HEDGE_SECONDS = 1.0
"""A question that is not answered for so long is also asked of another peer."""
AGAIN_SECONDS = 1.0
"""Before a question that nobody could answer is asked again."""
RETRY_SECONDS = 2.0
"""Before a peer that failed without lying is tried again; doubled each time."""
MAX_RETRY_SECONDS = 30.0
LONELY_SECONDS = 5.0
"""A pull that has nobody left to ask fails after this: gossip brings new holders in one or two."""
STARVE_SECONDS = 45.0
"""A pull to which nothing came for so long fails, whatever its peers promise: longer than the
schedule waits for one leaf, and a retry."""

T = TypeVar("T")

Blame = Callable[[bytes, Fault, str], None]
"""net.blame."""


class Dropped(msgspec.Struct):
    """A peer that is asked no more, until `until` (trio's clock)."""

    why: str
    times: int = 0
    until: float = 0.0


class Crew:
    """Sessions with the sources of a pull."""

    def __init__(self, streams: Streams, sources: Sources, work: Work, blame: Blame) -> None:
        self.sessions: dict[bytes, Session] = {}
        self.dropped: dict[bytes, Dropped] = {}
        self.faults: dict[bytes, list[str]] = {}
        """What each peer did wrong in this pull, for its report."""
        self.subjects: list[bytes] = []
        """The manifests whose holders are asked."""
        self._streams = streams
        self._sources = sources
        self._work = work
        self._blame = blame
        self._alive_at = self._rested_at = trio.current_time()
        self._given: dict[bytes, int] = {}
        self._stirred: dict[bytes, Source] = {}
        self._nursery: trio.Nursery | None = None

    def alive(self) -> None:
        """Something arrived and verified."""
        self._alive_at = trio.current_time()

    def stir(self, peer: bytes) -> None:
        """A peer asked us about what we pull: look at what it has got itself."""
        if peer in self.sessions:
            self.sessions[peer].stir()
        else:
            self._stirred.setdefault(peer, Source(peer))

    def start(self, nursery: trio.Nursery) -> None:
        """Begin: sessions, and the watch over them, are tasks of `nursery`."""
        self._nursery = nursery
        nursery.start_soon(self._watch)

    def ask_holders_of(self, subject: bytes) -> None:
        """Use the sources of one more manifest."""
        self.subjects.append(subject)
        self._engage()

    async def _watch(self) -> None:
        """Keep sessions with the sources there are, and end the pull when all hope is gone."""
        while True:
            self._engage()
            why = self._hopeless()
            if why:
                self._work.fail(PullFailedError(f"{why}{self._lack()}", self.reasons()))
            await trio.sleep(WATCH_SECONDS)

    def _lack(self) -> str:
        if not self._work.ready.is_set():
            return ", and the model's manifest or headers are not complete"
        schedule = self._work.schedule
        for file, (leaf, _) in schedule.lacking(1):
            root = self._work.files[file][0].hex()
            return f", and {schedule.left_bytes} bytes lack, the first in sub-tile {leaf} of {root}"
        return ""

    def reasons(self) -> dict[bytes, str]:
        """What is known against each peer that was or is asked."""
        reasons = dict.fromkeys(self.sessions, "it has nothing of what is lacking")
        return reasons | {peer: gone.why for peer, gone in self.dropped.items()}

    # -- sessions ---------------------------------------------------------------------------

    def _engage(self) -> None:
        """Start sessions with new sources, the best first, while there is room."""
        now = trio.current_time()
        waiting = [source for source in self._candidates() if self._may_use(source.peer, now)]
        # Who was never tried comes before who was.
        waiting.sort(key=lambda source: self._tries(source.peer))
        places = MAX_SESSIONS - len(self.sessions)
        for source in waiting[:places]:
            session = self.sessions[source.peer] = Session(source, self._streams, self._work)
            self._start(self._hold, session)
        if len(waiting) > places:
            self._rest(now)

    def _tries(self, peer: bytes) -> int:
        gone = self.dropped.get(peer)
        return gone.times if gone is not None else 0

    def _may_use(self, peer: bytes, now: float) -> bool:
        gone = self.dropped.get(peer)
        return peer not in self.sessions and (gone is None or now >= gone.until)

    def _rest(self, now: float) -> None:
        """Others wait: end the sessions that gave nothing lately, or the one that gave least."""
        if now < self._rested_at + REST_SECONDS:
            return
        self._rested_at = now
        given = {peer: self._gave(session) for peer, session in self.sessions.items()}
        lately = {
            peer: given[peer] - self._given.get(peer, 0)
            for peer, session in self.sessions.items()
            if now >= session.began + REST_SECONDS
        }
        self._given = given
        least = min(lately, key=lambda peer: lately[peer], default=None)
        for peer, size in lately.items():
            if size == 0 or (peer == least and 2 * size * len(lately) < sum(lately.values())):
                self.sessions[peer].give_up(PeerError("it gave less than others may", None))

    def _gave(self, session: Session) -> int:
        """Bytes of leaves, and answers, of a session."""
        peers = self._work.schedule.peers if self._work.ready.is_set() else {}
        record = peers.get(session.peer)
        return session.answered + (record.bytes if record is not None else 0)

    def _candidates(self) -> list[Source]:
        found = {
            source.peer: source
            for subject in reversed(self.subjects)
            for source in self._sources.find(subject)
        }
        return [*found.values(), *(s for s in self._stirred.values() if s.peer not in found)]

    def _start(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        assert self._nursery is not None, "start() comes first"
        self._nursery.start_soon(task, *args)

    async def _hold(self, session: Session) -> None:
        error = await session.run()
        del self.sessions[session.peer]
        if error is not None:
            self._drop(session.peer, error)

    def _drop(self, peer: bytes, error: PeerError) -> None:
        gone = self.dropped.setdefault(peer, Dropped(""))
        gone.why = error.message
        gone.times += 1
        gone.until = trio.current_time() + _wait(error, gone.times)
        if error.fault is not None:
            self.faults.setdefault(peer, []).append(error.fault.value)
            if error.fault is not Fault.UNREACHABLE:  # the net saw that itself
                self._blame(peer, error.fault, error.message)

    def _hopeless(self) -> str:
        """Why nothing can be expected any more, or nothing."""
        if self._work.paused:
            self.alive()
        quiet = trio.current_time() - self._alive_at
        if quiet > STARVE_SECONDS:
            return f"nothing came for {quiet:.0f} s"
        coming = any(gone.until < math.inf for gone in self.dropped.values())
        if quiet > LONELY_SECONDS and not self.sessions and not coming:
            return "nobody is left to ask"
        return ""

    # -- questions that any peer may answer -------------------------------------------------

    async def first(self, ask: Callable[[Session], Awaitable[T]]) -> T:
        """What `ask` makes of the first peer that can answer it.

        `ask` verifies: its MalformedError or LimitError is held against the peer. Peers are asked
        one after another, the next as soon as one failed or was slow, for as long as it takes:
        the watch ends the waiting, or all of them saying for LONELY_SECONDS that they lack it.
        """
        send, receive = trio.open_memory_channel[T | None](math.inf)
        asked: set[bytes] = set()
        lacking: set[bytes] = set()
        lacked_since: float | None = None
        running = 0
        while True:
            session = self._unasked(asked)
            if session is not None:
                asked.add(session.peer)
                running += 1
                self._start(self._attempt, session, ask, send, lacking)
            elif not running:
                lacked_since = self._lacked(lacking, lacked_since)
                asked.clear()
                lacking.clear()
            seconds = HEDGE_SECONDS if running else AGAIN_SECONDS
            with trio.move_on_after(seconds):
                answer = await receive.receive()
                running -= 1
                if answer is not None:
                    self.alive()
                    return answer

    def _lacked(self, lacking: set[bytes], since: float | None) -> float | None:
        """Since when everybody has said that it lacks what is asked for; None: not everybody.
        The pull ends where that is for LONELY_SECONDS."""
        coming = any(gone.until < math.inf for gone in self.dropped.values())
        if not self.sessions or coming or not lacking >= self.sessions.keys():
            return None
        now = trio.current_time()
        since = now if since is None else since
        if now >= since + LONELY_SECONDS:
            why = "nobody of those who are asked has it"
            self._work.fail(PullFailedError(f"{why}{self._lack()}", self.reasons()))
        return since

    def _unasked(self, asked: set[bytes]) -> Session | None:
        ready = [s for s in self.sessions.values() if s.peer not in asked]
        return min(ready, key=lambda session: not session.connected, default=None)

    async def _attempt(
        self,
        session: Session,
        ask: Callable[[Session], Awaitable[T]],
        send: trio.MemorySendChannel[T | None],
        lacking: set[bytes],
    ) -> None:
        """One peer's try. Not cancelled when another was faster: its answer is simply unused."""
        answer = None
        try:
            answer = await ask(session)
            session.answered += 1
        except (StoreError, QuotaExceededError) as error:
            self._work.fail(error)
        except PeerRefusedError as error:
            if error.refusal.code == "not-held":
                lacking.add(session.peer)
        except PeerError as error:
            session.give_up(error)
        except (MalformedError, LimitError) as error:
            session.give_up(peer_error(error))
        send.send_nowait(answer)


def _wait(error: PeerError, times: int) -> float:
    """Seconds before a peer is tried again after its `times`-th failure."""
    if error.fault in (Fault.MISMATCH, Fault.LIED, Fault.MALFORMED):
        return math.inf
    wait = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(times - 1, 8))
    if isinstance(error, PeerRefusedError):
        return max(wait, error.refusal.retry_ms / 1000)
    return wait
