"""What a primary knows of its two followers, and what it sends them."""

from collections.abc import Iterable

from protocols.learn.replica_log import Log
from protocols.learn.replica_messages import Append, Install, Message, Promise, Report, described
from protocols.learn.replica_ports import ReplicaSettings, Term

SILENT_BEATS = 4
"""A follower that was not heard of for so long gets heartbeats and no entries."""

STUCK_BEATS = 4
"""A follower that waits so long for blobs of entries that we folded is sent the snapshot."""

Outgoing = tuple[Message, list[bytes]]
"""A message, and what follows it raw."""


class Follower:
    """One of the two, as far as its reports tell."""

    __slots__ = (
        "again_at",
        "got",
        "heard_at",
        "known",
        "match",
        "moved",
        "ready",
        "saved",
        "sent",
        "stuck",
    )

    def __init__(self, now: int) -> None:
        self.known = False
        """Whether it is known what it has: before that it gets heartbeats only."""
        self.ready = False
        self.match = 0
        """What it has on disk of this primary's log; counts once it is ready."""
        self.got = 0
        self.sent = 0
        self.moved = False
        """Whether it got anything since the last heartbeat."""
        self.saved = 0
        """Up to which it has all on disk; `got` counts what waits for blobs."""
        self.stuck = 0
        """Heartbeats since that moved."""
        self.heard_at = now
        self.again_at = now
        """When it was last sent something again."""


class Lead:
    """One term of one primary."""

    def __init__(
        self, term: Term, source: Term, start: int, followers: Iterable[bytes], now: int
    ) -> None:
        """`source` and `start`: of the log that the term began with (replica_messages.Append)."""
        self.term = term
        self.source = source
        self.start = start
        self.open = False
        """Whether that log is committed anew: rule 2, before anything else."""
        self.followers = {peer: Follower(now) for peer in followers}
        self.tags: dict[int, int] = {}
        """Of what was proposed here, by index, until it is committed."""

    def expect(self, peer: bytes, promise: Promise, now: int) -> None:
        """It promised this term with a log of which a part is the one that the term began with."""
        follower = self.followers.get(peer)
        if follower is not None:
            follower.heard_at = now
            if promise.accepted == self.source:
                follower.known = True
                follower.got = follower.sent = min(promise.length, self.start)

    def report(self, peer: bytes, said: Report, now: int, again_ms: int) -> None:
        """A follower's word; what seems lost is sent again, at most every `again_ms`."""
        follower = self.followers[peer]
        follower.heard_at = now
        follower.moved = follower.moved or said.got > follower.got
        lost = said.got == follower.got < follower.sent and now - follower.again_at >= again_ms
        if not follower.known or said.got > follower.sent or lost:
            # It answered twice, and what was sent beyond that is not there.
            follower.sent, follower.again_at = said.got, now
        if said.length != follower.saved:
            follower.saved, follower.stuck = said.length, 0
        follower.known, follower.ready, follower.got = True, said.ready, said.got
        if said.ready:
            follower.match = max(follower.match, said.length)

    def stored(self) -> int:
        """Up to which one of the followers has this term's log on disk: with our own disk that is
        two of three. -1: none has even what the term began with."""
        return max((each.match for each in self.followers.values() if each.ready), default=-1)

    def heard_at(self) -> int:
        """When any of them was last heard of."""
        return max((each.heard_at for each in self.followers.values()), default=0)

    def beat(self, now: int, beat_ms: int, base: int) -> None:
        """What was sent and did not arrive since the last heartbeat is to be sent again; and who
        waits for blobs of entries that are folded by now is to get the snapshot instead."""
        for follower in self.followers.values():
            follower.stuck += 1
            if follower.saved < base <= follower.sent and follower.stuck % STUCK_BEATS == 0:
                follower.sent = follower.saved
            if not follower.moved:
                follower.sent = min(follower.sent, follower.got)
            follower.moved = False
            if now - follower.heard_at > SILENT_BEATS * beat_ms:
                follower.known = False

    def messages(
        self, peer: bytes, log: Log, settings: ReplicaSettings, *, always: bool
    ) -> list[Outgoing]:
        """What to send to a follower now; with `always` at least a heartbeat."""
        follower = self.followers[peer]
        out: list[Outgoing] = []
        while follower.known and follower.sent < log.length:
            if follower.sent < log.base:
                out.append(self._install(log))
                follower.sent = max(log.base, follower.got)
                continue
            room = min(settings.chunk, follower.got + settings.window - follower.sent)
            if room <= 0:
                break
            out.append(self.append(log, follower.sent, room, settings.chunk_bytes))
            follower.sent += len(out[-1][1])
        if always and not out:
            out.append(self.append(log, follower.sent, 0, 0))
        return out

    def append(self, log: Log, prev: int, most: int, most_bytes: int) -> Outgoing:
        """Entries after `prev`."""
        return append_of(log, self.term, self.source, self.start, (prev, most, most_bytes))

    def _install(self, log: Log) -> Outgoing:
        return install_of(log, self.term, self.source, self.start)


def append_of(
    log: Log, term: Term, source: Term, start: int, what: tuple[int, int, int]
) -> Outgoing:
    """`what`: after which index, how many entries at most, and bytes."""
    prev, most, most_bytes = what
    entries = log.after(prev, most, most_bytes) if most else []
    shown = described(entries)
    message = Append(term, source, start, log.forced, log.committed, prev, shown)
    return message, [entry.body for entry in entries]


def install_of(log: Log, term: Term, source: Term, start: int) -> Outgoing:
    """The log's snapshot."""
    snapshot = log.snapshot
    assert snapshot is not None, "a log without a base has no snapshot to send"
    said = Install(
        term, source, start, log.forced, snapshot.index, len(snapshot.state), snapshot.blobs
    )
    return said, [snapshot.state]
