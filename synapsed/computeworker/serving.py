"""The worker's main thread: requests in, replies out; the work is done in lanes."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

from synapsed.compute import wire
from synapsed.compute.errors import ComputeError
from synapsed.computeworker.faults import failed
from synapsed.computeworker.gate import CancelledError, Gate, Task
from synapsed.computeworker.lanes import Lane
from synapsed.computeworker.office import Office

TALK = wire.NewModel | wire.OpenModel | wire.CloseModel | wire.Generate
TRAIN = (
    wire.LoadTraining
    | wire.Train
    | wire.Encode
    | wire.TakeBack
    | wire.Apply
    | wire.Replace
    | wire.SaveTraining
    | wire.CloseTraining
)
READ = 64 << 10


class Serving:
    """One node's worker, until its socket closes."""

    def __init__(self, node: socket.socket) -> None:
        self._node = node
        self._saying = threading.Lock()
        self._gate = Gate()
        self._office = Office(self._gate)
        self._tasks: dict[int, Task] = {}
        self._lanes = {
            "talk": Lane("talk", behind=False),
            "train": Lane("train", behind=True),
            "serve": Lane("serve", behind=True),
            "measure": Lane("measure", behind=True),
        }

    def run(self) -> None:
        """Returns when the node says so, or is gone."""
        self._say(wire.Ready(os.getpid()))
        for request in self._requests():
            if isinstance(request, wire.Stop):
                return
            self._take(request)

    def _take(self, request: wire.Request) -> None:
        if isinstance(request, wire.Cancel):
            task = self._tasks.get(request.number)
            if task is not None:
                task.cancelled = True
        elif isinstance(request, wire.Beat):
            self._say(wire.Alive(request.number, self._still()))
        elif isinstance(request, wire.Settings | wire.Look):
            self._answer(request, Task())
        else:
            task = self._tasks[request.number] = Task()
            if isinstance(request, wire.Generate):
                self._gate.wish()  # from now on, not from when it is this one's turn
            self._lane(request).put(task, self._job(request))

    def _still(self) -> float:
        """Seconds since the most silent of what is under way gave a sign of life."""
        seen = [task.seen for task in list(self._tasks.values()) if task.seen is not None]
        return max(0.0, time.monotonic() - min(seen)) if seen else 0.0

    def _lane(self, request: wire.Request) -> Lane:
        if isinstance(request, TALK):
            return self._lanes["talk"]
        if isinstance(request, TRAIN):
            return self._lanes["train"]
        if isinstance(request, wire.Evaluate):
            mine = self._office.is_training(request.key)
            return self._lanes["train" if mine else "measure"]
        return self._lanes["serve"]

    def _job(self, request: wire.Request) -> Callable[[Task], None]:
        def job(task: Task) -> None:
            try:
                self._answer(request, task)
            finally:
                if isinstance(request, wire.Generate):
                    self._gate.fulfilled()
                self._tasks.pop(request.number, None)

        return job

    def _answer(self, request: wire.Request, task: Task) -> None:
        try:
            task.check()
            if isinstance(request, wire.Generate):
                for text in self._office.generate(request, task):
                    for at in range(0, len(text), wire.MAX_TEXT):
                        self._say(wire.Piece(request.number, text[at : at + wire.MAX_TEXT]))
                self._say(wire.Done(request.number))
            else:
                self._say(self._office.do(request, task))
        except CancelledError:
            self._say(wire.Failed(request.number, ComputeError.code, "it was cancelled", ""))
        except Exception as error:  # noqa: BLE001 - the node is told, and judges
            self._say(failed(request.number, error))

    def _say(self, reply: wire.Reply) -> None:
        data = wire.frame(reply)
        with self._saying:
            try:
                self._node.sendall(data)
            except OSError:
                os._exit(0)  # the node is gone, and everything here is for it

    def _requests(self) -> Iterator[wire.Request]:
        data = bytearray()
        while True:
            try:
                part = self._node.recv(READ)
            except OSError:
                return
            if not part:
                return
            data += part
            while len(data) >= wire.HEAD.size:
                end = wire.HEAD.size + wire.HEAD.unpack_from(data)[0]
                if len(data) < end:
                    break
                yield wire.requests.decode(bytes(data[wire.HEAD.size : end]))
                del data[:end]


def serve(node: socket.socket) -> None:
    """Serve a node, and end the process: threads in the middle of something do not hold it up."""
    code = 1
    try:
        Serving(node).run()
        code = 0
    finally:
        if code:
            import traceback  # noqa: PLC0415 - only where something is wrong

            traceback.print_exc()
        os._exit(code)
