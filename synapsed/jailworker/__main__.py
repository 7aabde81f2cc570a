"""The command line of a child of the jail. Nothing is printed but what the node asked for."""

import gc
import os
import sys

from synapsed.jail import lockdown
from synapsed.jailworker import compiler, runner

MODES = {"compile": compiler.compile_module, "wat": compiler.translate, "run": runner.run}


def main() -> None:
    """Never returns: an interpreter that shuts down wants more of the system than it has here."""
    mode, layers, parent = sys.argv[1:]
    code = 1
    try:
        lockdown.begin(int(parent), keep=6)
        gc.disable()  # a child lives briefly, or allocates next to nothing
        MODES[mode](layers)
        code = 0
    except Exception as error:  # noqa: BLE001 - the node reads why this process ended
        os.write(2, f"{type(error).__name__}: {error}"[:2000].encode())
    finally:
        os._exit(code)


main()
