"""A compute server whose workers lie: `python -m simnet.lyingcompute HOW SOCKET PARENT`.

A daemon that is given it learns as any other does and sends, signed, deltas of its own making:

    flip     the honest delta's opposite
    scale    a thousand times as much
    random   noise of the honest delta's size
    stale    the first delta that it made, again and again

    rounds   learns honestly, and makes of each round the opposite of what its inputs say: where it
             leads, and where it looks at what other primaries, or those accused, have made

    sums     learns honestly, and sums a region's deltas to their opposite, also when it checks
             others: whoever's home is named in SOCKET's neighbour *.liars, a line each
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from synapsed.compute import wire
from synapsed.compute.environment import environment

KINDS = ("flip", "scale", "random", "stale", "rounds", "sums")
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

    # The office makes every training, and every sum, by these names.
    if how == "sums":
        _sum_to_the_opposite(Path(socket).with_suffix(".liars"))
    elif how == "rounds":
        _aggregate_to_the_opposite()
    else:
        vars(office)["Training"] = Liar
    Server(Path(socket)).run()


def _sum_to_the_opposite(liars: Path) -> None:
    from synapsed.computeworker import codecs, rounds  # noqa: PLC0415
    from synapsed.computeworker.groups import read_version  # noqa: PLC0415

    honest = rounds.combine

    def combine(asked: wire.Combine, passage: Any) -> wire.Combined:
        made = honest(asked, passage)
        homes = liars.read_text(encoding="utf-8").splitlines() if liars.exists() else []
        if not any(Path(asked.folder).is_relative_to(home) for home in homes):
            return made
        sizes = [tile.count for tile in read_version(asked.base)[0]]
        values = codecs.decode(Path(made.delta.path).read_bytes(), sizes)
        data = codecs.encode(asked.plan.phase_of(asked.round).up, [-each for each in values])
        return msgspec.structs.replace(made, delta=_written(asked.folder, data))

    vars(rounds)["combine"] = combine


def _aggregate_to_the_opposite() -> None:
    from synapsed.computeworker import codecs, outer, rounds  # noqa: PLC0415
    from synapsed.computeworker.groups import read_version, write_version  # noqa: PLC0415

    honest = rounds.aggregate

    def aggregate(asked: wire.Aggregate, passage: Any) -> wire.Aggregated:
        made = honest(asked, passage)
        tiles, base = read_version(asked.base)
        values = codecs.decode(Path(made.result.path).read_bytes(), [each.numel() for each in base])
        data = codecs.encode(asked.plan.phase_of(asked.round).down, [-each for each in values])
        version = write_version(asked.group, tiles, outer.apply(base, data), asked.folder)
        return msgspec.structs.replace(made, result=_written(asked.folder, data), version=version)

    vars(rounds)["aggregate"] = aggregate


def _written(folder: str, data: bytes) -> wire.Blob:
    digest = hashlib.sha256(data).digest()
    path = Path(folder) / digest.hex()
    path.write_bytes(data)
    return wire.Blob(path=str(path), digest=digest, size=len(data))


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
    return _written(asked.folder, data)


if __name__ == "__main__":
    main()
