"""`synapsectl`: drives a running daemon over its control socket.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon, 4 timed out, 5 refused.
"""

import os
import sys
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from protocols.errors import RefusedError, SynapseError
from synapsed.cli import (
    announcements,
    completion,
    council,
    daemon,
    events,
    generate,
    genesis,
    human,
    ledger,
    model,
    peers,
    proposal,
    train,
    upgrade,
)
from synapsed.cli.common import Home, Json, NoColor, Socket, Timeout, print_json
from synapsed.control.problems import (
    EXIT_FAILED,
    EXIT_NO_DAEMON,
    EXIT_REFUSED,
    EXIT_TIMED_OUT,
    EXIT_USAGE,
)

EXIT_INTERRUPTED = 130
"""As shells have it: 128 and SIGINT."""

app = typer.Typer(
    help="Drives a running synapsed.",
    no_args_is_help=True,
    add_completion=False,  # `completion` prints the script instead
    rich_markup_mode=None,  # plain help: the same in a pipe and on a terminal
    pretty_exceptions_enable=False,
)
for module in (
    *(daemon, peers, model, announcements, events),
    *(generate, train),
    *(genesis, human, proposal, upgrade, council, ledger),
    completion,
):
    module.register(app)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"synapsectl {version('synapsed')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    json: Json = False,
    home: Home = None,
    socket: Socket = None,
    timeout: Timeout = None,
    no_color: NoColor = False,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Drives a running synapsed. Every command takes these options too."""
    context.obj = {
        "json": json, "home": home, "socket": socket, "timeout": timeout, "no_color": no_color,
    }  # fmt: skip


def main() -> int:
    """Run the command line; the exit code."""
    completion.prepare()
    try:
        code: Any = app(prog_name=completion.PROGRAM, standalone_mode=False)
    except TyperException as error:
        return _wrong_usage(error)
    except SynapseError as error:
        return _fail(error_code(error), error.message, error.remedy, exit_code(error))
    except typer.Abort:
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `synapsectl events | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def exit_code(error: SynapseError) -> int:
    """The exit code of a typed error."""
    from synapsed.control.client import DaemonError  # noqa: PLC0415 - httpx is loaded by now
    from synapsed.control.problems import exit_code_of  # noqa: PLC0415

    if isinstance(error, DaemonError):
        return exit_code_of(error.problem)
    if error.code in _EXIT_CODES:
        return _EXIT_CODES[error.code]
    return EXIT_REFUSED if isinstance(error, RefusedError) else EXIT_FAILED


_EXIT_CODES = {
    "not-open": EXIT_FAILED,  # as where the daemon says it
    "no-daemon": EXIT_NO_DAEMON,
    "not-a-daemon": EXIT_NO_DAEMON,
    "timed-out": EXIT_TIMED_OUT,
    "bad-path": EXIT_USAGE,
    "bad-config": EXIT_USAGE,
    "not-text": EXIT_USAGE,
    "interrupted": EXIT_INTERRUPTED,
    # What an author gave is at fault, and nothing of ours refuses it.
    "build-failed": EXIT_FAILED,
    "unknown-language": EXIT_USAGE,
}


def error_code(error: SynapseError) -> str:
    """The stable code of a typed error: the daemon's, where the daemon said it."""
    problem = getattr(error, "problem", None)
    return problem.error if problem is not None else error.code


def _wrong_usage(error: TyperException) -> int:
    """A group without a command is answered with its help, everything else with what is wrong."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else completion.PROGRAM
    # Typer lays some of them out in lines, and leaves pydantic's prefix on others.
    message = " ".join(error.format_message().split()).replace("Value error, ", "")
    if type(error).__name__ == "NoArgsIsHelpError":  # which Typer does not export
        if "--json" not in sys.argv[1:]:
            print(error.format_message(), file=sys.stderr)
            return EXIT_USAGE
        message = f"{path} needs a command"
    return _fail("usage", message, f"{path} --help shows the usage", error.exit_code)


def _fail(code: str, message: str, remedy: str, exit_with: int) -> int:
    """Say what went wrong: with --json on stdout as JSON, else on stderr."""
    if "--json" in sys.argv[1:]:
        print_json({"error": code, "message": message, "remedy": remedy})
        return exit_with
    from synapsed.cli.output import clean  # noqa: PLC0415

    # A compiler's words have lines. They are marked, so that none is taken for one of ours.
    first, *further = message.expandtabs(4).splitlines() or [""]
    print(f"synapsectl: {clean(first)}", file=sys.stderr)
    for line in further:
        print(f"  | {clean(line)}", file=sys.stderr)
    if remedy:
        print(f"  {clean(remedy)}", file=sys.stderr)
    return exit_with or EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
