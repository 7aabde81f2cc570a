"""A swarm in virtual time: many pulls by protocols/transfer/schedule.py over shaped uploads.

Time goes in steps. In each, every uploader sends what its rate allows, a sub-tile's worth at a
time, in turn to the peers that wait for it: what the real server does with its limiter. Peers
hear each other's holdings every POLL seconds. Nothing is random.
"""

from collections import deque
from collections.abc import Callable

from protocols.tensors.blocks import Holding
from protocols.tensors.chunks import Run
from protocols.tensors.tensorblock import SUBTILE, Layout
from protocols.transfer.pullpeer import Assignment
from protocols.transfer.schedule import Schedule

STEP = 0.02
POLL = 0.4
ROOT = bytes(range(32))


def runs_of(leaves: set[int]) -> list[Run]:
    """Sorted runs of a set of leaves."""
    runs: list[Run] = []
    for leaf in sorted(leaves):
        if runs and runs[-1][1] == leaf:
            runs[-1] = (runs[-1][0], leaf + 1)
        else:
            runs.append((leaf, leaf + 1))
    return runs


class Daemon:
    """One peer: what it holds, what it uploads, and perhaps a pull of its own."""

    def __init__(self, number: int, layout: Layout, held: set[int], rate: float) -> None:
        self.name = bytes([number]) * 38
        self.layout = layout
        self.held = held
        self.rate = rate
        self.sent = 0
        self.silent = False
        """It stops sending."""
        self.frozen = False
        """It says that it pulls, and does nothing."""
        self.pull: Schedule | None = None
        self.starts_at = 0.0
        self._credit = 0.0
        self._turn: deque[bytes] = deque()
        self.queues: dict[bytes, deque[Assignment]] = {}

    def holding(self) -> Holding:
        return Holding(
            held=tuple(runs_of(self.held)),
            complete=len(self.held) == self.layout.leaf_count,
            pulling=self.pull is not None and not self.pull.finished,
            wants=(),
        )

    def ask(self, run: Assignment, who: bytes) -> None:
        self.queues.setdefault(who, deque()).append(run)
        if who not in self._turn:
            self._turn.append(who)

    def upload(self, deliver: Callable[[bytes, Assignment], None]) -> None:
        """Send what one step allows."""
        if self.silent:
            return
        self._credit = min(self._credit + self.rate * STEP, self.rate * STEP + SUBTILE)
        while self._turn:
            who = self._turn.popleft()
            queue = self.queues[who]
            if not queue:
                continue
            run = queue[0]
            start, stop = self.layout.leaf_span(run.next)
            if self._credit < stop - start:
                self._turn.appendleft(who)
                return
            self._credit -= stop - start
            self.sent += stop - start
            last = run.next + 1 == run.hi
            deliver(who, run)
            if last:
                queue.popleft()
            if queue:
                self._turn.append(who)


class Swarm:
    """All daemons, and the clock. `far(a, b)` says who are not on one local network.

    `blind` newcomers neither see nor serve each other: what sharing is compared with.
    """

    def __init__(
        self,
        daemons: list[Daemon],
        far: Callable[[bytes, bytes], bool] = lambda a, b: False,
        *,
        blind: bool = False,
    ) -> None:
        self.daemons = {daemon.name: daemon for daemon in daemons}
        self.far = far
        self.blind = blind
        self.now = 0.0
        self.copies = 0
        self.watch: Callable[[bytes, int], None] = lambda who, leaf: None
        self._plans: list[tuple[float, Callable[[], None]]] = []
        self._heard_at: dict[tuple[bytes, bytes], float] = {}

    def start(self, daemon: Daemon, at: float = 0.0) -> None:
        daemon.starts_at = at
        missing = runs_of(set(range(daemon.layout.leaf_count)) - daemon.held)
        daemon.pull = Schedule(daemon.name, [(ROOT, daemon.layout)], [missing])

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Do something at a moment of the run."""
        self._plans.append((when, do))

    def run(self, until: float = 120.0, besides: Daemon | None = None) -> float:
        """Run until every pull (but that of `besides`) is finished; the time it took."""
        step = 0
        pulling = [d for d in self.daemons.values() if d.pull is not None and d is not besides]
        while not all(d.pull.finished for d in pulling if d.pull is not None):
            assert self.now < until, f"not finished after {until} s"
            while self._plans and self._plans[0][0] <= self.now:
                self._plans.pop(0)[1]()
            if step % round(POLL / STEP) == 0:
                self._poll()
            for daemon in self.daemons.values():
                self._work(daemon)
            for daemon in self.daemons.values():
                daemon.upload(self._deliver)
            step += 1
            self.now = step * STEP
        return self.now

    def _poll(self) -> None:
        for daemon in self.daemons.values():
            if daemon.pull is None or daemon.starts_at > self.now:
                continue
            for other in self.daemons.values():
                if other is daemon or other.starts_at > self.now or (self.blind and other.pull):
                    continue
                if (daemon.name, other.name) not in self._heard_at:
                    daemon.pull.add_peer(other.name, local=not self.far(daemon.name, other.name))
                    self._heard_at[daemon.name, other.name] = self.now
                if other.name in daemon.pull.peers:
                    daemon.pull.heard(other.name, 0, other.holding())

    def _work(self, daemon: Daemon) -> None:
        if daemon.pull is None or daemon.starts_at > self.now or daemon.frozen:
            return
        for name in list(daemon.pull.peers):
            if not daemon.pull.peers[name].runs:
                self._heard_at[daemon.name, name] = self.now
            elif self.now - self._heard_at[daemon.name, name] > daemon.pull.timeout(name):
                daemon.pull.drop_peer(name)
                continue
            while run := daemon.pull.next_run(name, self.now):
                self.daemons[name].ask(run, daemon.name)

    def _deliver(self, who: bytes, run: Assignment) -> None:
        daemon = self.daemons[who]
        assert daemon.pull is not None
        self._heard_at[who, run.peer] = self.now
        self.copies += daemon.pull.have(0, run.next)
        self.watch(who, run.next)
        daemon.held.add(run.next)
        daemon.pull.arrived(run, self.now)
