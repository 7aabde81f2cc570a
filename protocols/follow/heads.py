"""Heads of the ledger: what we tell others of ours, and what others tell us of theirs.

A head is gossiped at once after a pause, else every so often, and only by whoever finds, a moment
drawn by hash later, that nobody else did: some 1 ms of every daemon's time each. Whoever missed
the gossip is told on connecting, and now and then.

Heads of another genesis under our network's name are no lie: their daemon, or ours, was given the
wrong file. They are told of once, and nothing else follows from them.
"""

import hashlib

from protocols.effects import Emit, Publish, Send
from protocols.errors import NotHeldError
from protocols.follow.chain import Effects, RatifiedChain
from protocols.follow.fetch import MAX_PEERS, Fetcher
from protocols.follow.messages import HEADS, MAX_COUNT, PROTOCOL, Status, frame
from protocols.follow.settings import Settings
from protocols.ledger.council import Certificate
from protocols.ledger.proof import Proof, ProofError, WrongNetworkError
from protocols.peerid import peer_id_text
from protocols.records import DamagedRecordError

SPREAD = 0.25
"""Of the interval: the moment that is drawn, so that a council's members do not speak at once."""
STATUS_EVERY = 1.0
"""Seconds between two answers to one peer's status."""


class Announcer:
    """When it is our turn to gossip."""

    __slots__ = ("_every", "_me", "_newest", "_told", "_told_at", "at")

    def __init__(self, me: bytes, every: float) -> None:
        self._me = me
        self._every = every
        self._told = 0
        self._told_at = -every
        self._newest = 0
        self.at: float | None = None
        """When to look again (mono seconds)."""

    def ratified(self, index: int, now: float) -> None:
        """We have ratified up to `index`."""
        self._newest = index
        if index > self._told and self.at is None:
            drawn = hashlib.sha256(self._me + index.to_bytes(8, "big")).digest()
            moment = drawn[0] / 256 * self._every * SPREAD
            self.at = max(now, self._told_at + self._every) + moment

    def told(self, index: int, now: float) -> None:
        """Others were told of `index`, by us or by somebody else."""
        if index > self._told:
            self._told, self._told_at = index, now
        if self._told >= self._newest:
            self.at = None

    def due(self, now: float) -> bool:
        """Whether it is our turn; the next time is set by the next news."""
        if self.at is None or now < self.at:
            return False
        self.at = None
        return True


class Heads:
    """Ours, and the highest that was shown to us."""

    __slots__ = (
        "_announcer",
        "_answered",
        "_chain",
        "_fetcher",
        "_genesis",
        "_network",
        "_poll_every",
        "_polled",
        "_said",
        "_told_of",
        "ahead",
        "poll_at",
    )

    def __init__(
        self, network: str, me: bytes, chain: RatifiedChain, fetcher: Fetcher, settings: Settings
    ) -> None:
        self._network = network
        self._genesis = chain.history.genesis
        self._chain = chain
        self._fetcher = fetcher
        self._announcer = Announcer(me, settings.announce_every)
        self._poll_every = settings.poll_every
        self._polled = 0
        self._said: tuple[Certificate | None, int, bytes] | None = None
        self._answered: dict[bytes, float] = {}
        self._told_of: set[bytes] = set()
        self.ahead: Certificate | None = None
        """The highest ratification above our head that we could check."""
        self.poll_at = 0.0

    def wake_at(self) -> float:
        """When an Alarm is wanted (mono seconds)."""
        at = self._announcer.at
        return self.poll_at if at is None else min(at, self.poll_at)

    # -- ours ----------------------------------------------------------------------------------

    def status(self, certificate: Certificate | None = None) -> bytes:
        """A frame of what we have; or of a certificate, whatever it is."""
        history = self._chain.history
        found, base = certificate or history.certificate, history.log.base
        if self._said is None or self._said[0] is not found or self._said[1] != base:
            said = Status(
                network=self._network, genesis=self._genesis, base=base, certificate=found
            )
            self._said = (found, base, frame(said))
        return self._said[2]

    def tell(self, peer: bytes) -> Send:
        """What we have, to one peer."""
        return Send(peer, PROTOCOL, self.status())

    def ratified(self, index: int, now: float) -> None:
        """Our head is ratified, by a certificate of its own."""
        if self.ahead is not None and self.ahead.said.index <= index:
            self.ahead = None
        self._announcer.ratified(index, now)

    def alarm(self, now: float) -> Effects:
        """What it is time to say."""
        effects: Effects = []
        certificate = self._chain.history.certificate
        if self._announcer.due(now) and certificate is not None:
            self._announcer.told(certificate.said.index, now)
            effects.append(Publish(HEADS, self.status()))
        if now >= self.poll_at:
            self.poll_at = now + self._poll_every
            peers = sorted(self._fetcher.sources)
            if peers:
                self._polled += 1
                effects.append(self.tell(peers[self._polled % len(peers)]))
        return effects

    # -- others' -------------------------------------------------------------------------------

    def hear(
        self, peer: bytes, status: Status, now: float, *, passed_on: bool = False
    ) -> tuple[bool, Effects]:
        """Whether it is good news, and what follows. What was `passed_on` is somebody else's.

        Raises WrongNetworkError, BadCertificateError, ProofError.
        """
        if status.network != self._network:
            raise WrongNetworkError(f"a ledger of the network {status.network!r}")
        if status.genesis != self._genesis:
            return False, [] if passed_on else self._other(peer, status.genesis)
        if not passed_on:
            self._fetcher.says(peer, status)
        certificate = status.certificate
        if certificate is None:
            return False, []
        said, ledger = certificate.said, self._chain.ledger
        if said.index <= ledger.head.index:
            self._fetcher.claim(peer, said.index)
            return self._compare(certificate)
        if said.epoch < ledger.epoch:
            raise ProofError("a certificate from beyond its epoch's end")
        if said.epoch > ledger.epoch:
            # Of a council that we do not know yet: a claim, and worth no more than one range.
            self._fetcher.claim(peer, min(said.index, ledger.head.index + MAX_COUNT))
            return False, []
        if self.ahead is None or said.index > self.ahead.said.index:
            self._chain.check(certificate)
            self.ahead = certificate
        self._announcer.told(said.index, now)
        self._fetcher.claim(peer, said.index)
        return True, []

    def _other(self, peer: bytes, genesis: bytes) -> Effects:
        """A peer's ledger begins otherwise than ours."""
        effects: Effects = [*self._fetcher.says_other(peer, genesis)]
        if peer not in self._told_of and len(self._told_of) < MAX_PEERS:
            self._told_of.add(peer)
            theirs, ours = genesis.hex(), self._genesis.hex()
            about = peer_id_text(peer)
            effects.append(
                Emit("ledger.wrong-genesis", {"peer": about, "theirs": theirs, "ours": ours})
            )
        return effects

    def _compare(self, certificate: Certificate) -> tuple[bool, Effects]:
        """A head at or below ours: nothing new, or proof that a council lied, for all to hear."""
        try:
            effects = self._chain.contradicted(Proof(certificate, []), certificate.said.head)
        except (NotHeldError, DamagedRecordError):
            return False, []
        if self._chain.halted is None:
            return False, effects
        told = [Publish(HEADS, self.status(certificate)), Publish(HEADS, self.status())]
        return True, [*effects, *told]

    def answer(self, peer: bytes, status: Status, now: float) -> Effects:
        """Who has less than we is told so, once in a while."""
        mine = self._chain.history.certificate
        last = self._answered.get(peer, -STATUS_EVERY)
        if mine is None or status.index >= mine.said.index or now < last + STATUS_EVERY:
            return []
        if peer not in self._fetcher.sources:
            return []
        self._answered[peer] = now
        return [self.tell(peer)]

    def down(self, peer: bytes) -> None:
        """A peer is gone."""
        self._answered.pop(peer, None)
