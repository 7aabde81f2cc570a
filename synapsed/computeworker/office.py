"""What each request comes to: models and trainings by their keys."""

import os
from collections.abc import Callable, Iterator

from synapsed.compute import wire
from synapsed.compute.errors import ComputeError, UnloadedError
from synapsed.computeworker import rounds
from synapsed.computeworker.data import check_length, load_text, window_count
from synapsed.computeworker.device import Device
from synapsed.computeworker.evaluate import losses_of
from synapsed.computeworker.files import ModelFiles
from synapsed.computeworker.gate import Gate, Task
from synapsed.computeworker.generate import Sampling, generate
from synapsed.computeworker.mapped import Model, open_model
from synapsed.computeworker.newmodel import new_model
from synapsed.computeworker.train import Training

Answer = Callable[[wire.Request, Task], wire.Reply]


class Office:
    """Everything that is open. Each method runs in its request's lane."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._device: Device | None = None
        self._models: dict[bytes, Model] = {}
        self._trainings: dict[bytes, Training] = {}
        self._busy_before = 0.0
        """Of trainings that are closed."""

    def do(self, request: wire.Request, task: Task) -> wire.Reply:
        """The reply to anything but Generate. Raises ComputeError and whatever torch raises."""
        match request:
            case wire.Settings():
                self._device = Device(request.device, request.memory, request.threads)
            case wire.Look():
                return self._look(request)
            case wire.NewModel():
                new_model(request.kind, request.folder, request.seed)
            case wire.OpenModel():
                return self._open(request)
            case wire.CloseModel():
                self._models.pop(request.key, None)
            case wire.Evaluate():
                return self._evaluate(request, task)
            case wire.LoadTraining():
                return self._load(request, task)
            case wire.CloseTraining():
                self._close_training(request.key)
            case _:
                return self._serve(request, task) or self._train(request, task)
        return wire.Done(request.number)

    def generate(self, request: wire.Generate, task: Task) -> Iterator[str]:
        """The pieces of a text."""
        yield from generate(
            self._model(request.key),
            request.prompt,
            request.tokens,
            Sampling(request.temperature, request.seed),
            task,
        )

    def is_training(self, key: bytes) -> bool:
        """Whether a key is a training's."""
        return key in self._trainings

    # -- models --------------------------------------------------------------------------------

    def _open(self, request: wire.OpenModel) -> wire.Opened:
        model = self._models.get(request.key)
        if model is None:
            model = open_model(ModelFiles(request.files), self._place())
            self._models[request.key] = model
        return wire.Opened(
            request.number,
            model.config.model_type,
            model.parameters,
            model.bytes,
            model.copied,
            model.context,
            model.config.vocab_size,
            str(model.device.torch),
        )

    def _evaluate(self, request: wire.Evaluate, task: Task) -> wire.Losses:
        passage = self._gate.passage(task)
        training = self._trainings.get(request.key)
        tokens = training.tokens if training else self._model(request.key).tokens
        text = load_text(request.data, tokens)
        check_length(request.data, text, request.context)
        if training is None:
            module = self._model(request.key).module
            losses = losses_of(module, text, request.context, request.windows, passage)
        else:
            with training.at_base(task) as module:
                losses = losses_of(module, text, request.context, request.windows, passage)
        return wire.Losses(request.number, tuple(losses), window_count(text, request.context))

    def _model(self, key: bytes) -> Model:
        try:
            return self._models[key]
        except KeyError:
            raise UnloadedError("that model is not open", remedy="open it again") from None

    def _place(self) -> Device:
        if self._device is None:
            raise ComputeError("the worker was not told what it may use")
        return self._device

    # -- trainings -----------------------------------------------------------------------------

    def _load(self, request: wire.LoadTraining, task: Task) -> wire.Loaded:
        self._close_training(request.key)  # first: two copies may be more than there is room for
        training = Training(request, self._place(), self._gate, task)
        self._trainings[request.key] = training
        return wire.Loaded(
            request.number, tuple(training.heads()), training.step, training.parameters
        )

    def _close_training(self, key: bytes) -> None:
        training = self._trainings.pop(key, None)
        if training is not None:
            self._busy_before += training.busy_s

    def _train(self, request: wire.Request, task: Task) -> wire.Reply:
        match request:
            case wire.Train():
                return self._training(request.key).train(request, task)
            case wire.Encode():
                training = self._training(request.key)
                return wire.Encoded(request.number, training.encode(request, task))
            case wire.TakeBack():
                self._training(request.key).take_back(request.groups)
            case wire.Apply():
                training = self._training(request.key)
                training.apply(request.group, request.result, request.head)
            case wire.Replace():
                version = request.version
                self._training(request.key).replace(version.group, version.path, version.head)
            case wire.SaveTraining():
                self._training(request.key).save(request.path)
            case _:
                raise ComputeError(f"nobody here does {type(request).__name__}")
        return wire.Done(request.number)

    def _training(self, key: bytes) -> Training:
        try:
            return self._trainings[key]
        except KeyError:
            raise UnloadedError("that training is not loaded", remedy="load it again") from None

    # -- groups on disk ------------------------------------------------------------------------

    def _serve(self, request: wire.Request, task: Task) -> wire.Reply | None:
        passage = self._gate.passage(task)
        reply: wire.Reply = wire.Done(request.number)
        match request:
            case wire.Cut():
                reply = wire.Versions(request.number, rounds.make_versions(request, passage))
            case wire.Advance():
                reply = wire.Versions(request.number, (rounds.advance(request, passage),))
            case wire.Aggregate():
                reply = rounds.aggregate(request, passage)
            case wire.Combine():
                reply = rounds.combine(request, passage)
            case wire.Compare():
                reply = rounds.compare(request)
            case wire.CheckDelta():
                rounds.check_delta(request)
            case wire.WriteModel():
                rounds.write_model(request, passage)
            case _:
                return None
        return reply

    # -- for people ----------------------------------------------------------------------------

    def _look(self, request: wire.Look) -> wire.Seen:
        device, gate = self._place(), self._gate
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        busy = self._busy_before + sum(each.busy_s for each in list(self._trainings.values()))
        return wire.Seen(
            request.number,
            device.name,
            device.threads,
            resident,
            device.held(),
            busy,
            gate.yields,
            gate.yield_s * 1e3,
            gate.stretch_s * 1e3,
        )
