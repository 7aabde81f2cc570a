"""The catalog: one daemon's view of all live announcements, and the machine that keeps it.

    Heard      an envelope, by gossip or asked for   -> Save, Emit, Changed (or Blame)
    Restored   a record of our own disk              -> Changed (Save None, where it expired)
    Announce   we have something to say              -> Save, Publish, Emit, Changed
    Withdraw   we take it back                       -> Save, Publish, Emit, Changed
    Tick       time passes: expiry, renewals, drafts -> any of these

Rules of this file:
1. Of the announcements of one (issuer, kind, subject) the greatest (seq, id) is in force. So
   what is kept depends on what was heard and not on the order: catalogs that have been
   reconciled are equal.
2. `Save` stands before `Publish`: after a crash we know at least what others may have heard.
3. Our own statements are made here alone. Their sequence numbers begin at the clock's
   milliseconds, so that a daemon that lost its disk is not taken for one that repeats itself.
4. Nobody pushes out others: an issuer has a cap, and a full catalog forgets first of the
   issuer that fills most of it. What is ours is never forgotten.
"""

import msgspec

from protocols.cid import cid_text
from protocols.codec import encode
from protocols.effects import Blame, Effect, Emit, Publish, Save
from protocols.envelope import Sign, Verify
from protocols.errors import LimitError, NotHeldError
from protocols.gossip.announcement import (
    KINDS,
    MAX_LIFETIME,
    MAX_SKEW,
    Body,
    Hearing,
    Judgement,
    Source,
    announcement_id,
    compose,
    judge,
    kind_of_body,
    seal_announcement,
)
from protocols.gossip.buckets import Buckets
from protocols.gossip.peerscore import Fault
from protocols.gossip.shelf import Entry, Holding, Shelf, holding_of
from protocols.gossip.validation import Verdict
from protocols.peerid import peer_id_of, peer_id_text
from protocols.ratelimit import TokenBucket

TABLE = "catalog"
"""Of the store: key = issuer ‖ kind ‖ subject, value = envelope."""

MAX_BUCKETS = 8192
"""Issuers whose rate is remembered: half of those that fit a catalog, at 200 bytes each."""
OWN_SHARE = 0.8
"""Of an issuer's rate, what we use: on its way our stream becomes burstier than we made it."""
SUBJECT_SPACING = 2.0
"""Seconds between two announcements of ours of one subject: a pull makes progress all the time."""
MAX_PASSED = 4096
"""Ids remembered as not wanted, so that reconciliation does not fetch them again and again."""
PASSED_FOR = 60.0
"""Seconds for which an announcement ignored for its issuer's rate is not asked for."""


class CatalogLimits(msgspec.Struct, frozen=True):
    """How much of what a catalog takes; the same on all daemons of a network."""

    capacity: int = 16_384
    """Announcements in all: 1,000 daemons with 16 each. About 2 KB of memory each, so 32 MB."""
    memory: int = 128 << 20
    """Bytes in all, by an estimate on the high side: 8 KB each, which 45 runs of tiles take. With
    512 runs each it would be a gigabyte."""
    per_issuer: int = 1024
    """Live announcements of one issuer: a daemon that seeds a whole shelf of models."""
    rate: float = 2.0
    """Gossiped announcements a second and issuer, in the long run: each costs every daemon about
    4 ms of CPU. What goes beyond is ignored, and reconciliation brings it later."""
    burst: float = 64
    """Saved up: what a daemon says at once when its user imports a folder of models."""
    lifetime: int = 2 * 3600 * 1000
    """Milliseconds that ours live. Who is alive is told by heartbeats; this bounds how long the
    statements of a daemon that vanished take up room."""

    def validate(self) -> None:
        """Raise ValueError where the numbers contradict each other."""
        if not 0 < self.lifetime <= MAX_LIFETIME:
            raise ValueError(f"an announcement lives for 1 to {MAX_LIFETIME} ms")
        if not 0 < self.per_issuer <= self.capacity:
            raise ValueError("one issuer cannot have more announcements than a catalog")
        if self.memory <= 0:
            raise ValueError("a catalog needs memory for its announcements")


class Heard(msgspec.Struct, frozen=True):
    """An envelope from `sender` (peer id), on the topic of a kind, or asked for (None)."""

    sender: bytes
    data: bytes
    topic: str | None


class Restored(msgspec.Struct, frozen=True):
    """A record of TABLE."""

    key: bytes
    value: bytes


class Announce(msgspec.Struct, frozen=True):
    """We hold or offer what `body` says."""

    body: Body


class Withdraw(msgspec.Struct, frozen=True):
    """We no longer do."""

    kind: str
    subject: bytes


class Tick(msgspec.Struct, frozen=True):
    """Time passes: one a second will do."""


Event = Heard | Restored | Announce | Withdraw | Tick


class Changed(msgspec.Struct, frozen=True):
    """Effect: who offers `subject`, or what of it, is no longer what it was."""

    kind: str
    subject: bytes


Effects = list[Effect | Changed]


class Catalog:
    """The machine. `handle` takes every event; `hear` is `Heard` with the verdict beside it."""

    def __init__(
        self,
        network: str,
        public_key: bytes,
        sign: Sign,
        verify: Verify,
        limits: CatalogLimits | None = None,
    ) -> None:
        self._limits = limits or CatalogLimits()
        self._limits.validate()
        self._me = peer_id_of(public_key)
        self._network = network
        self._public_key = public_key
        self._sign = sign
        self._verify = verify
        self._shelf = Shelf(spared=self._me)
        self._rates = Buckets(self._limits.rate, self._limits.burst, MAX_BUCKETS)
        self._passed: dict[bytes, float] = {}
        self._own_bucket = TokenBucket(
            self._limits.rate * OWN_SHARE, max(1.0, self._limits.burst * OWN_SHARE)
        )
        # What we are to say as soon as the rates allow: body, and whether it is taken back.
        self._drafts: dict[tuple[str, bytes], tuple[Body, bool]] = {}
        self._seq_floor = 0

    def handle(self, event: Event, now: float) -> Effects:
        """What follows from `event` at `now` (Unix seconds).

        Raises LimitError for an announcement of ours beyond our cap, NotHeldError where there
        is nothing to withdraw.
        """
        match event:
            case Heard():
                return self.hear(event, now)[1]
            case Restored():
                return self._restore(event, now)
            case Announce(body):
                return self._announce(body, now)
            case Withdraw(kind, subject):
                return self._withdraw(kind, subject, now)
            case Tick():
                effects = self._expire(now)
                self._draft_renewals(now)
                return effects + self._speak(now)

    # -- hearing others ------------------------------------------------------------------------

    def hear(self, heard: Heard, now: float) -> tuple[Judgement, Effects]:
        """The verdict on an envelope, which gossip wants at once, and what follows from it."""
        source = Source.ASKED if heard.topic is None else Source.GOSSIP
        judgement = self._judge(heard.data, heard.topic, source, now)
        if judgement.verdict is Verdict.REJECT:
            # For gossip, the verdict itself costs the sender its score.
            why = f"sent an announcement that is refused ({judgement.row}): {judgement.reason}"
            blame: Effects = [Blame(heard.sender, Fault.REJECTED, why)]
            return judgement, blame if source is Source.ASKED else []
        if judgement.announcement is None or judgement.id is None:
            return judgement, []
        entry = Entry(judgement.id, judgement.announcement, heard.data)
        effects = self._contradiction(entry)
        if judgement.verdict is Verdict.IGNORE:
            self._pass_over(judgement.row, entry, now)
            return judgement, effects
        if source is Source.GOSSIP:
            self._rates.take(entry.issuer, now)
        self._replace(entry)
        effects += [Save(TABLE, record_key(entry), entry.envelope), _told("accepted", entry)]
        effects.append(Changed(entry.kind, entry.subject))
        return judgement, effects + self._make_room()

    def _replace(self, entry: Entry) -> None:
        old = self._shelf.get(entry.key)
        if old is not None and old.announcement.seq == entry.announcement.seq:
            self._pass_id(old.id, old.announcement.expires / 1000)
        self._shelf.put(entry)

    def _judge(self, data: bytes, topic: str | None, source: Source, now: float) -> Judgement:
        hearing = Hearing(
            data,
            topic=topic,
            source=source,
            now=now,
            network=self._network,
            verify=self._verify,
            known=self,
        )
        return judge(hearing)

    def _contradiction(self, entry: Entry) -> Effects:
        newest = self.newest(*entry.key)
        if newest is None or newest[0] != entry.announcement.seq or newest[1] == entry.id:
            return []
        if entry.id in self._passed:
            return []  # who repeats what was held against its issuer already adds nothing
        why = "said two different things under one sequence number"
        return [Blame(entry.issuer, Fault.LIED, why)]

    def _pass_over(self, row: str, entry: Entry, now: float) -> None:
        if row == "ours":
            # Ours from before we lost our disk: what we say next must be newer than that.
            self._seq_floor = max(self._seq_floor, entry.announcement.seq + 1)
        expires = entry.announcement.expires / 1000
        self._pass_id(entry.id, now + PASSED_FOR if row == "over-rate" else expires)

    def _pass_id(self, digest: bytes, until: float) -> None:
        self._passed.pop(digest, None)
        if len(self._passed) >= MAX_PASSED:
            del self._passed[next(iter(self._passed))]
        self._passed[digest] = until

    def _restore(self, record: Restored, now: float) -> Effects:
        judgement = self._judge(record.value, None, Source.STORED, now)
        if judgement.announcement is not None and judgement.id is not None:
            entry = Entry(judgement.id, judgement.announcement, record.value)
            if judgement.verdict is Verdict.ACCEPT and record_key(entry) == record.key:
                self._shelf.put(entry)
                return [Changed(entry.kind, entry.subject), *self._make_room()]
        # Heard meanwhile, or replaced: then the record is that of the newer one.
        current = judgement.row in ("held", "older", "contradicts")
        return [] if current else [Save(TABLE, record.key, None)]

    # -- forgetting ----------------------------------------------------------------------------

    def _expire(self, now: float) -> Effects:
        effects: Effects = []
        for entry in self._shelf.expired(int(now * 1000)):
            effects += self._drop(entry)
            if entry.live:
                effects.append(_told("expired", entry))
        for digest in [digest for digest, until in self._passed.items() if until <= now]:
            del self._passed[digest]
        return effects

    def _drop(self, entry: Entry) -> Effects:
        self._shelf.drop(entry)
        return [Save(TABLE, record_key(entry), None), Changed(entry.kind, entry.subject)]

    def _make_room(self) -> Effects:
        effects: Effects = []
        limits = self._limits
        while len(self._shelf) > limits.capacity or self._shelf.weight > limits.memory:
            fullest = self._shelf.fullest_issuer()
            if fullest is None:
                break
            victim = min(
                self._shelf.of_issuer(fullest), key=lambda e: (e.announcement.expires, e.id)
            )
            effects += [*self._drop(victim), _told("crowded-out", victim)]
            self._pass_id(victim.id, victim.announcement.expires / 1000)
        return effects

    # -- our own -------------------------------------------------------------------------------

    def _announce(self, body: Body, now: float) -> Effects:
        kind = kind_of_body(body)
        if self.over_cap(self._me, kind, body.subject):
            raise LimitError(
                f"this daemon has {self._limits.per_issuer} announcements out already",
                remedy="withdraw some; others would ignore more",
            )
        self._drafts[kind, body.subject] = (body, False)
        return self._speak(now)

    def _withdraw(self, kind: str, subject: bytes, now: float) -> Effects:
        draft = self._drafts.pop((kind, subject), None)
        mine = self._shelf.get((self._me, kind, subject))
        if mine is not None and mine.live:
            self._drafts[kind, subject] = (mine.announcement.body, True)
        elif draft is None:
            raise NotHeldError(f"we have not announced {cid_text(subject)} as a {kind}")
        return self._speak(now)

    def _draft_renewals(self, now: float) -> None:
        for entry in self._shelf.of_issuer(self._me):
            if entry.live and _renewal_due(entry, now):
                self._drafts.setdefault(
                    (entry.kind, entry.subject), (entry.announcement.body, False)
                )

    def _speak(self, now: float) -> Effects:
        """Issue the drafts whose time has come, as far as our rate goes."""
        effects: Effects = []
        for (kind, subject), (body, withdrawn) in list(self._drafts.items()):
            mine = self._shelf.get((self._me, kind, subject))
            if mine is not None:
                if _says(mine, body, withdrawn) and not _renewal_due(mine, now):
                    del self._drafts[kind, subject]
                    continue
                if 0 <= now - mine.announcement.issued / 1000 < SUBJECT_SPACING:
                    continue
            if self._own_bucket.take(1, now) > 0:
                break
            del self._drafts[kind, subject]
            effects += self._issue(body, withdrawn, mine, now)
        return effects

    def _issue(self, body: Body, withdrawn: bool, mine: Entry | None, now: float) -> Effects:
        issued = int(now * 1000)
        seq = max(issued, self._seq_floor)
        expires = issued + self._limits.lifetime
        if mine is not None:
            seq = max(seq, mine.announcement.seq + 1)
            if withdrawn:  # a tombstone outlives what it takes back
                expires = max(expires, mine.announcement.expires)
        said = compose(
            body, issuer=self._me, seq=seq, issued=issued, expires=expires, withdrawn=withdrawn
        )
        envelope = seal_announcement(said, self._network, self._public_key, self._sign)
        entry = Entry(announcement_id(encode(said)), said, envelope)
        self._shelf.put(entry)
        return [
            Save(TABLE, record_key(entry), envelope),
            Publish(entry.kind, envelope),
            _told("published", entry),
            Changed(entry.kind, entry.subject),
            *self._make_room(),
        ]

    # -- what validation asks (announcement.Known) -----------------------------------------------

    @property
    def me(self) -> bytes:
        """Our peer id."""
        return self._me

    def has(self, digest: bytes) -> bool:
        """Whether the announcement with this id is here."""
        return self._shelf.by_id(digest) is not None

    def newest(self, issuer: bytes, kind: str, subject: bytes) -> tuple[int, bytes] | None:
        """(sequence number, id) of the issuer's announcement for this subject."""
        entry = self._shelf.get((issuer, kind, subject))
        return None if entry is None else (entry.announcement.seq, entry.id)

    def over_rate(self, issuer: bytes, now: float) -> bool:
        """Whether the issuer has gossiped more than its rate allows."""
        return not self._rates.has(issuer, now)

    def over_cap(self, issuer: bytes, kind: str, subject: bytes) -> bool:
        """Whether the issuer has as many as it may, and this is one more. Tombstones count."""
        full = self._shelf.count_of(issuer) >= self._limits.per_issuer
        return full and self._shelf.get((issuer, kind, subject)) is None

    # -- what reconciliation asks (reconcile.Shelf) -----------------------------------------------

    def ids(self) -> list[bytes]:
        """The ids of everything here, tombstones too, in order."""
        return list(self._shelf.ids)

    def envelope(self, digest: bytes) -> bytes | None:
        """The envelope of one of them."""
        entry = self._shelf.by_id(digest)
        return None if entry is None else entry.envelope

    def wants(self, digest: bytes) -> bool:
        """Whether we would take the announcement with this id, for all that we know."""
        return not self.has(digest) and digest not in self._passed

    # -- queries ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._shelf)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Live announcements, by kind, subject and issuer."""
        return self._shelf.live(KINDS if kind is None else (kind,))

    def counts(self) -> dict[str, int]:
        """Live announcements of each kind that there is."""
        return self._shelf.counts()

    def offering(self, subject: bytes) -> list[bytes]:
        """Who announces `subject`, as whatever it is, by peer id."""
        return self._shelf.issuers(subject, KINDS)

    def entry(self, digest: bytes) -> Entry | None:
        """One announcement, or tombstone, by its id."""
        return self._shelf.by_id(digest)

    def own(self, kind: str, subject: bytes) -> Entry | None:
        """What we say about `subject` ourselves."""
        entry = self._shelf.get((self._me, kind, subject))
        return entry if entry is not None and entry.live else None

    def models(self) -> list[bytes]:
        """CIDs of the models of which anybody announces tiles, in order."""
        return self._shelf.subjects("shard")

    def holders(self, model: bytes) -> list[Holding]:
        """Who announces which tiles of a model, ourselves too, by peer id. Who of them is alive
        is told by heartbeats."""
        return [holding_of(entry) for entry in self._shelf.of_subject("shard", model)]

    def holders_of_tile(self, model: bytes, tile: int) -> list[bytes]:
        """Who announces one tile."""
        return [holding.peer for holding in self.holders(model) if holding.holds(tile)]


def record_key(entry: Entry) -> bytes:
    """The key of an entry's record in TABLE."""
    return entry.issuer + entry.kind.encode() + entry.subject


def _says(entry: Entry, body: Body, withdrawn: bool) -> bool:
    return entry.announcement.body == body and entry.announcement.withdrawn == withdrawn


def _renewal_due(entry: Entry, now: float) -> bool:
    """After half to three quarters of its life, spread by its id: not all at once. And where our
    clock ran so far ahead when we said it that others have ignored it."""
    said = entry.announcement
    life = said.expires - said.issued
    due = said.issued + life // 2 + life * entry.id[0] // 1024
    return not said.withdrawn and not said.issued - MAX_SKEW <= now * 1000 < due


def _told(what: str, entry: Entry) -> Emit:
    said = entry.announcement
    return Emit(
        "announcement.withdrawn"
        if said.withdrawn and what == "accepted"
        else f"announcement.{what}",
        {
            "kind": entry.kind,
            "id": entry.cid,
            "issuer": peer_id_text(entry.issuer),
            "subject": cid_text(entry.subject),
            "seq": said.seq,
            "withdrawn": said.withdrawn,
        },
    )
