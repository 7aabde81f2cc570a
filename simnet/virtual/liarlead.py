"""Members that lie when they lead.

mute         leads in silence, and is honest otherwise
starver      never speaks to one member
censor       leads with ticks only: nobody's submission gets in
dawdler      leads, and sends entries without end and no certificate
rewinder     opens the terms that it leads at the lowest certificate
equivocator  sends half of the members other entries than the rest
unsigned     the same, and signs neither: nothing to prove it with
garbler      appends entries that are not valid
"""

from collections.abc import Sequence

import msgspec

from protocols.effects import Send
from protocols.envelope import SIGNATURE_LENGTH
from protocols.ledger.chain import Head
from protocols.ledger.council import Certificate, Instant, Kind, Statement, start_certificate
from protocols.raft.messages import (
    PROTOCOL,
    Append,
    Certified,
    Opened,
    Suspicion,
    TimedOut,
    pack,
    unpack,
)
from simnet.virtual.kits import Kit
from simnet.virtual.liar import REMEMBERED, Liar, branch
from simnet.virtual.node import Node


class Mute(Liar):
    """Leads in silence."""

    def twist(self, send: Send) -> list[object]:
        message, _ = unpack(send.data)
        if self.leads and not isinstance(message, Suspicion | TimedOut):
            self.count("mute")
            return []
        return [send]


class Starver(Liar):
    """Never speaks to one member."""

    def twist(self, send: Send) -> list[object]:
        members = self.members
        if members and send.peer == members[self.node.number % len(members)]:
            self.count("starve")
            return []
        return [send]


class Censor(Liar):
    """What others submit never reaches its daemon, which so has only ticks to ratify."""

    def takes(self, protocol: str) -> bool:
        if "subm" not in protocol:  # the submissions' protocols and topic
            return True
        self.count("censor")
        return False


class Dawdler(Liar):
    """Leads, sends its newest entries again and again, and no certificate ever."""

    AGAIN_S = 0.3
    """More often than any time-out."""

    def __init__(self, node: Node, kit: Kit) -> None:
        super().__init__(node, kit)
        self._newest: dict[bytes, Send] = {}
        self._again_at = 0.0

    def twist(self, send: Send) -> list[object]:
        message, _ = unpack(send.data)
        if not self.leads:
            self._newest.clear()
        elif isinstance(message, Append):
            self._newest[send.peer] = send
        elif isinstance(message, Certified):
            self.count("dawdle")
            return []
        return [send]

    def alarm(self, now: Instant) -> Sequence[object]:
        effects = list(super().alarm(now))
        if self.leads and now.mono >= self._again_at:
            self._again_at = now.mono + self.AGAIN_S
            effects += self._newest.values()
        return effects

    def wake_at(self) -> float | None:
        wake = super().wake_at()
        if not self._newest:
            return wake
        return self._again_at if wake is None else min(wake, self._again_at)


class Rewinder(Liar):
    """Opens its terms at the lowest certificate that it has ever seen."""

    def __init__(self, node: Node, kit: Kit) -> None:
        super().__init__(node, kit)
        self._low: Certificate | None = None

    def twist(self, send: Send) -> list[object]:
        message, _ = unpack(send.data)
        if not isinstance(message, Opened) or not self.leads:
            return [send]
        opening = message.opening
        start = start_certificate(self.daemon.ledger.council)
        low = self._low if self._low and self._low.said.epoch == opening.epoch else start
        self._low = min(low, opening.certificate, key=lambda each: each.rank)
        self.count("rewind")
        return [self.says(send.peer, Opened(msgspec.structs.replace(opening, certificate=low)))]


class Equivocator(Liar):
    """Sends half of the members other entries, and goes on with both branches."""

    lie = "equivocate"

    def __init__(self, node: Node, kit: Kit) -> None:
        super().__init__(node, kit)
        self._branches: dict[bytes, Head] = {}
        """Chain hash of the honest branch -> where the other branch is instead."""

    def twist(self, send: Send) -> list[object]:
        message, payloads = unpack(send.data)
        members = self.members
        if not isinstance(message, Append) or send.peer not in members[::2]:
            return [send]
        changed = self._other(message, payloads)
        if changed is None:
            return [send]
        self.count(self.lie)
        return [Send(send.peer, PROTOCOL, changed)]

    def _other(self, append: Append, payloads: list[bytes]) -> bytes | None:
        log = self.log
        prev = self._branches.get(append.prev.hash, append.prev)
        instead = self.instead(payloads)
        if instead is None:
            return None
        honest = branch(self.network, append.epoch, append.prev, payloads, log.hash_at)
        lie = branch(self.network, append.epoch, prev, instead, log.hash_at)
        if honest is None or lie is None:
            return None
        if len(self._branches) < REMEMBERED:
            self._branches[honest.hash] = lie
        said = Statement(Kind.ACK, append.epoch, append.term, lie.index, lie.hash)
        lengths = [len(payload) for payload in instead]
        return pack(Append(append.epoch, append.term, prev, self.ack(said), lengths), instead)

    def ack(self, said: Statement) -> bytes:
        """Its own acknowledgement of what it appends."""
        return self.sign(said)

    def instead(self, payloads: list[bytes]) -> list[bytes] | None:
        """As many entries, another one at the end: a tick of a little later."""
        later = self.now.unix_ms + 50 + self.rng.randrange(500)
        tick = self.log.head.tick(later)
        return None if tick is None else [*payloads[:-1], tick]


class Unsigned(Equivocator):
    """Equivocates, and signs nothing that could prove it."""

    lie = "unsigned"

    def ack(self, said: Statement) -> bytes:
        del said
        return bytes(SIGNATURE_LENGTH)

    def twist(self, send: Send) -> list[object]:
        message, payloads = unpack(send.data)
        changed = super().twist(send)
        if changed == [send] and isinstance(message, Append):
            bare = msgspec.structs.replace(message, signature=bytes(SIGNATURE_LENGTH))
            return [self.says(send.peer, bare, payloads)]
        return changed


class Garbler(Equivocator):
    """Appends entries that are not valid."""

    lie = "garble"

    def instead(self, payloads: list[bytes]) -> list[bytes] | None:
        return [*payloads[:-1], b"\xff" + self.rng.randbytes(8)]
