"""What can go wrong with a module in the jail.

JailError
 +- ModuleTrapError      this call failed, and it was the module's own doing
 +- JailDiedError        the worker's process ended under this call
 +- JailRestingError     the worker died too often of late and is given a rest
ModuleRefusedError       (protocols.slots.wasm_module) the bytes are none that may run here
NotCompiledError         the module must be compiled first
WeakJailError            this kernel lacks a layer of the jail
"""

from typing import ClassVar, Literal

from protocols.errors import NotHeldError, RefusedError, SynapseError

TrapKind = Literal["trap", "fuel", "deadline", "memory", "answer"]
"""trap: it did what WebAssembly forbids, or ran out of stack. fuel, deadline: it took too long.
memory: it had no room for the block. answer: it did not return 0, or named room that it lacks."""


class JailError(SynapseError):
    """A call that was not answered."""

    code: ClassVar[str] = "jail"


class ModuleTrapError(JailError):
    """The module failed on this input. The worker lives, and the module's instance is gone."""

    code = "module-trap"

    def __init__(self, kind: TrapKind, module: bytes, text: str) -> None:
        super().__init__(
            f"module {module.hex()[:16]} failed ({kind}): {text}",
            remedy="this call is answered by the version before it",
        )
        self.kind = kind
        self.module = module


class JailDiedError(JailError):
    """The worker's process ended while `module` was loaded or run: quarantine that module."""

    code = "jail-died"

    def __init__(self, module: bytes | None, how: str) -> None:
        running = f" under module {module.hex()[:16]}" if module else ""
        super().__init__(
            f"the jail's worker died{running}: {how}",
            remedy="it is started again for the next call",
        )
        self.module = module


class JailRestingError(JailError):
    """No worker just now: the last ones died soon after they had started."""

    code = "jail-resting"


class JailSlowError(JailError):
    """Whether a module compiles or ends could not be told: this machine had other things to do."""

    code = "jail-slow"


class NotCompiledError(NotHeldError):
    """A module that has not been compiled here, or whose compiled form does not fit any more."""

    code = "not-compiled"

    def __init__(self, module: bytes, why: str) -> None:
        super().__init__(
            f"module {module.hex()[:16]} is not compiled here: {why}",
            remedy="fetch it and compile it again",
        )
        self.module = module


class WeakJailError(RefusedError):
    """Foreign code is not run behind fewer walls than it should be, unless the owner says so."""

    code = "weak-jail"

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(
            f"this kernel lacks {', '.join(missing)}: foreign modules would be less confined",
            remedy="run a Linux kernel of 5.13 or newer with Landlock and seccomp, or accept it "
            "with --allow-weaker-jail (upgrades.allow_weaker_jail)",
        )
        self.missing = missing
