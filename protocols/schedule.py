"""Who is asked for what in a pull: pure, one instance for each pull.

A pull's missing leaves are handed out as runs: contiguous leaves of one file, up to a tile. The
caller keeps a session with each peer, tells what the peer has (`heard`), asks for work for it
(`next_run`), and reports each leaf that arrived and verified (`arrived`) or a run that will
not (`failed`). All of it at a time `now`, in seconds of any steady clock.

1. *Rarest first* (BitTorrent; Cohen 2003): chunks that the fewest partial holders have come
   first. Equally rare ones in an order of our own, so that newcomers do not all start alike, nor
   two pulls of one daemon: each finds here what the other has brought (`found`).
2. *Size by speed*: a run is what the peer sends in RUN_SECONDS, and smaller near the end, so
   that all peers finish together (guided self-scheduling, Polychronopoulos and Kuck 1987).
3. *Near first*: a peer elsewhere is not asked for what one on the local network has.
4. *Sharing*: peers that pull the same thing at the same time are co-pullers. Where they are at
   least as many as the complete sources, each chunk is fetched from a source by one of them
   (its carrier, by rendezvous hashing, so nobody needs to agree), and by the others from it.
5. *Patience*: rules 3 and 4 bend for a source that has stood idle, in steps of a patience that
   halves with each use. A co-puller that is slow, lying or gone therefore delays, never stops.
6. *Endgame*: when all is handed out, what one peer is late with is also asked of an idle one
   that is quicker.
7. *Siblings*: pulls of one daemon write to one store, so what a sibling has in flight is waited
   for, not asked for: it arrives (`found`), or is free when the sibling's run has failed. Only
   what is in flight is waited for, and that has a timeout, so no two wait for each other. Where
   nothing else is left, rule 6 holds for a sibling's late run as well.

By rule 4 eight newcomers take each byte 1.0 to 1.1 times from their only source, where without it
they would take it eight times (tests/test_schedule_swarm.py).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from protocols.blocks import MAX_FETCH_LEAVES, Holding
from protocols.chunks import ChunkMap, Run, Spans
from protocols.pullpeer import Assignment, Peer, bytes_left
from protocols.rendezvous import cost
from protocols.tensorblock import SUBTILE, Layout

PATIENCE = 1.5
"""Seconds that a source stands idle before rules 3 and 4 bend: three polls of `have`."""
MIN_PATIENCE = 0.2
SLOW_RATE = 1e6
"""Bytes per second that a source is worth whose throughput nobody knows: a home's uplink. Below
half of what it is worth, what comes from others is too little to leave it idle."""
INFLOW_SECONDS = 2.0
"""That what comes from others is averaged over: five polls of `have`."""
COPY_FACTOR = 2
"""A run is asked of a second peer where the first will take so many times as long, and
COPY_SECONDS more: what it has sent of it by then is lost."""
COPY_SECONDS = 0.5

SCAN_BUDGET = 512
"""Chunks whose turn is considered for one request: more would stall the loop, and after so many
that are others' turn, waiting is cheaper."""
SCAN_SECONDS = 40e-6
"""Of looking again for each pending chunk and each run that a peer says it has, so that looking
takes a hundredth of the time, whatever peers say."""


def alone() -> Iterable["Schedule"]:
    """The siblings of a pull that has none."""
    return ()


class Schedule:
    """The missing leaves of a pull and the peers that may send them."""

    def __init__(
        self,
        me: bytes,
        files: Sequence[tuple[bytes, Layout]],
        wanted: Sequence[Sequence[Run]],
        *,
        order: int = 0,
        siblings: Callable[[], Iterable["Schedule"]] = alone,
    ) -> None:
        """`files` are (root, layout); `wanted[i]` are the runs of missing leaves of file i.

        Schedules of one daemon that run at a time have another `order` each (rule 1), and know
        of the others by `siblings` (rule 7), which share their clock.
        """
        self.me = me
        self._seed = (int.from_bytes(me[-8:], "big") | 1) + 2 * order
        self.peers: dict[bytes, Peer] = {}
        self.left_bytes = 0
        self._files = list(files)
        self._numbers = {root: number for number, (root, _) in enumerate(files)}
        self._siblings = siblings
        self._away: dict[int, int] = {}
        """Leaves of each chunk that siblings have in flight, as `next_run` last saw it."""
        self._map = ChunkMap([layout for _, layout in files])
        self._lacking: dict[int, int] = {}
        self._todo: dict[int, int] = {}
        for file, runs in enumerate(wanted):
            spans = Spans(runs)
            for lo, hi in runs:
                start, stop = files[file][1].run_span(lo, hi)
                self.left_bytes += stop - start
                for number in self._map.of_run(file, lo, hi):
                    self._todo[number] = spans.mask(self._map.chunks[number])
        self._lacking.update(self._todo)
        self._todo_bytes = self.left_bytes
        self._noise = {k: self._noise_of(k) for k in self._todo}
        self._order: list[int] = []
        self._order_at = float("-inf")
        self._order_cost = 0
        self._dirty = True
        self._turns: dict[tuple[int, bool, bool], int] = {}
        self._costs: dict[tuple[int, bytes], tuple[int, bytes]] = {}
        self._patience = PATIENCE
        self._flow, self._flow_at = 0.0, 0.0

    # -- what the caller tells --------------------------------------------------------------

    def add_peer(self, peer: bytes, *, local: bool, rate: float = 0.0) -> Peer:
        """A peer that may be asked; `rate` is its throughput where the peer book knows it."""
        record = Peer(peer, local, rate)
        self.peers[peer] = record
        self._changed()
        return record

    def drop_peer(self, peer: bytes) -> None:
        """A peer that is asked no more; what it was to send is handed out again."""
        record = self.peers.pop(peer, None)
        if record is not None:
            for run in list(record.runs):
                self._hand_back(run)
            self._changed()

    def heard(self, peer: bytes, file: int, holding: Holding) -> bool:
        """What a peer says of one file; whether that is news."""
        record = self.peers[peer]
        leaves = self._files[file][1].leaf_count
        held = Spans([(0, leaves)] if holding.complete and leaves else holding.held)
        wants = Spans(holding.wants) if holding.wants else None
        old = (record.held.get(file), file in record.wants, record.wants.get(file))
        if old == (held, holding.pulling, wants if holding.pulling else None):
            return False
        record.complete[file] = holding.complete
        record.held[file] = held
        record.wants.pop(file, None)
        if holding.pulling and not holding.complete:
            record.wants[file] = wants
        record.masks.clear()
        self._changed()
        return True

    def arrived(self, run: Assignment, now: float) -> None:
        """The next leaf of `run` is here and verified."""
        leaf, run.next = run.next, run.next + 1
        start, stop = self._files[run.file][1].leaf_span(leaf)
        self._settle(run.file, leaf, stop - start)
        self._flow = self._inflow(now) + (stop - start) / INFLOW_SECONDS
        peer = self.peers.get(run.peer)
        if peer is None:
            return
        peer.bytes += stop - start
        peer.leaves += 1
        if run.next == run.hi:
            peer.runs.remove(run)
        peer.sampled(stop - start, now)

    def found(self, file: int, leaf: int) -> bool:
        """`leaf` came from somewhere else; whether it was lacking."""
        lacked = not self.have(file, leaf)
        if lacked:
            start, stop = self._files[file][1].leaf_span(leaf)
            self._settle(file, leaf, stop - start)
        return lacked

    def have(self, file: int, leaf: int) -> bool:
        """Whether `leaf` is not lacking (any more): a copy of it may be thrown away."""
        number = self._map.of_leaf(file, leaf)
        return not self._lacking.get(number, 0) >> (leaf - self._map.chunks[number].lo) & 1

    def failed(self, run: Assignment) -> None:
        """The rest of `run` will not come (a refusal); it is handed out again."""
        peer = self.peers.get(run.peer)
        if peer is not None and run in peer.runs:
            peer.runs.remove(run)
            self._hand_back(run)

    # -- what the caller asks ---------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is lacking."""
        return not self._lacking

    def recheck_after(self) -> float:
        """Seconds after which a peer without work should be asked about again."""
        return min(1.0, max(0.05, SCAN_SECONDS * len(self._todo)))

    def timeout(self, peer: bytes) -> float:
        """Seconds within which the next leaf must come from `peer`."""
        return self.peers[peer].timeout()

    def lacking(self, limit: int = 8) -> list[tuple[int, Run]]:
        """The first runs (file, [lo, hi)) that are lacking, for an error to name."""
        out: list[tuple[int, Run]] = []
        for number in sorted(self._lacking)[:limit]:
            chunk = self._map.chunks[number]
            out += [(chunk.file, run) for run in _runs(self._lacking[number], chunk.lo)]
        return out[:limit]

    def next_run(self, peer: bytes, now: float) -> Assignment | None:
        """What to ask `peer` for next, or None: nothing yet, or enough is in flight."""
        record = self.peers[peer]
        if len(record.runs) >= record.depth():
            return None
        self._sort(now)
        self._away = self._masks_of((file, run) for file, _, run in self._elsewhere())
        run = (
            self._pick(record, now) or self._copy_late(record, now) or self._take_over(record, now)
        )
        if run is None:
            if not record.runs and record.idle_since is None:
                record.idle_since = now
            return None
        if not record.runs:
            record.sample_at, record.sample_bytes, record.moved_at = now, 0, now
        record.idle_since = None
        record.runs.append(run)
        return run

    # -- choosing ---------------------------------------------------------------------------

    def _pick(self, peer: Peer, now: float) -> Assignment | None:
        steps = self._steps(peer, now)
        budget = SCAN_BUDGET
        for number in self._order:
            mask = self._free(peer, number)
            if not mask:
                continue
            turn = self._turn(peer, number)
            if turn <= steps:
                if turn:
                    self._patience = max(MIN_PATIENCE, self._patience / 2)
                return self._assign(peer, number, mask, steps)
            budget -= 1
            if not budget:
                break
        return None

    def _steps(self, peer: Peer, now: float) -> int:
        """How far rules 3 and 4 bend for `peer` (rule 5): not while enough comes from others."""
        if peer.idle_since is None or self._inflow(now) > max(peer.rate, SLOW_RATE) / 2:
            return 0
        return int((now - peer.idle_since) / self._patience)

    def _inflow(self, now: float) -> float:
        """Bytes per second that arrive from everybody, averaged over INFLOW_SECONDS."""
        self._flow *= math.exp((self._flow_at - now) / INFLOW_SECONDS)
        self._flow_at = max(now, self._flow_at)
        return self._flow

    def _assign(self, peer: Peer, number: int, mask: int, steps: int) -> Assignment:
        """Take the first run of `mask`, go on into the chunks behind it, and note it as flying."""
        chunk = self._map.chunks[number]
        layout = self._files[chunk.file][1]
        near_end = self._todo_bytes // (2 * max(1, len(self.peers)))
        target = max(SUBTILE, min(peer.target(), near_end))
        first = lo = chunk.lo + (mask & -mask).bit_length() - 1
        size = 0
        while True:
            start, stop = layout.leaf_span(lo)
            if size and (size + stop - start > target or lo - first >= MAX_FETCH_LEAVES):
                break
            size += stop - start
            mask &= ~(1 << (lo - chunk.lo))
            self._todo[number] &= ~(1 << (lo - chunk.lo))
            lo += 1
            if lo == chunk.hi:
                number += 1
                behind = self._map.chunks[number] if number < len(self._map.chunks) else None
                if behind is None or behind.file != chunk.file:
                    break
                chunk = behind
                mask = self._free(peer, number)
                if mask and self._turn(peer, number) > steps:
                    break
            if not mask >> (lo - chunk.lo) & 1:
                break
        self._todo_bytes -= size
        return Assignment(peer.peer, chunk.file, first, lo, size, first)

    def _copy_late(self, peer: Peer, now: float) -> Assignment | None:
        """Rule 6: the rest of the run that is latest at another peer, where `peer` is quicker."""
        if peer.runs or not peer.rate or not self._all_handed_out():
            return None
        latest, most = None, COPY_SECONDS
        for other in self.peers.values():
            for run in other.runs:
                late = _lateness(other, run, peer.rate, now)
                if late > most and not run.copied and self._may_copy(peer, run):
                    latest, most = run, late
        if latest is None:
            return None
        latest.copied = True
        # Exactly, since the answer's length is held against it: leaves differ in size.
        start, stop = self._files[latest.file][1].run_span(latest.next, latest.hi)
        return Assignment(
            peer.peer, latest.file, latest.next, latest.hi, stop - start, latest.next, copied=True
        )

    def _take_over(self, peer: Peer, now: float) -> Assignment | None:
        """Rules 6 and 7: what a sibling's peer is late with counts as free, for a quicker one.

        Also for one that never sent anything: all that it has may be in flight at the sibling.
        """
        if peer.runs or not self._away:
            return None
        rate = peer.rate or SLOW_RATE
        flying = list(self._elsewhere())
        waited_for = [
            (file, run)
            for file, other, run in flying
            if other.peer == peer.peer or _lateness(other, run, rate, now) <= COPY_SECONDS
        ]
        if len(waited_for) == len(flying):
            return None
        self._away = self._masks_of(waited_for)
        return self._pick(peer, now)

    def _turn(self, peer: Peer, number: int) -> int:
        """Steps of patience before `peer` may be asked for a chunk; 0 is at once (rules 3, 4)."""
        key = (number, peer.local, self._map.chunks[number].file in peer.wants)
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = self._turn_of(*key)
        return turn

    def _turn_of(self, number: int, local: bool, pulling: bool) -> int:
        file, lacking = self._map.chunks[number].file, self._lacking[number]
        has = {peer: bool(self._mask(peer, number) & lacking) for peer in self.peers.values()}
        if not local and any(peer.local for peer, it in has.items() if it):
            return 2
        if pulling:
            return 0
        house = [peer for peer in has if peer.local and file in peer.wants]
        crew = house or [peer for peer in has if not local and file in peer.wants]
        sources = sum(it for peer, it in has.items() if peer.local == local and peer not in crew)
        if not crew or (len(crew) < sources and (local or not house)):
            return 0
        if any(has[peer] for peer in crew):
            return 2
        return self._place(number, [peer.peer for peer in crew if self._wants(peer, number)])

    def _place(self, number: int, others: list[bytes]) -> int:
        """Our place among those who may carry a chunk; 0 is the carrier."""
        ours = self._cost(number, self.me)
        return sum(self._cost(number, other) < ours for other in others)

    def _cost(self, number: int, peer: bytes) -> tuple[int, bytes]:
        """What `peer` is ranked by as a chunk's carrier, least first."""
        found = self._costs.get((number, peer))
        if found is None:
            chunk = self._map.chunks[number]
            name = self._files[chunk.file][0] + chunk.lo.to_bytes(4, "big")
            found = self._costs[(number, peer)] = (cost(name, peer, 1), peer)
        return found

    # -- siblings ---------------------------------------------------------------------------

    def _elsewhere(self) -> Iterator[tuple[int, Peer, Assignment]]:
        """Siblings' runs of our files: our number of the file, who was asked, and for what."""
        for sibling in self._siblings():
            for peer in sibling.peers.values():
                for run in peer.runs:
                    file = self._numbers.get(sibling._files[run.file][0])
                    if file is not None:
                        yield file, peer, run

    def _masks_of(self, runs: Iterable[tuple[int, Assignment]]) -> dict[int, int]:
        """What is still to come of `runs`, each with our number of its file, by chunk."""
        masks: dict[int, int] = {}
        for file, run in runs:
            coming = Spans([(run.next, run.hi)])
            for number in self._map.of_run(file, run.next, run.hi):
                masks[number] = masks.get(number, 0) | coming.mask(self._map.chunks[number])
        return masks

    def _free(self, peer: Peer, number: int) -> int:
        """The leaves of a chunk that `peer` has and that were asked of nobody."""
        mask = self._todo.get(number, 0) & ~self._away.get(number, 0)
        return mask and mask & self._mask(peer, number)

    def _all_handed_out(self) -> bool:
        """Whether all that is lacking was asked for, here or by siblings."""
        return not self._todo_bytes or not any(
            mask & ~self._away.get(number, 0) for number, mask in self._todo.items()
        )

    # -- bookkeeping ------------------------------------------------------------------------

    def _changed(self) -> None:
        self._turns.clear()
        self._dirty = True

    def _noise_of(self, number: int) -> int:
        """Our own order of equally rare chunks: runs of four stay together (a tile)."""
        return (number // 4 + 1) * 0x9E3779B97F4A7C15 * self._seed & 0xFFFFFFFFFFFFFFFF

    def _sort(self, now: float) -> None:
        if not self._dirty or now - self._order_at < SCAN_SECONDS * self._order_cost:
            return
        self._dirty, self._order_at = False, now
        counts = self._counts()
        self._order_cost = len(self._todo) + self._spans_said()
        self._order = sorted(
            (number for number, mask in self._todo.items() if mask),
            key=lambda number: (counts[number], self._noise[number], number),
        )

    def _spans_said(self) -> int:
        partial = (
            spans
            for peer in self.peers.values()
            for file, spans in peer.held.items()
            if not peer.complete[file]
        )
        return sum(map(len, partial))

    def _counts(self) -> list[int]:
        """How many partial holders have each chunk; complete ones have all alike."""
        steps = [0] * (len(self._map.chunks) + 1)
        for peer in self.peers.values():
            for file, spans in peer.held.items():
                if peer.complete[file]:
                    continue
                for lo, hi in spans:
                    whole = self._map.whole(file, lo, hi)
                    steps[whole.start] += 1
                    steps[whole.stop] -= 1
        return list(_sums(steps))

    def _mask(self, peer: Peer, number: int) -> int:
        mask = peer.masks.get(number)
        if mask is None:
            chunk = self._map.chunks[number]
            spans = peer.held.get(chunk.file)
            mask = peer.masks[number] = spans.mask(chunk) if spans is not None else 0
        return mask

    def _may_copy(self, peer: Peer, run: Assignment) -> bool:
        """Whether `peer` has what is left of another's run, and no sibling took any of it over."""
        held = peer.held.get(run.file)
        if held is None or not held.covers(run.next, run.hi):
            return False
        left = self._masks_of([(run.file, run)])
        return not any(mask & self._away.get(number, 0) for number, mask in left.items())

    def _wants(self, peer: Peer, number: int) -> bool:
        """Whether a co-puller wants something of a chunk that it has not got."""
        chunk = self._map.chunks[number]
        wants = peer.wants[chunk.file]
        wanted = chunk.all if wants is None else wants.mask(chunk)
        return bool(wanted & ~self._mask(peer, number))

    def _settle(self, file: int, leaf: int, size: int) -> None:
        """One leaf is no longer lacking."""
        number = self._map.of_leaf(file, leaf)
        bit = 1 << (leaf - self._map.chunks[number].lo)
        if not self._lacking.get(number, 0) & bit:
            return
        self.left_bytes -= size
        if self._todo.get(number, 0) & bit:
            self._todo[number] &= ~bit
            self._todo_bytes -= size
        self._lacking[number] &= ~bit
        if not self._lacking[number]:
            del self._lacking[number]
            self._todo.pop(number, None)

    def _hand_back(self, run: Assignment) -> None:
        """What is lacking of a run, and in no other, is to be done again."""
        flying: set[int] = set()
        for other in (its for peer in self.peers.values() for its in peer.runs):
            if (
                other is not run
                and other.file == run.file
                and other.next < run.hi
                and run.next < other.hi
            ):
                flying.update(range(other.next, other.hi))
                other.copied = False
        for leaf in range(run.next, run.hi):
            number = self._map.of_leaf(run.file, leaf)
            bit = 1 << (leaf - self._map.chunks[number].lo)
            if leaf not in flying and self._lacking.get(number, 0) & bit:
                self._todo[number] = self._todo.get(number, 0) | bit
                start, stop = self._files[run.file][1].leaf_span(leaf)
                self._todo_bytes += stop - start
        self._dirty = True


def _lateness(peer: Peer, run: Assignment, rate: float, now: float) -> float:
    """Seconds that `run`, one of `peer`'s, takes longer than a copy at `rate` is allowed to."""
    return peer.seconds_to(run, now) - COPY_FACTOR * bytes_left(run) / rate


def _runs(mask: int, base: int) -> Iterator[Run]:
    """The runs of ones in `mask`, counted from `base`."""
    at = 0
    while mask >> at:
        if mask >> at & 1:
            lo = at
            while mask >> at & 1:
                at += 1
            yield base + lo, base + at
        else:
            at += 1


def _sums(steps: Sequence[int]) -> Iterator[int]:
    total = 0
    for step in steps:
        total += step
        yield total
