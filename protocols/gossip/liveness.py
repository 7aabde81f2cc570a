"""Heartbeats: who is alive, the same list on every daemon within a stated time.

Every daemon signs a heartbeat every `interval`; it is flooded over persistent streams
between neighbours (`/synapse/heartbeat/1.0.0`), in batches: each neighbour gets what it has not
shown us, except that what is only passed on and is no news goes to FANOUT of them. Gossipsub
would do it too, at some 4 ms of CPU a message; this is 0.1 ms.

    Hearsay       a batch from a neighbour           -> Emit, Learned (or Blame)
    NeighbourUp   a stream to a neighbour is open    -> (it is due everything in force)
    NeighbourDown                                    -> (nothing: silence is what counts)
    Flush         a neighbour's stream is free       -> Send
    Tick          time passes: our heartbeat, expiry -> Emit
    Refresh       our addresses or counters changed
    Leave         we stop: a heartbeat with ttl 0    -> (due to all neighbours)

Rules of this file:
1. A daemon is alive while a heartbeat of its own is in force: `ttl` after it was *sent*. How
   long ago that was travels beside the heartbeat as its `age`, summed up on its way, so that
   no two clocks need to agree. A relay that lies about an age can only shorten what others
   will mend, or stretch what ends MAX_SKEW later anyway.
2. What is older than the newest that we know of an issuer is nothing; also for a while after
   it went down, so that old heartbeats cannot raise the dead.
3. A signature is verified once for each heartbeat: copies are recognised by their bytes.
4. Where our clock is set back, all that we measure by it is shifted: nobody lives longer for it.
5. A full list takes in our own neighbours all the same: there are only so many of those.

The bound. With a live path of at most `hops` between any two, each passing a batch on within
`flush` + the link's delay: who comes is on every list after hops * (flush + delay), and who
goes is off every list after ttl + hops * (flush + delay) + one tick. As ttl is four intervals,
three heartbeats lost in a row change nothing. (`agreement_bound`)
"""

import hashlib

import msgspec

from protocols.codec import encode
from protocols.effects import Blame, Effect, Emit, Send
from protocols.envelope import Sign, Verify, domain, seal
from protocols.errors import LimitError, MalformedError
from protocols.gossip.buckets import Buckets
from protocols.gossip.heartbeat import (
    MAX_BATCH,
    MAX_BATCH_RAW,
    MAX_LIVE,
    MAX_SKEW,
    MAX_TTL,
    PAYLOAD_TYPE,
    PROTOCOL,
    USE,
    Counters,
    Hearing,
    Heartbeat,
    judge,
    pack_batch,
    unpack_batch,
)
from protocols.gossip.peerscore import Fault
from protocols.gossip.validation import Verdict
from protocols.peerid import peer_id_of, peer_id_text

DEFAULT_INTERVAL = 5.0
"""Seconds: a daemon that dies is missed after 20 s; serf and consul default to 1 to 5 s on a LAN,
and home links deserve the slower end."""
TTL_INTERVALS = 4
"""Missed heartbeats before a daemon counts as gone: the config file says so, too."""
NETWORK_RATE = 8.0
"""Heartbeats a second that one daemon is to hear in all: 1 ms of CPU and 4 KB. With more than
NETWORK_RATE * interval daemons (40), everybody's interval grows."""
ISSUER_RATE = 10.0
"""A second and issuer: what the shortest interval that the config allows (0.1 s) makes."""
ISSUER_BURST = 10.0
NEIGHBOUR_RATE = 64.0
"""New heartbeats a second from one neighbour: eight times NETWORK_RATE, 6 ms of CPU."""
NEIGHBOUR_BURST = float(MAX_LIVE)
"""At once: the whole list, which is what a neighbour sends on connecting."""
FANOUT = 8
"""Neighbours that a relayed heartbeat is told to; who comes and who goes is told to all. Each
daemon hears a heartbeat from about 8 others then, so that it misses one in e^8 = 3,000, and four
in a row never. With 20 neighbours that is 8 KB/s instead of 18."""
MAX_PAST = 2 * MAX_LIVE
"""Peers that went down and whose sequence numbers are remembered."""
PAST_FOR = 2 * MAX_SKEW / 1000
"""Seconds: after them, what the peer said when it was alive is off anybody's clock."""


class Hearsay(msgspec.Struct, frozen=True):
    """A frame from a neighbour's stream."""

    neighbour: bytes
    frame: bytes


class NeighbourUp(msgspec.Struct, frozen=True):
    """There is a stream on which we can tell this peer heartbeats."""

    neighbour: bytes


class NeighbourDown(msgspec.Struct, frozen=True):
    """There no longer is."""

    neighbour: bytes


class Flush(msgspec.Struct, frozen=True):
    """The stream to this neighbour is free for a frame."""

    neighbour: bytes


class Refresh(msgspec.Struct, frozen=True):
    """What our next heartbeats say of us."""

    addrs: tuple[str, ...]
    counters: Counters


class Tick(msgspec.Struct, frozen=True):
    """Time passes: at least four times an interval."""


class Leave(msgspec.Struct, frozen=True):
    """We stop: say goodbye, and nothing more after it."""


Event = Hearsay | NeighbourUp | NeighbourDown | Flush | Refresh | Tick | Leave


class Learned(msgspec.Struct, frozen=True):
    """Effect: where a peer can be dialled, as it says itself."""

    peer: bytes
    addrs: tuple[str, ...]


Effects = list[Effect | Learned]


class LivePeer(msgspec.Struct, frozen=True):
    """A peer whose heartbeat is in force. Times in Unix seconds by our clock."""

    heartbeat: Heartbeat
    envelope: bytes
    sent: float
    since: float

    @property
    def ttl(self) -> float:
        """Seconds, from `sent` on."""
        return min(self.heartbeat.ttl, MAX_TTL) / 1000

    @property
    def until(self) -> float:
        return self.sent + self.ttl


class _Past(msgspec.Struct, frozen=True):
    seq: int
    until: float


class Liveness:
    """The machine."""

    def __init__(
        self,
        network: str,
        public_key: bytes,
        sign: Sign,
        verify: Verify,
        *,
        agent: str,
        interval: float = DEFAULT_INTERVAL,
    ) -> None:
        if not 0 < interval * TTL_INTERVALS * 1000 <= MAX_TTL:
            raise ValueError(f"an interval between heartbeats of {interval} s")
        self._network = network
        self._public_key = public_key
        self._me = peer_id_of(public_key)
        self._sign = sign
        self._verify = verify
        self._agent = agent
        self._interval = interval
        self._addrs: tuple[str, ...] = ()
        self._counters = Counters(held=0, free=0, upload=0)
        self._live: dict[bytes, LivePeer] = {}
        self._by_envelope: dict[bytes, bytes] = {}
        self._past: dict[bytes, _Past] = {}
        self._due: dict[bytes, dict[bytes, LivePeer]] = {}
        self._issuers = Buckets(ISSUER_RATE, ISSUER_BURST, MAX_LIVE)
        self._neighbours = Buckets(NEIGHBOUR_RATE, NEIGHBOUR_BURST, MAX_LIVE)
        self._seq = 0
        self._beat_at = 0.0
        self._ticked = 0.0
        self._leaving = False

    def handle(self, event: Event, now: float) -> Effects:
        """What follows from `event` at `now` (Unix seconds)."""
        match event:
            case Hearsay(neighbour, frame):
                return self._hear_frame(neighbour, frame, now)
            case NeighbourUp(neighbour):
                self._due[neighbour] = {
                    issuer: peer for issuer, peer in self._live.items() if issuer != neighbour
                }
            case NeighbourDown(neighbour):
                self._due.pop(neighbour, None)
            case Flush(neighbour):
                return self._flush(neighbour, now)
            case Refresh(addrs, counters):
                if addrs != self._addrs:
                    self._beat_at = 0.0  # others should know at once where we are
                self._addrs, self._counters = addrs, counters
            case Tick():
                return self._tick(now)
            case Leave():
                self._leaving = True
                return self._beat(now, ttl=0)
        return []

    # -- our own -------------------------------------------------------------------------------

    def interval(self) -> float:
        """Seconds between two heartbeats of ours, for as many daemons as are alive now."""
        return min(
            max(self._interval, len(self._live) / NETWORK_RATE), MAX_TTL / 1000 / TTL_INTERVALS
        )

    def _tick(self, now: float) -> Effects:
        if now < self._ticked:
            self._shift(now - self._ticked)
        self._ticked = now
        effects: Effects = []
        if not self._leaving and now >= self._beat_at:
            # The next one is due by what this one says, however the list grows meanwhile.
            interval = self.interval()
            self._beat_at = now + interval
            effects += self._beat(now, ttl=round(interval * TTL_INTERVALS * 1000))
        for issuer, peer in list(self._live.items()):
            if now >= peer.until:
                effects.append(self._down(issuer, peer, now, "silent"))
        for issuer, past in list(self._past.items()):
            if now >= past.until:
                del self._past[issuer]
        return effects

    def _shift(self, seconds: float) -> None:
        """The clock jumped by so many seconds, backwards, and with it all that we noted by it."""
        replace = msgspec.structs.replace
        self._beat_at += seconds
        self._live = {
            issuer: replace(peer, sent=peer.sent + seconds, since=peer.since + seconds)
            for issuer, peer in self._live.items()
        }
        self._past = {
            issuer: _Past(past.seq, past.until + seconds) for issuer, past in self._past.items()
        }

    def _beat(self, now: float, ttl: int) -> Effects:
        issued = int(now * 1000)
        self._seq = max(self._seq + 1, issued)
        heartbeat = Heartbeat(
            issuer=self._me,
            seq=self._seq,
            issued=issued,
            ttl=ttl,
            addrs=self._addrs,
            agent=self._agent,
            counters=self._counters,
        )
        envelope = seal(
            domain(self._network, USE),
            PAYLOAD_TYPE,
            encode(heartbeat),
            self._public_key,
            self._sign,
        )
        return self._take(heartbeat, envelope, sent=now, via=self._me, now=now)

    # -- hearing others ------------------------------------------------------------------------

    def _hear_frame(self, neighbour: bytes, frame: bytes, now: float) -> Effects:
        try:
            entries = unpack_batch(frame)
        except (MalformedError, LimitError) as error:
            return [Blame(neighbour, Fault.MALFORMED, str(error))]
        effects: Effects = []
        for age, envelope in entries:
            if (issuer := self._by_envelope.get(envelope)) is not None:
                self._hear_again(issuer, envelope, now - age / 1000, neighbour)
            elif self._neighbours.take(neighbour, now):
                heard = self._hear(neighbour, age, envelope, now)
                effects += heard
                if any(isinstance(effect, Blame) for effect in heard):
                    break  # one lie is enough: nothing more of this frame is worth verifying
        return effects

    def _hear_again(self, issuer: bytes, envelope: bytes, sent: float, neighbour: bytes) -> None:
        peer = self._live[issuer]
        # The least age is the truest: what relays forget makes it too small by milliseconds,
        # and only a lie makes it too great. But nobody is raised beyond his own clock.
        sent = min(sent, (peer.heartbeat.issued + MAX_SKEW) / 1000)
        if sent > peer.sent and issuer != self._me:
            self._live[issuer] = msgspec.structs.replace(peer, sent=sent)
        due = self._due.get(neighbour, {})
        if issuer in due and due[issuer].envelope == envelope:
            del due[issuer]

    def _hear(self, neighbour: bytes, age: int, envelope: bytes, now: float) -> Effects:
        hearing = Hearing(
            envelope, age=age, now=now, network=self._network, verify=self._verify, known=self
        )
        judgement = judge(hearing)
        if judgement.verdict is Verdict.REJECT:
            why = f"told a heartbeat that is refused ({judgement.row}): {judgement.reason}"
            return [Blame(neighbour, Fault.REJECTED, why)]
        heartbeat = judgement.heartbeat
        if heartbeat is None:
            return []
        self._issuers.take(heartbeat.issuer, now)
        return self._take(heartbeat, envelope, sent=now - age / 1000, via=neighbour, now=now)

    def _take(
        self, heartbeat: Heartbeat, envelope: bytes, *, sent: float, via: bytes, now: float
    ) -> Effects:
        issuer = heartbeat.issuer
        old = self._live.get(issuer)
        since = now if old is None else old.since
        peer = LivePeer(heartbeat=heartbeat, envelope=envelope, sent=sent, since=since)
        news = old is None or heartbeat.ttl == 0 or issuer == self._me
        for neighbour in self._due if news else self._some_neighbours(envelope):
            if neighbour not in (via, issuer):
                self._due[neighbour][issuer] = peer
        if heartbeat.ttl == 0:
            return [] if old is None else [self._down(issuer, peer, now, "left")]
        if old is not None:
            del self._by_envelope[old.envelope]
        self._live[issuer] = peer
        self._by_envelope[envelope] = issuer
        self._past.pop(issuer, None)
        if issuer == self._me:
            return []
        effects: Effects = []
        if old is None:
            effects.append(_told("up", issuer))
        if heartbeat.addrs and (old is None or old.heartbeat.addrs != heartbeat.addrs):
            effects.append(Learned(issuer, heartbeat.addrs))
        return effects

    def _some_neighbours(self, envelope: bytes) -> list[bytes]:
        """FANOUT of them, others for each heartbeat and each daemon."""
        neighbours = list(self._due)
        if len(neighbours) <= FANOUT:
            return neighbours
        drawn = hashlib.sha256(envelope[-64:] + self._me).digest()
        first = int.from_bytes(drawn[:8], "big") % len(neighbours)
        return (neighbours + neighbours)[first : first + FANOUT]

    def _down(self, issuer: bytes, last: LivePeer, now: float, why: str) -> Effect:
        del self._by_envelope[self._live.pop(issuer).envelope]
        while len(self._past) >= MAX_PAST:
            del self._past[next(iter(self._past))]
        self._past[issuer] = _Past(last.heartbeat.seq, now + PAST_FOR)
        return _told("down", issuer, why)

    # -- telling others ------------------------------------------------------------------------

    def _flush(self, neighbour: bytes, now: float) -> Effects:
        due = self._due.get(neighbour, {})
        entries: list[tuple[int, bytes]] = []
        room = MAX_BATCH_RAW
        while due and len(entries) < MAX_BATCH:
            issuer = next(iter(due))
            peer = due[issuer]
            if len(peer.envelope) > room:
                break
            del due[issuer]
            age = max(0, round((now - peer.sent) * 1000))
            if age < peer.ttl * 1000 or peer.heartbeat.ttl == 0:
                room -= len(peer.envelope)
                entries.append((age, peer.envelope))
        return [Send(neighbour, PROTOCOL, pack_batch(entries))] if entries else []

    # -- what validation asks (heartbeat.Known) ------------------------------------------------

    @property
    def me(self) -> bytes:
        """Our peer id."""
        return self._me

    def newest(self, issuer: bytes) -> int | None:
        """The sequence number of the newest heartbeat known of an issuer."""
        if (peer := self._live.get(issuer)) is not None:
            return peer.heartbeat.seq
        past = self._past.get(issuer)
        return None if past is None else past.seq

    def over_rate(self, issuer: bytes, now: float) -> bool:
        """Whether the issuer sends more heartbeats than anybody needs."""
        return not self._issuers.has(issuer, now)

    def is_full(self, issuer: bytes) -> bool:
        """Whether there is no room on the list for the issuer, who is no neighbour of ours."""
        known = issuer in self._live or issuer in self._due
        return len(self._live) >= MAX_LIVE and not known

    # -- queries -------------------------------------------------------------------------------

    def alive(self, now: float) -> list[bytes]:
        """Peer ids of the daemons that are alive, ourselves too, in order."""
        return sorted(issuer for issuer, peer in self._live.items() if now < peer.until)

    def is_alive(self, peer: bytes, now: float) -> bool:
        """Whether a heartbeat of this peer's is in force."""
        live = self._live.get(peer)
        return live is not None and now < live.until

    def peers(self, now: float) -> list[LivePeer]:
        """The same list as `alive`, with what each says of itself."""
        return [self._live[issuer] for issuer in self.alive(now)]

    def peer(self, peer: bytes) -> LivePeer | None:
        """What a live peer says of itself."""
        return self._live.get(peer)


def agreement_bound(
    interval: float, live: int, *, hops: int, flush: float, delay: float
) -> tuple[float, float]:
    """Seconds after which (a daemon that came is on, one that went is off) every daemon's list,
    while no heartbeat is lost three times running; see the head of this file."""
    ttl = TTL_INTERVALS * max(interval, live / NETWORK_RATE)
    spread = hops * (flush + delay)
    return spread, ttl + spread + flush


def _told(what: str, peer: bytes, why: str = "") -> Emit:
    fields = {"peer": peer_id_text(peer)}
    return Emit(f"liveness.{what}", {**fields, "why": why} if why else dict(fields))
