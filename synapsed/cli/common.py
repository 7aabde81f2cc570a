"""What every command has: the options that say which daemon and how to print, and `Cli`.

`command` registers a function whose first parameter is a `Cli`. The options below are added to
the function's own, and to the program's: `synapsectl --json peers` is `synapsectl peers --json`.
"""

import inspect
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, TypeVar

import typer

from protocols.errors import SynapseError
from synapsed.control.fields import CID_PATTERN
from synapsed.control.problems import TimedOutError

if TYPE_CHECKING:
    from synapsed.cli.output import Output
    from synapsed.control.client import Client
    from synapsed.control.models import Progress
    from synapsed.paths import Paths

T = TypeVar("T")

BRIEF_S = 30.0
"""For commands that answer at once, unless --timeout says otherwise. The daemon gives up at 20."""

SLOW_S = 620.0
"""For gc and doctor, which may walk a large store. The daemon gives up at 600."""

LONGEST_S = 1e6
"""Twelve days. The system's timers take no infinity."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="The daemon's home (SYNAPSED_HOME).")
]
Socket = Annotated[
    Path | None, typer.Option("--socket", metavar="PATH", help="The daemon's control socket.")
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Give up after so long."),
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours (also NO_COLOR).")]


def options(
    json: Json = False,
    home: Home = None,
    socket: Socket = None,
    timeout: Timeout = None,
    no_color: NoColor = False,
) -> None:
    """The shared options; read only by its signature."""


_SHARED = tuple(
    parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for parameter in inspect.signature(options).parameters.values()
)


def path_of(text: str) -> Path:
    """A path that the user named. An empty one is a variable that was not set, and no folder."""
    if not text:
        raise typer.BadParameter("an empty path names nothing")
    return Path(text)


class InterruptedByUserError(SynapseError):
    """Ctrl-C while the daemon worked for this command; it was told to stop."""

    code: ClassVar[str] = "interrupted"


class Cli:
    """One run of the program: which daemon, and how to print."""

    def __init__(self, shared: dict[str, Any]) -> None:
        self.json: bool = shared["json"]
        timeout: float | None = shared["timeout"]
        self.timeout = None if timeout is None else min(timeout, LONGEST_S)
        self._home: Path | None = shared["home"]
        self._socket: Path | None = shared["socket"]
        self._color = not (shared["no_color"] or os.environ.get("NO_COLOR"))
        if self.timeout is not None:
            signal.signal(signal.SIGALRM, self._too_late)
            signal.setitimer(signal.ITIMER_REAL, self.timeout)

    @property
    def out(self) -> "Output":
        """Where results go."""
        from synapsed.cli.output import Output  # noqa: PLC0415 - rich: 40 ms, and not for --json

        return Output(color=self._color)

    def client(self, patience: float = BRIEF_S) -> "Client":
        """A connection to the daemon, for calls that take up to `patience` seconds."""
        from synapsed.control.client import Client  # noqa: PLC0415 - httpx: 80 ms

        return Client(self.socket(), max(patience, self.timeout or 0))

    def work(
        self,
        client: "Client",
        what: str,
        path: str,
        kind: type[T],
        asked: object = None,
        **query: str | bool,
    ) -> T:
        """Long work at `path`, with a bar named `what`; its result, as `kind`."""
        sent = ""
        with self.out.progress(what) as show:

            def watch(now: "Progress") -> None:
                nonlocal sent
                sent = now.sent
                show(now)

            try:
                return client.work(path, kind, asked, watch, **query)
            except KeyboardInterrupt:
                remedy = _AFTER_INTERRUPT.get(what.partition(" ")[0], "")
                raise InterruptedByUserError(f"{what}: interrupted", remedy=remedy) from None
            except TimedOutError as error:
                if not sent:
                    raise
                raise TimedOutError(
                    f"{what}: {error.message}, but it was sent ({sent}): "
                    "the council may ratify it yet",
                    remedy=f"{_look(sent)} tells; `synapsectl council`, whether its members sign",
                ) from None

    def socket(self) -> Path:
        """The control socket: --socket, or where the daemon of this home has it."""
        if self._socket is not None:
            return self._socket.absolute()
        places = self.places()
        configured = os.environ.get("SYNAPSED_CONTROL__SOCKET")
        configured = configured or _configured_socket(places.config_file)
        return places.socket_at(configured) if configured else places.socket_in_use()

    def places(self) -> "Paths":
        """Where the daemon's things are, for --home and the environment."""
        from synapsed import paths  # noqa: PLC0415 - not for --help and completion

        return paths.find(self._home, None, os.environ)

    def done(self, value: object, show: Callable[["Output"], None]) -> None:
        """Print a result: as JSON, or as `show` does it for people."""
        if self.json:
            print_json(value)
        else:
            show(self.out)

    def attend(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run long work of this process itself, which needs no daemon. Where time is up it is
        cancelled, and cleans up: the timer's exception in the midst of trio's code would not."""
        import trio  # noqa: PLC0415 - 60 ms

        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)

        async def bounded() -> T:
            with trio.fail_after(left or LONGEST_S):
                return await work()

        try:
            return trio.run(bounded)
        except trio.TooSlowError:
            self._too_late()

    def _too_late(self, _signal: int = 0, _frame: FrameType | None = None) -> NoReturn:
        raise TimedOutError(
            f"not done within {self.timeout:g} s", remedy="give it more with --timeout SECONDS"
        )


def _look(sent: str) -> str:
    """The command that shows what became of something submitted."""
    if re.fullmatch(CID_PATTERN, sent):
        return f"`synapsectl proposal show {sent}`"
    return "`synapsectl ledger show`"


_AFTER_INTERRUPT = {
    "join": "it goes on in the daemon: `synapsectl train status` shows it, `train leave` ends it",
    "pull": "what has arrived is kept: the same command goes on from there",
    "submit": "what was sent may be ratified all the same: `synapsectl ledger show` tells",
    "import": "the same command goes on from there; `synapsectl gc` takes what is there already",
}


def _configured_socket(config_file: Path) -> str:
    """`socket` of [control] in the config; a config that cannot be read says nothing here."""
    import tomllib  # noqa: PLC0415

    try:
        config = tomllib.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    control = config.get("control", {})
    found = control.get("socket", "") if isinstance(control, dict) else ""
    return found if isinstance(found, str) else ""


def print_json(value: object) -> None:
    """One line of JSON on stdout, at once."""
    import msgspec  # noqa: PLC0415

    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def command(group: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register `function(cli, ...)` as a command, with the shared options added."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]

        @wraps(function)
        def run(context: typer.Context, **given: Any) -> None:
            before = context.obj or {}
            shared = {p.name: given.pop(p.name) or before.get(p.name) for p in _SHARED}
            function(Cli(shared), **given)

        first = inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_ONLY, annotation=typer.Context
        )
        keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        signature = inspect.Signature([first, *keywords, *_SHARED])
        run.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        group.command(name)(run)
        return function

    return register
