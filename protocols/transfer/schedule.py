"""Who is asked for what in a pull: pure, one instance for each pull.

A pull's missing leaves are handed out as runs: contiguous leaves of one file, up to a tile. The
caller keeps a session with each peer, tells what the peer has (`heard`), asks for work for it
(`next_run`), and reports each leaf that arrived and verified (`arrived`) or a run that will
not (`failed`). All of it at a time `now`, in seconds of any steady clock.

Which chunk is asked for first, and of whom, is a policy that an upgrade may replace: the slot
`tile_assignment`, asked for all pending chunks in one batch (protocols/transfer/pullorder.py). Its
reference:

1. *Rarest first* (BitTorrent; Cohen 2003): chunks that the fewest partial holders have come
   first. Equally rare ones in an order of our own, so that newcomers do not all start alike, nor
   two pulls of one daemon: each finds here what the other has brought (`found`).
2. *Near first*: a peer elsewhere is not asked for what one on the local network has.
3. *Sharing*: peers that pull the same thing at the same time are co-pullers. Where they are at
   least as many as the complete sources, each chunk is fetched from a source by one of them
   (its carrier, by rendezvous hashing, so nobody needs to agree), and by the others from it.

The rest is the schedule's own, so that a bad policy delays and never stops:

4. *Size by speed*: a run is what the peer sends in RUN_SECONDS, and smaller near the end, so
   that all peers finish together (guided self-scheduling, Polychronopoulos and Kuck 1987).
5. *Patience*: whom the policy would not ask yet is asked once it has stood idle, in steps of a
   patience that halves with each use. A co-puller that is slow, lying or gone therefore delays,
   never stops.
6. *Endgame*: when all is handed out, what one peer is late with is also asked of an idle one
   that is quicker.
7. *Siblings*: pulls of one daemon write to one store, so what a sibling has in flight is waited
   for, not asked for: it arrives (`found`), or is free when the sibling's run has failed. Only
   what is in flight is waited for, and that has a timeout, so no two wait for each other. Where
   nothing else is left, rule 6 holds for a sibling's late run as well.

By rule 3 eight newcomers take each byte 1.0 to 1.1 times from their only source, where without it
they would take it eight times (tests/test_schedule_swarm.py).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from protocols.slots.abi import Batch
from protocols.slots.tile_assignment import SLOT
from protocols.tensors.blocks import MAX_FETCH_LEAVES, Holding
from protocols.tensors.chunks import Run, Spans
from protocols.tensors.lacking import Lacking
from protocols.tensors.tensorblock import SUBTILE, Layout
from protocols.transfer.pullorder import SCAN_SECONDS, Make, Ordering, own_batch
from protocols.transfer.pullpeer import Assignment, Peer, bytes_left

PATIENCE = 1.5
"""Seconds that a source stands idle before it is asked all the same: three polls of `have`."""
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
        self.peers: dict[bytes, Peer] = {}
        self._files = list(files)
        self._numbers = {root: number for number, (root, _) in enumerate(files)}
        self._siblings = siblings
        self._away: dict[int, int] = {}
        """Leaves of each chunk that siblings have in flight, as `next_run` last saw it."""
        self._lacking = Lacking([layout for _, layout in files], wanted)
        seed = (int.from_bytes(me[-8:], "big") | 1) + 2 * order
        self._ordering = Ordering(me, [root for root, _ in files], self._lacking.map, seed)
        self._patience = PATIENCE
        self._flow, self._flow_at = 0.0, 0.0

    # -- what the caller tells --------------------------------------------------------------

    def add_peer(self, peer: bytes, *, local: bool, rate: float = 0.0) -> Peer:
        """A peer that may be asked; `rate` is its throughput where the peer book knows it."""
        record = Peer(peer, local, rate)
        self.peers[peer] = record
        self._ordering.changed()
        return record

    def drop_peer(self, peer: bytes) -> None:
        """A peer that is asked no more; what it was to send is handed out again."""
        record = self.peers.pop(peer, None)
        if record is not None:
            for run in list(record.runs):
                self._hand_back(run)
            self._ordering.forget(peer)
            self._ordering.changed()

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
        self._ordering.changed(newcomer=old[0] is None)
        return True

    def arrived(self, run: Assignment, now: float) -> None:
        """The next leaf of `run` is here and verified."""
        leaf, run.next = run.next, run.next + 1
        start, stop = self._files[run.file][1].leaf_span(leaf)
        self._lacking.settle(run.file, leaf)
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
        return self._lacking.settle(file, leaf)

    def have(self, file: int, leaf: int) -> bool:
        """Whether `leaf` is not lacking (any more): a copy of it may be thrown away."""
        return not self._lacking.lacks(file, leaf)

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
        return not self._lacking.left

    @property
    def left_bytes(self) -> int:
        """Bytes that are lacking."""
        return self._lacking.left_bytes

    def recheck_after(self) -> float:
        """Seconds after which a peer without work should be asked about again."""
        return min(1.0, max(0.05, SCAN_SECONDS * len(self._lacking.free)))

    def timeout(self, peer: bytes) -> float:
        """Seconds within which the next leaf must come from `peer`."""
        return self.peers[peer].timeout()

    def lacking(self, limit: int = 8) -> list[tuple[int, Run]]:
        """The first runs (file, [lo, hi)) that are lacking, for an error to name."""
        return self._lacking.first(limit)

    def next_run(self, peer: bytes, now: float) -> Assignment | None:
        """What to ask `peer` for next, or None: nothing yet, or enough is in flight."""
        record = self.peers[peer]
        if len(record.runs) >= record.depth():
            return None
        self._look(now)
        self._away = self._still_to_come((file, run) for file, _, run in self._elsewhere())
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

    def wants_order(self, now: float, make: Make = own_batch) -> Batch | None:
        """The batch of the slot to be answered and given to `ordered`, where it is time to look
        at all chunks again and no answer is awaited. `make` makes an empty one."""
        if self._ordering.asked or not self._ordering.due(now):
            return None
        return self._ask(now, make)

    def ordered(self, batch: Batch) -> None:
        """The batch that was asked for is answered."""
        self._ordering.take(batch)

    def unanswered(self, batch: Batch) -> None:
        """The batch that was asked for, if it still is, will not be answered: ask again."""
        self._ordering.give_up(batch)

    # -- choosing ---------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Where nobody asked `wants_order`, or nobody answers, the reference does."""
        if self._ordering.overdue(now) or (self._ordering.due(now) and not self._ordering.asked):
            batch = self._ask(now, own_batch)
            SLOT.reference(batch)
            self._ordering.take(batch)

    def _ask(self, now: float, make: Make) -> Batch:
        context = {"left": self.left_bytes, "flow": int(self._inflow(now))}
        return self._ordering.ask(
            make,
            now,
            self.peers.values(),
            lacking=self._lacking.left,
            todo=self._lacking.free,
            context=context,
        )

    def _pick(self, peer: Peer, now: float) -> Assignment | None:
        steps = self._steps(peer, now)
        budget = SCAN_BUDGET
        for number in self._ordering.numbers:
            mask = self._free(peer, number)
            if not mask:
                continue
            turn = self._ordering.steps(peer.peer, number)
            if turn <= steps:
                if turn:
                    self._patience = max(MIN_PATIENCE, self._patience / 2)
                return self._assign(peer, number, mask, steps)
            budget -= 1
            if not budget:
                break
        return None

    def _steps(self, peer: Peer, now: float) -> int:
        """How far the policy bends for `peer` (rule 5): not while enough comes from others."""
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
        chunks = self._lacking.map.chunks
        chunk = chunks[number]
        layout = self._files[chunk.file][1]
        near_end = self._lacking.free_bytes // (2 * max(1, len(self.peers)))
        target = max(SUBTILE, min(peer.target(), near_end))
        first = lo = chunk.lo + (mask & -mask).bit_length() - 1
        size = 0
        while True:
            start, stop = layout.leaf_span(lo)
            if size and (size + stop - start > target or lo - first >= MAX_FETCH_LEAVES):
                break
            size += stop - start
            mask &= ~(1 << (lo - chunk.lo))
            self._lacking.take(number, lo)
            lo += 1
            if lo == chunk.hi:
                number += 1
                if number == len(chunks) or chunks[number].file != chunk.file:
                    break
                chunk = chunks[number]
                mask = self._free(peer, number)
                if mask and self._ordering.steps(peer.peer, number) > steps:
                    break
            if not mask >> (lo - chunk.lo) & 1:
                break
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
        self._away = self._still_to_come(waited_for)
        return self._pick(peer, now)

    # -- siblings ---------------------------------------------------------------------------

    def _elsewhere(self) -> Iterator[tuple[int, Peer, Assignment]]:
        """Siblings' runs of our files: our number of the file, who was asked, and for what."""
        for sibling in self._siblings():
            for peer in sibling.peers.values():
                for run in peer.runs:
                    file = self._numbers.get(sibling._files[run.file][0])
                    if file is not None:
                        yield file, peer, run

    def _still_to_come(self, runs: Iterable[tuple[int, Assignment]]) -> dict[int, int]:
        """Of `runs`, each with our number of its file, by chunk."""
        return self._lacking.masks_of((file, (run.next, run.hi)) for file, run in runs)

    def _free(self, peer: Peer, number: int) -> int:
        """The leaves of a chunk that `peer` has and that were asked of nobody."""
        mask = self._lacking.free.get(number, 0) & ~self._away.get(number, 0)
        return mask and mask & self._mask(peer, number)

    def _all_handed_out(self) -> bool:
        """Whether all that is lacking was asked for, here or by siblings."""
        return not self._lacking.free_bytes or not any(
            mask & ~self._away.get(number, 0) for number, mask in self._lacking.free.items()
        )

    # -- bookkeeping ------------------------------------------------------------------------

    def _mask(self, peer: Peer, number: int) -> int:
        mask = peer.masks.get(number)
        if mask is None:
            chunk = self._lacking.map.chunks[number]
            spans = peer.held.get(chunk.file)
            mask = peer.masks[number] = spans.mask(chunk) if spans is not None else 0
        return mask

    def _may_copy(self, peer: Peer, run: Assignment) -> bool:
        """Whether `peer` has what is left of another's run, and no sibling took any of it over."""
        held = peer.held.get(run.file)
        if held is None or not held.covers(run.next, run.hi):
            return False
        left = self._still_to_come([(run.file, run)])
        return not any(mask & self._away.get(number, 0) for number, mask in left.items())

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
        leaves = (leaf for leaf in range(run.next, run.hi) if leaf not in flying)
        self._lacking.hand_back(run.file, leaves)
        self._ordering.changed()


def _lateness(peer: Peer, run: Assignment, rate: float, now: float) -> float:
    """Seconds that `run`, one of `peer`'s, takes longer than a copy at `rate` is allowed to."""
    return peer.seconds_to(run, now) - COPY_FACTOR * bytes_left(run) / rate
