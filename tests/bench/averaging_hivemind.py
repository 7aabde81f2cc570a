"""One peer of hivemind's averager, in its own environment: nothing of ours is imported here.

    python averaging_hivemind.py CODEC SEED ELEMENTS TENSORS [FIRST PEER'S ADDRESS ...]

Orders come a line each, answers go as a line of JSON each: `ready` forms a group of four, `go`
averages and says how long that took and how far the result is from the true mean.
"""

import json
import sys
import time

import hivemind
import torch
from hivemind.averaging.control import AveragingStage

PEERS = 4
CODECS = {
    "fp32": hivemind.compression.NoCompression,
    "8bit": hivemind.compression.Uniform8BitQuantization,
}
WAIT_S = 240.0


def values(seed: int, elements: int, tensors: int) -> list[torch.Tensor]:
    """A peer's tensors: what all have in common, and its own noise."""
    out = []
    for number in range(tensors):
        common = torch.randn(elements, generator=torch.Generator().manual_seed(number))
        own = torch.randn(elements, generator=torch.Generator().manual_seed(1000 * seed + number))
        out.append((common + own) * 1e-3)
    return out


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    codec, seed, elements, tensors = sys.argv[1], *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    dht = hivemind.DHT(initial_peers=sys.argv[5:], host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
    mine = values(seed, elements, tensors)
    averager = hivemind.averaging.DecentralizedAverager(
        mine,
        dht,
        prefix="bench",
        target_group_size=PEERS,
        min_group_size=PEERS,
        min_matchmaking_time=2.0,
        request_timeout=1.0,
        compression=CODECS[codec](),
        start=True,
    )
    every = [values(peer, elements, tensors) for peer in range(PEERS)]
    mean = [torch.stack(list(parts)).mean(0) for parts in zip(*every, strict=True)]
    del every
    say(address=str(dht.get_visible_maddrs()[0]))
    control = None
    for line in sys.stdin:
        if line.strip() == "ready":
            with averager.get_tensors() as held:
                for tensor, value in zip(held, mine, strict=True):
                    tensor.copy_(value)
            control = averager.step(wait=False, require_trigger=True, timeout=WAIT_S)
            ended = time.monotonic() + WAIT_S
            while control.stage != AveragingStage.AWAITING_TRIGGER and time.monotonic() < ended:
                time.sleep(0.01)
            say(stage=control.stage.name)
        elif line.strip() == "go" and control is not None:
            began = time.monotonic()
            control.allow_allreduce()
            group = control.result(WAIT_S)
            seconds = time.monotonic() - began
            with averager.get_tensors() as held:
                off = sum(float((a - b).square().sum()) for a, b in zip(held, mean, strict=True))
            whole = sum(float(value.square().sum()) for value in mean)
            say(seconds=seconds, peers=len(group or ()), error=(off / whole) ** 0.5)
    averager.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
