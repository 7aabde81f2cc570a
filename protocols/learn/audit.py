"""Spot checks of regions' sums: drawn at random, recomputed from what learners signed.

    Recorded    a round is committed whose record names sums    -> Say (Prove)
    Heard       a Proof, or an Accuse, with all its blobs        -> Recompute
    Recomputed  whether the sum is what its inputs make          -> Say (Accuse), Caught
    Tick        time passes: who gave no proof                    -> Caught

Which sums of a round an auditor recomputes is drawn from the record's hash and its own id: nobody
knows it before the round is committed, and different auditors draw differently. So a region whose
aggregator forges one sum in ten is found out, by somebody, within a few rounds.

A wrong sum proves itself: it is signed by its aggregator, names its inputs by hash, and the
learners' claims over these hashes are signed. Whoever hears an accusation recomputes it and
believes nobody. Who is caught aggregates no more here, nor at whoever heard the proof, for EXCLUDED
epochs; and the ledger takes its offices (case.py). That somebody does not answer proves nothing to
others, and costs it its place with us.
"""

import hashlib
from collections.abc import Callable

import msgspec

from protocols.effects import Effect
from protocols.envelope import Verify
from protocols.errors import MalformedError
from protocols.learn.claims import BadClaimError, Claim, Input, Record, Sum, check_signed
from protocols.learn.messages import Accuse, Blob, Proof, Prove
from protocols.learn.round_ports import Heard, Part, Say, Tick
from protocols.ledger.trainings import EXCLUDED
from protocols.plan import CodecName, Plan
from protocols.realm import Realm

ONE_IN = 8
"""Sums of its region that are recomputed there, by one of its learners each: a forger is found out
after eight rounds, and what it costs stays off the wide links."""
REGION = 16
"""Learners of a sum that share its check at most, each looking at one in ONE_IN times as many: who
makes up more of them hides no better."""
FAR_ONE_IN = 512
"""Sums that are recomputed by anybody else, on top: a region whose learners are all its
aggregator's is found out, too, within some hundred rounds. A proof is 20 deltas across wide links:
at one in 64 they were a sixth of all that crosses (bench learn-wan), at this a fiftieth."""
PROOF_MS = 20_000
"""For which a proof is waited for: 20 deltas of half a megabyte take 8 s on a home uplink."""
MISSES = 3
"""Proofs that an aggregator fails to give until it is taken for a liar here: daemons restart, and
disks fill. An epoch takes one back."""
MAX_OPEN = 16
"""Sums that are being looked at."""
MAX_ACCUSED = 4
"""Accusations of others among them: each costs a download of a region's deltas."""
MAX_HEARD = 1024
MAX_NAMED = 512
"""Rounds whose sums are remembered, of all groups."""


class Recorded(msgspec.Struct, frozen=True):
    """A record, as it comes to be known."""

    record: Record


class Recomputed(msgspec.Struct, frozen=True):
    """`same`: the sum, and what it left, decode to what its inputs make; None: could not tell."""

    digest: bytes
    same: bool | None


Event = Recorded | Heard | Recomputed | Tick


class Recompute(msgspec.Struct, frozen=True):
    """Effect: make the sum of these parts anew, compare its values with those of `blob`, and say
    Recomputed."""

    group: int
    number: int
    base: bytes
    blob: Blob
    parts: tuple[Part, ...]
    codec: CodecName
    carry: Blob | None
    left: Blob | None
    """What it says that it leaves: compared as well."""


class Caught(msgspec.Struct, frozen=True):
    """Effect: this one aggregates no more. `proof`: its own signature; None: it kept silent."""

    aggregator: bytes
    proof: Proof | None
    record: Record | None = None
    """Of the round that took the sum, where it is known here."""
    why: str = ""


Effects = list[Effect | Say | Recompute | Caught]


def drawn(record: Record, me: bytes, entry: Input, one_in: int = ONE_IN) -> bool:
    """Whether this input of a round is for us to look at."""
    if not entry.of:
        return False
    seed = b"audit" + record.round.head + record.round.result + me + entry.digest
    return int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") % one_in == 0


def odds(members: int, learners: int, *, own: bool) -> int:
    """One in how many sums somebody recomputes: of those with his own delta in them and that of so
    many `learners`, or of others'."""
    return ONE_IN * min(max(1, learners), REGION) if own else FAR_ONE_IN * max(1, members)


def check_proof(realm: Realm, proof: Proof, verify: Verify) -> None:
    """Raise BadClaimError unless everybody in it signed what it says they did."""
    said = proof.sum
    check_signed(realm, said, verify)
    claims = {claim.learner: claim for claim in proof.claims}
    if list(claims) != [entry.learner for entry in said.inputs]:
        raise BadClaimError("a proof whose claims are not of the sum's learners, in their order")
    for entry in said.inputs:
        claim = claims[entry.learner]
        check_signed(realm, claim, verify)
        if claim.model != said.model or not _has(claim, said, entry.digest):
            raise BadClaimError("a sum of a delta that its learner did not sign for this round")
    if said.carry is not None:
        _check_before(realm, said, proof.before, verify)


def _check_before(realm: Realm, said: Sum, before: Sum | None, verify: Verify) -> None:
    """What is carried was left by a sum of the same aggregator and group, that says so."""
    if before is None or before.left != said.carry:
        raise BadClaimError("a sum that carries what no sum before it left")
    same = (before.model, before.aggregator, before.made.group)
    if same != (said.model, said.aggregator, said.made.group) or before == said:
        raise BadClaimError("a sum that carries what another group's left")
    if before.made.number > said.made.number:
        raise BadClaimError("a sum that carries what a later one left")
    check_signed(realm, before, verify)


def _has(claim: Claim, said: Sum, digest: bytes) -> bool:
    its = said.made
    return any(
        (made.group, made.number, made.base, made.digest)
        == (its.group, its.number, its.base, digest)
        for made in claim.made
    )


def to_recompute(proof: Proof, plan: Plan) -> Recompute:
    """What a checked proof asks whoever doubts it to compute."""
    made = proof.sum.made
    deltas = {(claim.learner, one.digest): one.size for claim in proof.claims for one in claim.made}
    parts = tuple(
        Part(entry.learner, Blob(entry.digest, deltas[entry.learner, entry.digest]), 1)
        for entry in proof.sum.inputs
    )
    codec = plan.phase_of(made.number).up
    blob = Blob(made.digest, made.size)
    carry, left = (
        None if one is None else Blob(one.digest, one.size)
        for one in (proof.sum.carry, proof.sum.left)
    )
    return Recompute(made.group, made.number, made.base, blob, parts, codec, carry, left)


class Audit:
    """The machine, for one model."""

    def __init__(
        self,
        *,
        realm: Realm,
        model: bytes,
        plan: Plan,
        me: bytes,
        verify: Verify,
        one_in: int = ONE_IN,
        odds: Callable[[Input], int] | None = None,
    ) -> None:
        """`odds(sum)`: one in how many like this one are for us; else one in `one_in`."""
        self._realm = realm
        self._model = model
        self._plan = plan
        self._me = me
        self._verify = verify
        self._odds = odds or (lambda _entry: one_in)
        self._asked: dict[bytes, tuple[bytes, int]] = {}
        """Whom we asked for the proof of which sum, and until when."""
        self._open: dict[bytes, tuple[Proof, bool]] = {}
        """What is being recomputed, and whether we drew it (or somebody accuses)."""
        self._missed: dict[bytes, int] = {}
        """Proofs that somebody did not give, or that were none."""
        self._named: dict[tuple[int, int], Record] = {}
        """The last records, by group and round, for the sums that they name."""
        self._judged: dict[bytes, None] = {}
        self.caught: dict[bytes, int] = {}
        """Since which epoch."""
        self._epoch = 0
        self.friends: tuple[bytes, ...] = ()
        """Who is told of what we find, beside those whose deltas are in it: the replicas."""

    def turn(self, epoch: int) -> None:
        """The ledger's epoch: who was caught long ago may have another try, and each epoch takes
        one of the proofs that somebody did not give."""
        gone = max(0, epoch - self._epoch) if self._epoch else 0
        self._missed = {who: count - gone for who, count in self._missed.items() if count > gone}
        self._epoch = epoch
        self.caught = {
            who: since for who, since in self.caught.items() if epoch <= since + EXCLUDED
        }

    def handle(self, event: Event, now_ms: int) -> Effects:
        """What follows from `event` at `now_ms`."""
        match event:
            case Recorded(record):
                return self._recorded(record, now_ms)
            case Heard(peer, message):
                return self._heard(peer, message)
            case Recomputed(digest, same):
                return self._recomputed(digest, same)
            case Tick():
                return self._expire(now_ms)

    def _recorded(self, record: Record, now_ms: int) -> Effects:
        effects: Effects = []
        decided = record.round
        if decided.model != self._model:
            return effects
        self._named[decided.group, decided.number] = record
        if len(self._named) > MAX_NAMED:
            del self._named[next(iter(self._named))]
        for entry in decided.inputs:
            if entry.learner in self.caught or entry.learner == self._me:
                continue
            if not drawn(record, self._me, entry, self._odds(entry)):
                continue
            looked = entry.digest in self._judged or entry.digest in self._open
            if looked or entry.digest in self._asked or len(self._asked) >= MAX_OPEN:
                continue
            self._asked[entry.digest] = (entry.learner, now_ms + PROOF_MS)
            prove = Prove(
                model=self._model,
                group=decided.group,
                number=decided.number,
                digest=entry.digest,
            )
            effects.append(Say(entry.learner, prove))
        return effects

    def wants(self, peer: bytes, proof: Proof, *, accused: bool) -> bool:
        """Whether to fetch its blobs: only what we asked for, or a few accusations."""
        digest = proof.sum.made.digest
        if proof.sum.model != self._model or digest in self._judged or digest in self._open:
            return False
        if not accused:
            return self._asked.get(digest, (b"", 0))[0] == peer == proof.sum.aggregator
        if proof.sum.aggregator in self.caught or len(self._open) >= MAX_OPEN:
            return False
        return sum(not mine for _, mine in self._open.values()) < MAX_ACCUSED

    def _heard(self, peer: bytes, message: object) -> Effects:
        match message:
            case Proof():
                proof, accused = message, False
            case Accuse(proof=proof):
                accused = True
            case _:
                return []
        if not self.wants(peer, proof, accused=accused):
            return []
        self._asked.pop(proof.sum.made.digest, None)
        try:
            check_proof(self._realm, proof, self._verify)
            self._check_taken(proof)
        except MalformedError as error:
            # Ours is as good as no answer; somebody's accusation is only that.
            return [] if accused else self._lost(proof.sum.aggregator, str(error))
        return self._recompute(proof, mine=not accused)

    def _check_taken(self, proof: Proof) -> None:
        """What is carried must be of a sum that a round took (that round or the next): otherwise
        whoever forges would forge that. Where we do not have these records, nothing is said."""
        before = proof.before
        if proof.sum.carry is None or before is None:
            return
        its = before.made
        rounds = [self._named.get((its.group, number)) for number in (its.number, its.number + 1)]
        if all(rounds) and self._taker(before) is None:
            raise BadClaimError("a sum that carries what a sum left that no round took")

    def _taker(self, said: Sum) -> Record | None:
        """The record of the round that took a sum: that round, or the next."""
        its = said.made
        for number in (its.number, its.number + 1):
            record = self._named.get((its.group, number))
            if record is not None and any(
                entry.digest == its.digest and entry.of for entry in record.round.inputs
            ):
                return record
        return None

    def _recompute(self, proof: Proof, *, mine: bool) -> Effects:
        self._open[proof.sum.made.digest] = (proof, mine)
        return [to_recompute(proof, self._plan)]

    def _recomputed(self, digest: bytes, same: bool | None) -> Effects:
        proof, _ = self._open.pop(digest, (None, False))
        if proof is None:
            return []
        self._judged[digest] = None
        if len(self._judged) > MAX_HEARD:
            del self._judged[next(iter(self._judged))]
        if same is not False:
            return []
        # Its learners first: a liar would not tell them that nobody takes its sums any more.
        whom = dict.fromkeys([*(claim.learner for claim in proof.claims), *self.friends])
        accuse = Accuse(proof=proof)
        nobody = (self._me, proof.sum.aggregator)
        told: Effects = [Say(peer, accuse) for peer in whom if peer not in nobody]
        return [*told, *self._catch(proof.sum.aggregator, proof, "a wrong sum, signed by it")]

    def _lost(self, aggregator: bytes, why: str) -> Effects:
        missed = self._missed[aggregator] = self._missed.pop(aggregator, 0) + 1
        if len(self._missed) > MAX_HEARD:
            del self._missed[next(iter(self._missed))]
        return self._catch(aggregator, None, why) if missed >= MISSES else []

    def _catch(self, aggregator: bytes, proof: Proof | None, why: str) -> Effects:
        if aggregator in self.caught:
            return []
        self.caught[aggregator] = self._epoch
        record = None if proof is None else self._taker(proof.sum)
        return [Caught(aggregator, proof, record, why)]

    def _expire(self, now_ms: int) -> Effects:
        effects: Effects = []
        for digest, (aggregator, until) in list(self._asked.items()):
            if until <= now_ms:
                del self._asked[digest]
                effects += self._lost(aggregator, "no proof of a sum that it signed")
        return effects

    @property
    def next_wake(self) -> int | None:
        """When a Tick is wanted."""
        return min((until for _, until in self._asked.values()), default=None)
