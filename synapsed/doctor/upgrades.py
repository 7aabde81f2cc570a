"""Checks for machines that write upgrades; taking part in the network needs none of them.

A machine without a tool is in order (it holds, serves and votes); one that is half set up is
not. The checklist's ten items and where they are:

    1 engine and its model installed    upgrade-engine
    2 Rust toolchain                    rust
    3 wasm32-unknown-unknown target     wasm-target
    4 environment configured            config (checks.py: a wrong or unknown variable fails it)
    5 workspace there and writable      workspace
    6 generation tried                  upgrade-engine (the model answers its name)
    7 compilation tried                 wasm-compile
    8 faults lead to remedies           every check: its source and way out (report.py)
    9 monitoring                        monitoring
   10 voting tried                      nothing to check until there is a ledger to vote in
"""

from synapsed.doctor.report import Check, Facts, by_algorithm, by_resource, passed

ENGINE_MODEL = "codellama:7b"
"""What the documents name; any other code model of the engine does as well."""


def engine(facts: Facts) -> Check:
    """A language model that drafts upgrades."""
    tools = facts.tools
    if not tools.ollama:
        return passed("upgrade-engine", "none: this machine drafts no upgrades")
    if not tools.ollama_models:
        return by_resource(
            "upgrade-engine",
            f"{tools.ollama} has no model, or does not answer",
            f"`ollama pull {ENGINE_MODEL}`",
            "warn",
        )
    return passed("upgrade-engine", f"{tools.ollama}: {', '.join(tools.ollama_models[:3])}")


def rust(facts: Facts) -> Check:
    """A compiler for upgrades."""
    tools = facts.tools
    if not tools.rustc and tools.ollama:
        return by_resource(
            "rust",
            "an engine but no compiler: its drafts cannot be built",
            "install rustup",
            "warn",
        )
    return passed("rust", tools.rustc or "none: this machine builds no upgrades")


def wasm_target(facts: Facts) -> Check:
    """The compiler's target for upgrades."""
    tools = facts.tools
    if tools.rustc and not tools.wasm_target:
        return by_resource(
            "wasm-target",
            "the Rust toolchain cannot build for wasm32-unknown-unknown",
            "`rustup target add wasm32-unknown-unknown`",
            "warn",
        )
    return passed("wasm-target", "there" if tools.wasm_target else "not needed without a compiler")


def wasm_compile(facts: Facts) -> Check:
    """A module of a few lines builds, here and now."""
    tools = facts.tools
    if tools.wasm_target and tools.compile_error:
        return by_resource("wasm-compile", tools.compile_error, "reinstall the toolchain", "warn")
    return passed("wasm-compile", "a test module builds" if tools.wasm_target else "not tried")


def workspace(facts: Facts) -> Check:
    """A folder of ours to build in."""
    error = facts.tools.workspace_error
    if error:
        return by_resource("workspace", error, "give the daemon's user that folder")
    return passed("workspace", "writable")


def monitoring(facts: Facts) -> Check:
    """The daemon can be watched."""
    if facts.live is not None and not facts.live.metrics_served:
        return by_algorithm("monitoring", "the daemon serves no metrics", "its log")
    return passed("monitoring", "GET /metrics on the control socket")


UPGRADE_CHECKS = (engine, rust, wasm_target, wasm_compile, workspace, monitoring)
