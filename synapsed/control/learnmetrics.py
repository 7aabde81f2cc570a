"""Prometheus families of training: what is learned and served here, and what it costs."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from synapsed.control.families import counter, gauge, gauges, single
from synapsed.training.said import TrainingCounters


def training_families(said: TrainingCounters) -> Iterator[Metric]:
    """All of them."""
    yield from _now(said)
    yield from _totals(said)
    yield from _computing(said)


def _now(said: TrainingCounters) -> Iterator[Metric]:
    yield gauge("trainings", "On the ledger.", said.trainings)
    yield gauge("trainings_joined", "Of them, learned here.", said.joined)
    groups = single(said.groups)
    yield gauges("training_groups", "Tile groups served here, by role.", ("role",), groups)
    rounds = single(said.round)
    text = "The lowest next round of any group."
    yield gauges("training_round", text, ("model",), rounds)
    text = "Nats a token, of the last steps here."
    yield gauges("training_loss", text, ("model",), single(said.loss))


def _totals(said: TrainingCounters) -> Iterator[Metric]:
    rounds = single(said.rounds)
    yield counter("training_rounds", "Committed here, by our role.", ("role",), rounds)
    deltas = single(said.deltas)
    text = "Of others, at groups served here."
    yield counter("training_deltas", text, ("outcome",), deltas)
    text = "Deltas of others refused here, by reason."
    yield counter("training_deltas_refused", text, ("reason",), single(said.refused))
    ours = single(said.ours)
    yield counter("training_own_deltas", "Of our learners.", ("outcome",), ours)
    yield counter("training_work", "Other work done here.", ("kind",), single(said.done))
    text = "What others computed, computed again here."
    yield counter("training_audits", text, ("outcome",), single(said.audits))
    yield counter("training_caught", "Who computed wrongly.", (), {(): said.caught})
    text = "Checkpoints, as the ledger and this daemon had to do with them."
    yield counter("training_checkpoints", text, ("what",), single(said.checkpoints))
    traffic = {("in", role): size for role, size in said.bytes_in.items()}
    traffic |= {("out", role): size for role, size in said.bytes_out.items()}
    text = "Payload of messages and blobs, by our role."
    yield counter("training_bytes", text, ("direction", "role"), traffic)


def _computing(said: TrainingCounters) -> Iterator[Metric]:
    yield counter("training_steps", "Inner steps done here.", (), {(): said.steps})
    spent = {(): said.torch_s}
    yield counter("training_torch_seconds", "In torch, in those steps.", (), spent)
    text = "The same as a share of time, over the last minute."
    yield gauge("training_torch_share", text, said.torch_share)
    workers = single(said.workers)
    yield counter("compute_workers", "Started, died, hung.", ("what",), workers)
    yield gauge("compute_worker_up", "1 while there is one.", int(said.worker_running))
