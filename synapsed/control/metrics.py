"""Prometheus text of the node's counters. The metrics are listed in docs/cli.md.

Everything is read when asked for: the node counts in plain integers and knows no Prometheus.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from synapsed.control.families import counter, gauge, gauges, single
from synapsed.control.learnmetrics import training_families
from synapsed.control.ledgermodels import LedgerCounters
from synapsed.control.meters import MessageMeter
from synapsed.control.models import Counters
from synapsed.process.metrics import ProcessReading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _NodeCollector(Collector):
    """One reading of the node, as metric families."""

    def __init__(
        self,
        counters: Counters,
        meter: MessageMeter,
        events: Mapping[str, int],
        usage: ProcessReading,
    ) -> None:
        self._counters, self._meter, self._events, self._usage = counters, meter, events, usage

    def collect(self) -> Iterable[Metric]:
        yield from self._traffic()
        yield from self._swarm()
        if self._counters.ledger is not None:
            yield from _log(self._counters.ledger)
            yield from _consensus(self._counters.ledger)
        if self._counters.training is not None:
            yield from training_families(self._counters.training)
        yield from self._process()

    def _traffic(self) -> Iterator[Metric]:
        seen, counters = self._meter.totals, self._counters
        yield counter("messages", "Messages, by direction and kind.", ("direction", "kind"), seen)
        yield gauge("messages_per_second", "Over the last 10 s.", self._meter.rate())
        traffic = {("in",): counters.bytes_received, ("out",): counters.bytes_sent}
        yield counter("network_bytes", "Bytes, by direction.", ("direction",), traffic)
        yield counter("events", "Events, by kind.", ("kind",), single(self._events))

    def _swarm(self) -> Iterator[Metric]:
        counters = self._counters
        peers = {("in",): counters.connected_in, ("out",): counters.connected_out}
        yield gauges("peers", "Connected peers, by who dialled.", ("direction",), peers)
        yield gauge("live_daemons", "Daemons whose heartbeat is in force.", counters.live)
        catalog = single(counters.catalog)
        yield gauges("catalog", "Live announcements, by kind.", ("kind",), catalog)
        yield gauge("store_bytes", "Disk that the store takes.", counters.store.used)
        yield gauge("store_quota_bytes", "Disk that it may take.", counters.store.quota)
        yield gauge("pulls_active", "Pulls under way.", counters.pulls_active)
        pulls = {("done",): counters.pulls_done, ("failed",): counters.pulls_failed}
        yield counter("pulls", "Pulls that ended, by outcome.", ("outcome",), pulls)
        faults = single(counters.faults)
        yield counter("peer_faults", "Faults of peers, by name.", ("fault",), faults)

    def _process(self) -> Iterator[Metric]:
        usage, lag = self._usage, self._counters.loop_lag_ms
        yield counter("cpu_seconds", "CPU time of the daemon.", (), {(): usage.cpu_seconds})
        yield gauge("cpu_share", "Share of one core, lately.", usage.cpu_share)
        yield gauge("resident_bytes", "Resident memory.", usage.rss)
        yield gauge("threads", "Threads.", usage.threads)
        yield gauge("open_files", "Open file descriptors.", usage.open_files)
        if usage.cgroup is not None and usage.cgroup.memory is not None:
            yield gauge("cgroup_memory_bytes", "Memory of its cgroup.", usage.cgroup.memory)
        if usage.cgroup is not None and usage.cgroup.cpu_seconds is not None:
            spent = {(): usage.cgroup.cpu_seconds}
            yield counter("cgroup_cpu_seconds", "CPU time of its cgroup.", (), spent)
        lags = _quantiles({name: value / 1e3 for name, value in lag.items()})
        yield gauges("loop_lag_seconds", "Passes of the event loop.", ("quantile",), lags)


def _log(ledger: LedgerCounters) -> Iterator[Metric]:
    """What the ratified log says: the same on every daemon that has as much of it."""
    yield gauge("ledger_index", "Of the newest ratified entry.", ledger.index)
    yield gauge("ledger_epoch", "The epoch.", ledger.epoch)
    yield gauge("ledger_time_seconds", "The ledger's time.", ledger.time)
    yield gauges("proposals", "By state.", ("state",), single(ledger.proposals))
    closed = ledger.proposals.get("accepted", 0) + ledger.proposals.get("rejected", 0)
    if closed:
        rate = ledger.proposals.get("accepted", 0) / closed
        yield gauge("proposal_approval_rate", "Accepted, of those closed.", rate)
    text = "From a proposal to its outcome, by the ledger."
    decided = SummaryMetricFamily("synapsed_decision_seconds", text)
    decided.add_metric((), closed, ledger.decision_s)
    yield decided
    yield gauge("council_seats", "Seats of the council.", ledger.seats)
    changed = {(): float(ledger.seats_changed)}
    yield counter("council_seats_changed", "Seats that epochs gave to others.", (), changed)
    yield counter("council_epochs", "Epochs that ended.", (), {(): ledger.epochs})
    yield counter("council_guilt", "Members proven guilty.", (), {(): ledger.guilt})
    if ledger.epochs and ledger.seats:
        rotation = ledger.seats_changed / ledger.epochs / ledger.seats
        yield gauge("council_rotation", "Share of seats that an epoch changes.", rotation)


def _consensus(ledger: LedgerCounters) -> Iterator[Metric]:
    """What this daemon saw of how it came about."""
    entries = single(ledger.entries)
    yield counter("ledger_entries", "Ratified here, by kind.", ("kind",), entries)
    yield gauge("council_term", "The newest term seen.", ledger.term)
    yield counter("council_terms_lost", "Terms ended by time-outs.", (), {(): ledger.terms_lost})
    times = _quantiles({name: value / 1e3 for name, value in ledger.consensus_ms.items()})
    text = "From an entry's first sight here to its ratification."
    yield gauges("consensus_seconds", text, ("quantile",), times)
    yield gauge("submissions_waiting", "Submissions not ratified yet.", ledger.waiting)


def exposition(
    counters: Counters, meter: MessageMeter, events: Mapping[str, int], usage: ProcessReading
) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_NodeCollector(counters, meter, events, usage))
    text: bytes = generate_latest(registry)
    return text


def _quantiles(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(name,): round(value, 6) for name, value in values.items()}
