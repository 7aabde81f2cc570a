"""Local training: a copy of the model in fp32, steps on it, and what they changed as deltas.

What a copy has to do with the network's versions, group by group, is in standing.py. On a card are
the copy, its gradient and the moments; everything else lies in ordinary memory.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from protocols.learn.delta import DeltaError
from protocols.learn.partition import Group
from protocols.plan import MILLE, MILLION, CodecName
from synapsed.compute import wire
from synapsed.compute.errors import BadDataError, BadHeadError, BadModelError, DivergedError
from synapsed.computeworker.adamw import Inner
from synapsed.computeworker.codecs import Settings
from synapsed.computeworker.data import batch_of, check_length, load_text
from synapsed.computeworker.device import Device
from synapsed.computeworker.feedback import settings_of
from synapsed.computeworker.files import ModelFiles, read, write_blob, write_whole
from synapsed.computeworker.gate import Gate, Passage, Task
from synapsed.computeworker.groups import (
    Values,
    advanced,
    cut,
    head_of,
    values_of_model,
    values_of_version,
)
from synapsed.computeworker.mapped import config_of
from synapsed.computeworker.standing import Standing
from synapsed.computeworker.tokens import tokens_of
from synapsed.computeworker.trainable import sequences_at_once, spots, trainable

MAX_STATE = 1 << 40
SLOWER = "a lower rate in the plan; the copy is back at its groups' last versions"


class Training:
    """One model that is trained here."""

    def __init__(self, asked: wire.LoadTraining, device: Device, gate: Gate, task: Task) -> None:
        """Raises BadModelError, UnknownKindError, BadDataError, DiskError."""
        self._device = device
        self._gate = gate
        self.plan = asked.plan
        files = ModelFiles(asked.files)
        config = config_of(files)
        self._passage: Passage = gate.passage(task)
        self.tokens = tokens_of(files, config)
        self._context = min(asked.plan.context, int(config.max_position_embeddings))
        self._text = load_text(asked.data, self.tokens, to_learn=True)
        check_length(asked.data, self._text, self._context)
        self._seed = asked.seed
        self.step = asked.step
        self.groups = cut(files.headers(), asked.plan.group_bytes)
        self.module = trainable(config, device)
        self._spots = spots(self.module, files, self.groups)
        self._inner = Inner(self.module, asked.plan.rate / MILLION, asked.plan.decay / MILLE)
        self._gradient = False
        self.busy_s = 0.0
        left = self._restore(asked.state) if asked.state else {}
        self._standing: list[Standing] = []
        self._fill(files, asked.versions, left)
        self._at_once = sequences_at_once(config, asked.plan.batch, self._context, device)
        """Of a batch: the gradients of its parts are added."""
        self._hook()

    def _fill(self, files: ModelFiles, versions: dict[int, str], left: dict[int, Values]) -> None:
        for group in self.groups:
            path = versions.get(group.number)
            values = values_of_version(group, path) if path else values_of_model(group, files)
            standing = Standing(values, left.get(group.number))
            self._standing.append(standing)
            self._set(group.number, standing.copy())
            self._passage()

    def heads(self) -> list[bytes]:
        """Each group's version."""
        return [
            head_of(group.tiles, standing.base)
            for group, standing in zip(self.groups, self._standing, strict=True)
        ]

    @property
    def parameters(self) -> int:
        """Values that are trained."""
        return sum(group.elements for group in self.groups)

    # -- steps ---------------------------------------------------------------------------------

    def train(self, asked: wire.Train, task: Task) -> wire.Trained:
        """Raises DivergedError, CancelledError: then the steps that were done stay done."""
        self._passage = self._gate.passage(task)
        began, still = time.perf_counter(), self._gate.still_s
        losses = []
        try:
            self._inner.set_rate(self.plan.rate * asked.phase.rate / (MILLION * MILLE))
            gradient = asked.phase.steps == 1
            for _ in range(1 if gradient else asked.steps):
                losses.append(self._one(gradient=gradient))
        except BaseException:
            self._inner.drop_gradients()
            self._gradient = False
            raise
        self._device.settle()
        seconds = time.perf_counter() - began - (self._gate.still_s - still)
        self.busy_s += seconds
        tokens = len(losses) * self.plan.batch * self._context
        return wire.Trained(asked.number, tuple(losses), tokens, seconds, self.step)

    def _one(self, *, gradient: bool) -> float:
        batch = batch_of(self._text, self._seed, self.step, self.plan.batch, self._context)
        self._passage()
        self._inner.drop_gradients()
        self.module.train()
        nats = 0.0
        for some in torch.split(self._device.up(batch), self._at_once):
            loss, whole = self._loss(some)
            part = len(some) / len(batch)
            nats += float(loss.detach()) * part
            torch.autograd.backward(whole * part)
        norm = self._inner.clip()
        if not (torch.isfinite(torch.tensor([nats, norm])).all()):
            self._begin_again()
            raise DivergedError(f"step {self.step} has a loss of {nats}", remedy=SLOWER)
        self._passage()
        if not gradient:
            self._inner.step(self._passage)
            self._inner.drop_gradients()
        self._gradient = gradient
        self.step += 1
        return nats

    def _loss(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Nats per token, and what is minimised: with the routers' balance."""
        out = self.module(input_ids=batch[:, :-1], use_cache=False, output_router_logits=True)
        loss = nn.functional.cross_entropy(out.logits.float().flatten(0, 1), batch[:, 1:].flatten())
        return loss, loss + self.module.config.router_aux_loss_coef * out.aux_loss

    def _begin_again(self) -> None:
        self._inner.forget()
        self._gradient = False
        for number, standing in enumerate(self._standing):
            self._set(number, standing.begin_again())

    def _hook(self) -> None:
        """Pass the gate before each half of each layer, forward and backward."""

        def before(*_: object) -> None:
            self._device.pace()
            self._passage()

        def behind(_module: object, _given: object, made: Tensor | tuple[Tensor, ...]) -> None:
            made = made[0] if isinstance(made, tuple) else made
            if made.requires_grad:
                made.register_hook(before)  # type: ignore[no-untyped-call]

        for layer in self.module.model.layers:
            for half in (layer.self_attn, layer.mlp):
                half.register_forward_pre_hook(before)
                half.register_forward_hook(behind)

    # -- deltas and results --------------------------------------------------------------------

    def encode(self, asked: wire.Encode, task: Task) -> dict[int, wire.Blob]:
        """Each group's delta. Raises DivergedError."""
        passage = self._gate.passage(task)
        found: dict[int, wire.Blob] = {}
        settings = settings_of(asked.phase)
        for number in asked.groups:
            passage()
            self._group(number)
            try:
                delta = self._delta(number, asked.phase.up, settings)
            except DeltaError as error:
                self._begin_again()
                raise DivergedError(f"group {number}: {error.message}", remedy=SLOWER) from None
            found[number] = write_blob(asked.folder, [delta])
        return found

    def _delta(self, number: int, codec: CodecName, settings: Settings) -> bytes:
        if not self._gradient:
            return self._standing[number].encode(codec, self._now(number), settings)
        gradient = [self._device.down(spot.gradient()) for spot in self._spots[number]]
        return self._standing[number].encode_gradient(codec, gradient, settings)

    def take_back(self, numbers: tuple[int, ...]) -> None:
        """What the last deltas of these groups said goes into their next ones."""
        for number in numbers:
            self._group(number)
            self._standing[number].take_back()

    def apply(self, number: int, result: str, head: bytes) -> None:
        """Raises BadHeadError, BadDeltaError, DiskError; then nothing has moved."""
        group = self._group(number)
        self._move(number, advanced(group.tiles, self._standing[number].base, result, head))

    def replace(self, number: int, path: str, head: bytes) -> None:
        """Raises BadHeadError, BadModelError, DiskError; then nothing has moved."""
        group = self._group(number)
        values = [value.clone() for value in values_of_version(group, path)]
        if head_of(group.tiles, values) != head:
            raise BadHeadError(f"{path} is not the version {head.hex()[:16]}", remedy="fetch it")
        self._move(number, values)

    def _move(self, number: int, base: Values) -> None:
        self._set(number, self._standing[number].move(base, self._now(number)))

    def _set(self, number: int, values: Values) -> None:
        with torch.no_grad():
            for spot, value in zip(self._spots[number], values, strict=True):
                self._device.fill(spot.value(), value)

    def _now(self, number: int) -> Values:
        """The copy's values; on a processor they change with it."""
        return [self._device.down(spot.value()) for spot in self._spots[number]]

    def _group(self, number: int) -> Group:
        if number >= len(self.groups):
            raise BadDataError(f"group {number} of a model that has {len(self.groups)}")
        return self.groups[number]

    @contextmanager
    def at_base(self, task: Task) -> Iterator[Any]:
        """The module with its groups' versions, for a moment; then it is what it was."""
        self._passage = self._gate.passage(task)
        kept = [[value.clone() for value in self._now(group.number)] for group in self.groups]
        for group in self.groups:
            self._set(group.number, self._standing[group.number].base)
        self.module.eval()
        try:
            yield self.module
        finally:
            for group in self.groups:
                self._set(group.number, kept[group.number])

    # -- pausing -------------------------------------------------------------------------------

    def save(self, path: str) -> None:
        """Moments, residuals and how far it has read."""
        tensors = self._inner.save()
        for number, standing in enumerate(self._standing):
            for at, value in enumerate(standing.left()):
                tensors[f"left.{number}.{at}"] = value
        tensors["read"] = torch.tensor([self.step], dtype=torch.int64)
        write_whole(path, [save(tensors)], sync=True)

    def _restore(self, path: str) -> dict[int, Values]:
        found: dict[int, Values] = {}
        try:
            tensors = load(read(path, MAX_STATE))
            self._inner.load(tensors)
            for number, group in enumerate(self.groups):
                left = [tensors[f"left.{number}.{at}"] for at in range(len(group.tiles))]
                if [value.numel() for value in left] != [tile.count for tile in group.tiles]:
                    raise ValueError("residuals of other tiles")
                found[number] = left
            self.step = int(tensors["read"][0])
        except (SafetensorError, KeyError, ValueError) as error:
            raise BadModelError(
                f"{path} is not the state of this training: {error}",
                remedy="delete it: only AdamW's moments and some residuals are lost",
            ) from None
        return found
