"""A compute server whose workers lie: `python -m simnet.lyingcompute HOW SOCKET PARENT`.

A daemon that is given it learns as any other does and sends, signed, deltas of its own making:

    flip     the honest delta's opposite
    scale    a thousand times as much
    random   noise of the honest delta's size
    stale    the first delta that it made, again and again
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from synapsed.compute import wire
from synapsed.compute.environment import environment

KINDS = ("flip", "scale", "random", "stale")
MUCH = 1000.0


def main() -> NoReturn:
    """Never returns."""
    how, socket, parent = sys.argv[1:]
    if how not in KINDS:
        sys.exit(f"no lie {how!r}; there are {', '.join(KINDS)}")
    os.umask(0o077)
    os.environ.update(environment(threads=1))
    from synapsed.computeworker import office, train  # noqa: PLC0415 - it takes seconds
    from synapsed.computeworker.__main__ import die_with  # noqa: PLC0415
    from synapsed.computeworker.gate import Task  # noqa: PLC0415
    from synapsed.computeworker.server import Server  # noqa: PLC0415

    die_with(int(parent))

    class Liar(train.Training):
        """Trains honestly, and says something else."""

        def encode(self, asked: wire.Encode, task: Task) -> dict[int, wire.Blob]:
            honest = super().encode(asked, task)
            return {number: _lie(how, self, number, asked, blob) for number, blob in honest.items()}

    # The office makes every training by this name.
    vars(office)["Training"] = Liar
    Server(Path(socket)).run()


_first: dict[int, bytes] = {}


def _lie(how: str, training: object, number: int, asked: wire.Encode, blob: wire.Blob) -> wire.Blob:
    import torch  # noqa: PLC0415 - after the environment is set

    from synapsed.computeworker import codecs  # noqa: PLC0415

    group = training._group(number)  # type: ignore[attr-defined]  # a liar knows itself
    sizes = [tile.count for tile in group.tiles]
    data = Path(blob.path).read_bytes()
    if how == "stale":
        data = _first.setdefault(number, data)
    else:
        values = codecs.decode(data, sizes)
        if how == "random":
            drawn = torch.Generator().manual_seed(number)
            values = [
                torch.randn(each.shape, generator=drawn) * each.square().mean().sqrt()
                for each in values
            ]
        else:
            values = [each * (-1.0 if how == "flip" else MUCH) for each in values]
        data = codecs.encode(asked.phase.up, values)
    digest = hashlib.sha256(data).digest()
    path = Path(asked.folder) / digest.hex()
    path.write_bytes(data)
    return wire.Blob(path=str(path), digest=digest, size=len(data))


if __name__ == "__main__":
    main()
