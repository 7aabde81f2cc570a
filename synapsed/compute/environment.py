"""A worker's environment: what drivers ask for, and nothing that reaches for a network."""

import os

NEEDED = ("torch", "transformers", "safetensors", "numpy")
"""What has to be installed for a worker to start."""
KEPT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
"""Of the node's environment: what the drivers of a card ask for."""
KEEP = f"{256 << 20}"
MEMORY = {
    # A round takes and frees tensors of some MiB by the dozen. Handed back to the kernel each time,
    # half of its time went into pages that had just been there: 0.15 s for a group of 16 MiB, and
    # 0.09 with this. Up to so many bytes stay with the worker.
    "MALLOC_MMAP_THRESHOLD_": KEEP,
    "MALLOC_TRIM_THRESHOLD_": KEEP,
    "MALLOC_ARENA_MAX": "1",
}
"""How glibc's malloc treats large pieces."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # models come from peers, by their content, and from nowhere else
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that spin for each other starve: 10 steps by two threads on two busy cores took 26 s,
    # and 1.9 s with this; by one thread 3 s.
    "OMP_WAIT_POLICY": "passive",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it, cuBLAS adds in an order of its own
}


def environment(threads: int) -> dict[str, str]:
    """A worker's."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    # OpenMP reads it once, when it is loaded; torch is told again later.
    return kept | ENVIRONMENT | MEMORY | {"OMP_NUM_THREADS": str(threads)}
