"""Can this machine train and generate? Taking part needs neither: it holds, serves and votes."""

import importlib.metadata
import socket
from importlib.util import find_spec

from synapsed.compute.environment import NEEDED
from synapsed.config.options import Config
from synapsed.config.quantities import Size
from synapsed.doctor.checks import MIN_MEMORY
from synapsed.doctor.report import Check, Computing, Facts, by_config, by_resource, passed

INSTALL = "pip install 'synapsed[compute]'"
CPU_ONLY = "+cpu"
"""How the builds of torch that know no card name their version."""
ENOUGH_MEMORY = Size(2 << 30)
"""torch with transformers, a model of some hundred megabytes and its training copy."""
ANSWER_S = 2.0


def look(config: Config) -> Computing:
    """What there is to compute with; nothing is imported."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    torch = "" if "torch" in missing else importlib.metadata.version("torch")
    return Computing(
        missing=missing,
        torch=torch,
        server_error=_server_error(config.compute.server),
        probe_error=_probe_error(config.training.probe),
    )


def _probe_error(path: str) -> str:
    if not path:
        return ""
    try:
        with open(path, "rb") as file:
            return "" if file.read(1) else "it is empty"
    except OSError as error:
        return str(error.strerror or error)


def _server_error(path: str) -> str:
    if not path:
        return ""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(path)
        except OSError as error:
            return str(error.strerror or error)
    return ""


def installed(facts: Facts) -> Check:
    """The libraries are there, and see the card."""
    computing = facts.computing
    if computing.missing:
        text = f"{', '.join(computing.missing)} not installed: no training, no generating"
        if not facts.gpus:
            return passed("compute", f"{text} here ({INSTALL})")
        return by_resource("compute", f"{text}, with {facts.gpus[0]} idle", INSTALL, "warn")
    if facts.gpus and computing.torch.endswith(CPU_ONLY):
        return by_resource(
            "compute",
            f"torch {computing.torch} knows no card, and there is {facts.gpus[0]}",
            "install the torch that fits the card's driver: https://pytorch.org/get-started",
            "warn",
        )
    return passed("compute", f"torch {computing.torch}")


def device(facts: Facts) -> Check:
    """The device that is asked for can be there."""
    wanted = facts.loaded.config.compute.device
    number = int(wanted.partition(":")[2] or 0)
    if wanted.startswith("cuda") and number >= len(facts.gpus):
        return by_config(
            "compute-device",
            f"compute.device is {wanted}, and {len(facts.gpus)} cards were found",
            facts,
            ("compute.device", '"", or to "cpu"'),
        )
    return passed("compute-device", wanted or ("the first card" if facts.gpus else "cpu"))


def memory(facts: Facts) -> Check:
    """There is some to compute with, and no more is promised than there is."""
    limit = int(facts.loaded.config.compute.memory)
    if not facts.gpus and limit > facts.memory_limit:
        return by_config(
            "compute-memory",
            f"compute.memory is {Size(limit).text()}, of {_size(facts.memory_limit)} in all",
            facts,
            ("compute.memory", f'"{_size(facts.memory_limit // 2)}" or less'),
            "warn",
        )
    # With less than MIN_MEMORY there are worse troubles, of which another check tells.
    if not facts.computing.missing and MIN_MEMORY <= facts.memory_limit < ENOUGH_MEMORY:
        return by_resource(
            "compute-memory",
            f"{_size(facts.memory_limit)} in all; training the smallest model takes "
            f"{ENOUGH_MEMORY.text()}",
            "raise MemoryMax= in the unit or the container's limit, or train elsewhere",
            "warn",
        )
    return passed("compute-memory", Size(limit).text() if limit else "as much as there is")


def server(facts: Facts) -> Check:
    """The compute server, where one is named, answers."""
    path, error = facts.loaded.config.compute.server, facts.computing.server_error
    if error:
        return by_config(
            "compute-server",
            f"nothing answers at {path}: {error}",
            facts,
            ("compute.server", '"", or start the server'),
        )
    return passed("compute-server", path or "none: the daemon starts a process of its own")


def probe(facts: Facts) -> Check:
    """The private text, where one is named, is there: else no checkpoint is judged here."""
    path, error = facts.loaded.config.training.probe, facts.computing.probe_error
    if error:
        return by_config(
            "training-probe",
            f"{path}: {error}; this daemon judges no checkpoint",
            facts,
            ("training.probe", '"", or to a text that can be read'),
        )
    return passed("training-probe", path or "none: checkpoints are judged by the network's text")


def _size(count: int) -> str:
    return Size(count >> 20 << 20).text()


COMPUTE_CHECKS = (installed, device, memory, server, probe)
