"""Writes tests/vectors/peer_scoring.wasm: the Rust example as `upgrade build` makes it.

    python -m tests.vectors.make_peer_scoring

It is kept, so that the jail's bench and tests have a real module where there is no compiler.
"""

import tempfile
from pathlib import Path

import trio

from protocols.slots.peer_scoring import SLOT
from synapsed.authoring.build import Built, build
from synapsed.jail.jail import Jail

SOURCE = Path("examples/upgrades/rust/peer_scoring.rs")
MODULE = Path(__file__).parent / "peer_scoring.wasm"
TOOLS = ("rustc 1.63.0",)
"""Debian 12's; another version makes other bytes of the same meaning."""


async def made() -> tuple[Built, bytes]:
    """What the source becomes here, and by which tools."""
    with tempfile.TemporaryDirectory() as folder:
        jail = Jail(Path(folder), lambda *_, **__: None, allow_weaker=True)
        built, module, _ = await build(SOURCE, SLOT, jail, allow_weaker=True)
        return built, module


if __name__ == "__main__":
    how, wasm = trio.run(made)
    MODULE.write_bytes(wasm)
    print(f"{len(wasm)} bytes by {', '.join(how.tools)}")
