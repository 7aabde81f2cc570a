"""A council with its newcomers, its liars and its bad luck, in one world, under every check.

A run has a safety phase, in which anything may happen and nothing ratified may be lost or
replaced; then everything heals but the liars, and something new must be ratified everywhere.
"""

import traceback
from pathlib import Path
from typing import cast

from protocols.council.participant import Settled
from protocols.effects import Blame, Emit
from protocols.gossip.peerscore import Fault
from protocols.ledger.council import Council, Guilt
from protocols.raft.ports import Accuse
from simnet.virtual.case import Case, Outcome
from simnet.virtual.checks import Daemon, History
from simnet.virtual.faults import Faults
from simnet.virtual.kits import BareKit, Kit
from simnet.virtual.liars import lying
from simnet.virtual.net import Weather
from simnet.virtual.node import Node, Program
from simnet.virtual.plan import Episode, draw, without
from simnet.virtual.real import RealKit
from simnet.virtual.roles import Roles
from simnet.virtual.words import carried, event
from simnet.virtual.world import ViolationError, World

MOST_TIME_OUTS = 8.0
"""From healing until everybody has ratified something new: 6.7 were the most in the prototype."""
START_S = 0.5
"""Within which the first daemons start."""


PROPOSED_BY = 0.6
"""The share of the safety phase in which proposals are made: the rest is for their outcomes."""
UPGRADES_BY = 0.4
"""... and upgrades, whose rollouts take longer."""
CHECKPOINTS_BY = 0.7
"""... and a training, first of all, with its checkpoints."""
FIRST_LIMIT = 1_000_000
"""The upload limit that the first of them asks for."""


class Town:
    """One run."""

    def __init__(self, case: Case, *, telling: bool = False, recording: bool = False) -> None:
        self.case = case
        self.world = World(case.seed, telling=telling, recording=recording)
        self.world.describe = carried if recording else None
        self.world.net.calm = Weather(**case.family.weather)
        self.world.net.heal()
        self.roles = Roles(case, self.world.chance["roles"])
        made = BareKit if case.family.ledger == "bare" else RealKit
        self.kit: Kit = made(case, self.world, self.roles)
        first = self.kit.first()
        self.history = History(self.kit.network, self.world.keys.verify, first)
        self.healed: float | None = None
        self._harmed: set[int] = set()
        """Nodes whose disk took harm at any time."""
        self.terms = 0
        self._people = self.world.chance["people"]
        self._populate()
        specs = case.family.faults
        self.plan: list[Episode] = draw(case.seed, specs, self.roles.cast, case.safety_s)
        self.faults = Faults(self.world, without(self.plan, case.without))
        self.faults.leader = self.leader
        self.faults.victims = frozenset(self.roles.victims)
        self.faults.forgets = self._forgets
        self.faults.damages = self._damaged
        self.faults.loses = self.kit.audit.lose
        self.world.after_event.append(self._look)
        self.world.on_send.append(self.kit.audit.sent)
        self.world.on_crash.append(self._crashed)
        self.world.on_blame.append(self._blamed)
        self.world.on_emit.append(self._emitted)
        self.world.on_other.append(self._other)

    def _populate(self) -> None:
        roles, world = self.roles, self.world
        for number in range(roles.nodes):
            whose = roles.twins.get(number, number)
            name = f"m{whose}" if whose < self.case.size else f"n{whose - self.case.size}"
            key = world.keys.new(f"identity {whose}")
            kind = roles.liars.get(whose)
            boot = self.kit.start if kind is None else lying(self.kit, kind)
            node = world.add(name + ("'" if whose != number else ""), key, boot)
            node.honest = kind is None
            if whose < self.case.size:
                self.kit.prepare(node)

    # -- the two phases -------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Both phases; what was found."""
        try:
            self._safety()
            self._liveness()
            self._convicted()
        except ViolationError as error:
            return self.outcome(error.check, error.text)
        except Exception as error:  # noqa: BLE001 - a machine that raises is a finding, too
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
            return self.outcome("crash", f"{type(error).__name__}: {error} ({place})")
        return self.outcome()

    def begin(self) -> None:
        """Have everybody start, and people submit things."""
        world, chance = self.world, self.world.chance["start"]
        for node in world.nodes:
            if node.number not in self.roles.newcomers:
                world.heap.at(chance.random() * START_S, node.start)
        if self.case.family.submissions:
            self._submit_later(self.case.safety_s)
        for number in range(self.case.family.proposals):
            at = self._people.uniform(START_S, PROPOSED_BY * self.case.safety_s)
            world.heap.at(at, self._propose, number)
        for number in range(self.case.family.upgrades):
            at = START_S + UPGRADES_BY * self.case.safety_s * number / self.case.family.upgrades
            world.heap.at(at, self._upgrade, number)
        for number in range(self.case.family.checkpoints):
            at = CHECKPOINTS_BY * self.case.safety_s * number / self.case.family.checkpoints
            world.heap.at(START_S + at, self._checkpoint, number)

    def _propose(self, number: int) -> None:
        up = [node for node in self._honest() if node.program is not None]
        if up and self.kit.polls is not None:
            self.kit.polls.propose(self._people.choice(up), FIRST_LIMIT + number)

    def _upgrade(self, number: int) -> None:
        up = [node for node in self._honest() if node.program is not None]
        if up and self.kit.rollouts is not None:
            self.kit.rollouts.propose(self._people.choice(up), number)

    def _checkpoint(self, number: int) -> None:
        up = [node for node in self._honest() if node.program is not None]
        if up and self.kit.lessons is not None:
            self.kit.lessons.propose(self._people.choice(up), number)

    def _safety(self) -> None:
        self.begin()
        self.world.heap.run(self.case.safety_s)

    def _liveness(self) -> None:
        """Heal, and measure until every daemon that can has ratified something new."""
        world = self.world
        self.faults.heal()
        for node in world.nodes:
            node.start()
        began, goal = world.now, self.history.newest + 1
        if self.case.family.submissions:
            for node in self._honest():
                node.do(self.daemon(node).submit(node.clock.instant(world.now)))
        world.heap.run(
            began + MOST_TIME_OUTS * self.time_out, lambda: not self._behind(goal, first=True)
        )
        behind = self._behind(goal)
        if not behind:
            self.healed = (world.now - began) / self.time_out
            self._nobody_gave_up()
        elif self._quorum():
            raise ViolationError(
                "progress",
                f"{MOST_TIME_OUTS:g} time-outs after healing, not everything new is ratified: "
                + ", ".join(behind),
            )
        else:
            world.tally["no-quorum"] += 1

    @property
    def time_out(self) -> float:
        """A time-out, in seconds."""
        return self.kit.time_out

    def _honest(self) -> list[Node]:
        return [node for node in self.world.nodes if node.honest]

    def _convicted(self) -> None:
        """Whom the ledger calls guilty must have lied."""
        banned = {peer for node in self._honest() for peer in self.daemon(node).banned}
        for peer in sorted(banned):
            if self._is_honest(peer):
                name = self.world.name_of(peer)
                raise ViolationError("honest-accused", f"the ledger calls {name} guilty")
            self.world.tally["convicted"] += 1

    def _behind(self, goal: int, *, first: bool = False) -> list[str]:
        """Who has nothing new ratified, or not what was submitted there; with `first`, of one."""
        heads, found = self.history.heads, []
        for node in self._honest():
            if heads.get(node.number, 0) < goal or self.daemon(node).waiting:
                found.append(f"{node.name} at {heads.get(node.number, 0)} of {goal}")
                if first:
                    break
        return found

    def _quorum(self) -> bool:
        """Whether enough honest seats of the newest council could sign: all whose disk is whole,
        whatever they say, and those that say so."""
        newest = self._newest_council()
        seated = [node for node in self._honest() if newest.seat_of(node.key.peer) is not None]
        able = [n for n in seated if n.number not in self._harmed or self.daemon(n).able]
        return len(able) >= newest.quorum

    def _newest_council(self) -> Council:
        return self.history.councils[max(self.history.councils)]

    def _nobody_gave_up(self) -> None:
        """An honest member whose disk is whole serves in the newest council to the end."""
        newest = self._newest_council()
        for node in self._honest():
            daemon = self.daemon(node)
            seated = newest.seat_of(node.key.peer) is not None
            if node.number in self._harmed or not seated or daemon.ledger.epoch != newest.epoch:
                continue
            if not daemon.able:
                raise ViolationError("gave-up", f"{node.name} has a seat and does not serve")

    # -- people ---------------------------------------------------------------------------------

    def _submit_later(self, until: float) -> None:
        wait = self._people.expovariate(self.case.family.submissions)
        if self.world.now + wait < until:
            self.world.heap.after(wait, self._submit, until)

    def _submit(self, until: float) -> None:
        up = [node for node in self._honest() if node.program is not None]
        if up:
            node = self._people.choice(up)
            node.do(self.daemon(node).submit(node.clock.instant(self.world.now)))
        self._submit_later(until)

    # -- what is seen ---------------------------------------------------------------------------

    def daemon(self, node: Node) -> Daemon:
        """The program of a node that is up."""
        return cast(Daemon, node.program)

    def leader(self) -> int | None:
        """The number of the node that most members take for the leader."""
        votes: dict[bytes, int] = {}
        for node in self._honest():
            leading = self.daemon(node).leading() if node.program is not None else None
            if leading is not None:
                votes[leading] = votes.get(leading, 0) + 1
        if not votes:
            return None
        peer = max(sorted(votes), key=lambda each: votes[each])
        return next(node.number for node in self.world.nodes if node.key.peer == peer)

    def _look(self, node: Node) -> None:
        program: Program | None = node.program
        if program is None or not node.honest:
            return
        daemon = cast(Daemon, program)
        epochs = len(self.history.councils)
        gained = self.history.look(node, daemon)
        if gained:
            self._told(node, daemon)
        if len(self.history.councils) != epochs:
            self._new_epoch(daemon)

    def _told(self, node: Node, daemon: Daemon) -> None:
        certificate = daemon.certificate
        if certificate is not None:
            self.terms = max(self.terms, certificate.said.term)
            most = self.case.family.most_terms
            if most and certificate.said.term > most:
                raise ViolationError(
                    "unseated",
                    f"term {certificate.said.term}, where nothing is wrong but a liar",
                )
            if self.world.telling:
                said = certificate.said
                self.world.tell(
                    "ratified",
                    f"is the first to have {said.index} ratified ({said.hash[:4].hex()}, "
                    f"term {said.term})",
                    node,
                )

    def _new_epoch(self, daemon: Daemon) -> None:
        council = daemon.ledger.council
        liars = {self.world.nodes[number].key.peer for number in self.roles.liars}
        liars |= {self.world.nodes[number].key.peer for number in self.roles.forgetful}
        lying_seats = sum(seat.identity in liars for seat in council.seats)
        self.world.tally["epoch"] += 1
        self.kit.audit.council(council, lying_seats)
        self.kit.audit.ended(council.epoch - 1, council.start)
        if self.world.telling:
            names = " ".join(self.world.name_of(seat.identity) for seat in council.seats)
            self.world.tell("epoch", f"epoch {council.epoch} begins: {names}")

    def _forgets(self, node: Node) -> None:
        """An amnesiac is a liar without wanting to be."""
        node.honest = False

    def _damaged(self, node: Node) -> None:
        self._harmed.add(node.number)
        self.history.spare(node)

    def _crashed(self, node: Node) -> None:
        self.kit.audit.crashed(node)
        if node.lost:
            self.history.spare(node)

    def _blamed(self, node: Node, blame: Blame) -> None:
        self.world.tally["blame"] += 1
        if self.world.telling:
            text = f"blames {self.world.name_of(blame.peer)}: {blame.why}"
            self.world.tell("blame", text, node)
        if node.honest and blame.fault == Fault.LIED and self._is_honest(blame.peer):
            name = self.world.name_of(blame.peer)
            raise ViolationError("honest-blamed", f"{node.name} blames {name}: {blame.why}")

    def _is_honest(self, peer: bytes) -> bool:
        return any(node.honest and node.key.peer == peer for node in self.world.nodes)

    def _emitted(self, node: Node, emit: Emit) -> None:
        self.world.tally[emit.kind] += 1
        if emit.kind == "council.lost-state" and node.honest and node.number not in self._harmed:
            raise ViolationError("lost-state", f"{node.name}, whose disk is whole: {emit.fields}")
        if emit.kind in ("ledger.stopped", "ledger.fork") and node.honest:
            raise ViolationError("stopped", f"{node.name} follows no longer: {emit.fields}")
        if self.world.telling and node.honest:
            self.world.tell("event", event(emit, self._spoken_of(emit)), node)

    def _spoken_of(self, emit: Emit) -> str:
        seat, epoch = emit.fields.get("leader"), emit.fields.get("epoch")
        council = self.history.councils.get(epoch) if isinstance(epoch, int) else None
        if council is None or not isinstance(seat, int):
            return "somebody"
        return self.world.name_of(council.seats[seat].identity)

    def _other(self, node: Node, effect: object) -> None:
        if isinstance(effect, Accuse):
            self._accused(node, effect.guilt)
        elif isinstance(effect, Settled):
            self.world.tally["settled" if effect.error is None else "unsettled"] += 1
        else:
            raise TypeError(f"nobody performs {effect!r}")

    def _accused(self, node: Node, guilt: Guilt) -> None:
        council = self.history.councils[guilt.epoch]
        peer = council.seats[guilt.seat].identity
        name = self.world.name_of(peer)
        if self._is_honest(peer):
            raise ViolationError("honest-accused", f"{node.name} accuses {name}: {guilt!r}")
        self.world.tally["guilt"] += 1
        self.world.tell("guilt", f"proves that {name} lied in epoch {guilt.epoch}", node)

    def outcome(self, check: str = "", text: str = "") -> Outcome:
        """How the run went."""
        case, world = self.case, self.world
        if check:
            world.tell("violation", f"{check}: {text}")
        return Outcome(
            family=case.family.name,
            seed=case.seed,
            members=case.size,
            check=check,
            text=text,
            command=case.command,
            at=world.now,
            events=world.heap.events,
            ratified=self.history.newest,
            terms=self.terms,
            epochs=len(self.history.councils),
            statements=self.kit.audit.statements,
            healed=self.healed,
            tally=dict(sorted(world.tally.items())),
            episodes=[episode.number for episode in self.plan],
        )
