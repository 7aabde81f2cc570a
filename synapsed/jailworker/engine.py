"""How wasmtime is set: the same for the compiler and the runner, or the runner refuses the code."""

import wasmtime

MAX_STACK = 512 << 10
"""Bytes of WebAssembly's stack, on a main thread that has 8 MiB or what the owner allows: a limit
beyond the real stack ends the process instead of the call."""

_OFF = (
    "wasm_threads",
    "shared_memory",
    "wasm_memory64",
    "wasm_multi_memory",
    "wasm_relaxed_simd",
    "wasm_simd",  # aborts the process where relaxed_simd is still on
    "wasm_exceptions",
    "wasm_function_references",
    "gc_support",  # and with it all references but those to functions
    "wasm_gc",
    "wasm_tail_call",
    "wasm_stack_switching",
    "wasm_wide_arithmetic",
    "wasm_custom_page_sizes",
    "wasm_component_model",
    "wasm_component_model_map",
    "wasm_component_model_implements",
    "parallel_compilation",
    "memory_init_cow",  # it would want files of its own
    "debug_info",
)


def engine() -> wasmtime.Engine:
    """An engine: fuel and epochs counted, one value of NaN, features off."""
    config = wasmtime.Config()
    for name in _OFF:
        setattr(config, name, False)
    config.strategy = "cranelift"
    config.cranelift_opt_level = "speed"
    config.cranelift_nan_canonicalization = True
    config.consume_fuel = True
    config.epoch_interruption = True
    config.max_wasm_stack = MAX_STACK
    return wasmtime.Engine(config)
