"""`python -m tests.daemon_standin KIND ARGS...`: the daemon's shell around a node with a fault.

What the shell promises about a node that hangs, spins or raises cannot be shown with a sound
one. `KIND forkserver` starts the fork server around it; as the KIND `real`, the node is the
daemon's own. UNHURRIED in the environment is for those who show a clean stop, and not the deadline
that ends any other: a machine of tests may stand still for longer.
"""

import os
import sys
import time
import types
from typing import Any

import trio

from protocols.errors import RefusedError, SynapseError


def _node(kind: str) -> types.ModuleType:
    async def run_node(*_: Any, ready: Any, stop: trio.Event) -> None:
        ready()
        if kind == "refuses":
            raise RefusedError("not this network", remedy="choose another")
        if kind == "fails":
            raise SynapseError("the disk is gone", remedy="bring it back")
        if kind == "bug":
            raise KeyError("a bug")
        if kind == "spin":
            while True:
                pass
        await stop.wait()
        if kind == "hang":
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
        if kind == "stuck":  # in C, with the interpreter's lock
            sum(range(10**12))

    def slow_import(name: str) -> Any:
        if name == "run_node":
            time.sleep(0.6)
            return run_node
        raise AttributeError(name)

    node = types.ModuleType("synapsed.node")
    if kind == "slow":
        node.__getattr__ = slow_import  # type: ignore[method-assign]
    else:
        node.run_node = run_node  # type: ignore[attr-defined]
    return node


def _unhurried() -> None:
    from synapsed.process import stopping

    stopping.DEADLINE_S, stopping.LAST_RESORT_S = 60.0, 61.0


if __name__ == "__main__":
    if sys.argv[1] != "real":
        sys.modules["synapsed.node"] = _node(sys.argv[1])
    if os.environ.pop("UNHURRIED", ""):
        _unhurried()
    if sys.argv[2:] == ["forkserver"]:
        from synapsed.process.forkserver import main as serve

        serve()
    else:
        from synapsed.__main__ import main

        sys.exit(main(sys.argv[2:]))
