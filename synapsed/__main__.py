"""`synapsed init` and `synapsed run`: everything around the node, which node.py is.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 5 refused (another daemon runs).
"""

import argparse
import gc
import importlib.metadata
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

from protocols.errors import RefusedError, SynapseError
from synapsed import keys, paths
from synapsed.config import load as configload
from synapsed.config.options import Loaded
from synapsed.process import logs, sdnotify
from synapsed.process import metrics as process_metrics
from synapsed.process.lock import Lock
from synapsed.process.stopping import Stopping
from synapsed.process.supervise import leaves

log = logging.getLogger("synapsed")

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED = 0, 1, 2, 5


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
    except SynapseError as error:
        print(f"synapsed: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return EXIT_FAILED
    return code


def exit_code(error: SynapseError) -> int:
    """What a typed error ends the process with."""
    if isinstance(error, configload.ConfigError | keys.IdentityMissingError):
        return EXIT_USAGE
    # `conflict`: something else listens at the control socket.
    refused = isinstance(error, RefusedError) or error.code == "conflict"
    return EXIT_REFUSED if refused else EXIT_FAILED


class _Version(argparse.Action):
    """Looks the version up only when asked: the daemon starts without reading metadata."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        print(f"synapsed {importlib.metadata.version('synapsed')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="synapsed", description="A daemon that holds and shares models with its peers."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="make an identity and a commented config")
    init.add_argument("--network", metavar="ID", help="the network to join")
    init.add_argument("--profile", help="home (the default), server or lab")
    init.add_argument(
        "--bootstrap", metavar="ADDR", action="append", help="a peer to dial first; repeatable"
    )
    init.add_argument(
        "--listen", metavar="ADDR", action="append", help="where to listen, if not on port 4817"
    )
    init.add_argument(
        "--genesis", metavar="FILE", type=Path, help="follow the ledger that begins with this file"
    )
    init.add_argument(
        "--force", action="store_true", help="write the config anew (the identity always stays)"
    )
    init.set_defaults(command=_init)
    run = commands.add_parser("run", help="run the daemon in the foreground")
    run.add_argument(
        "--allow-weaker-jail",
        action="store_true",
        help="run upgrades although this kernel lacks a layer of the jail",
    )
    run.set_defaults(command=_run)
    for command in (init, run):
        command.add_argument("--home", metavar="DIR", help="all in one folder (or SYNAPSED_HOME)")
        command.add_argument("--config", metavar="FILE", help="the config (or SYNAPSED_CONFIG)")
    return parser


def _init(arguments: argparse.Namespace) -> int:
    places = paths.find(arguments.home, arguments.config, os.environ)
    options = {
        "network": arguments.network,
        "profile": arguments.profile,
        "net.bootstrap": arguments.bootstrap,
        "net.listen": arguments.listen,
    }
    given = {key: value for key, value in options.items() if value is not None}
    for line in initialise(places, given, force=arguments.force, genesis=arguments.genesis):
        print(line)
    return EXIT_DONE


def initialise(
    places: paths.Paths,
    given: dict[str, object],
    *,
    force: bool = False,
    genesis: Path | None = None,
) -> list[str]:
    """Make what is missing, keep what is there, and say which.

    `given` has values by dotted key as the file would hold them; the network's name may come
    from the genesis file. Raises ConfigError where they are wrong, or where a config that is
    there says otherwise and `force` is not set; GenesisError, WrongGenesisError.
    """
    # Imported late: only who has a genesis file needs the ledger's rules to be told of it.
    from protocols.ledger.errors import WrongGenesisError  # noqa: PLC0415
    from synapsed.ledger import genesis as founding  # noqa: PLC0415

    payload = None if genesis is None else founding.load(genesis)
    if payload is not None:
        network = founding.network_of(payload)
        given = {"network": network} | given
        if given["network"] != network:
            raise WrongGenesisError(
                f"{genesis} is the genesis of {network!r}, not of {given['network']!r}",
                remedy="leave --network away: the genesis names it",
            )
        founding.is_installed(places, payload)  # raises before anything is written
    chosen = configload.convert_options(given)
    places.create()
    written = configload.write_config(places.config_file, chosen, force=force)
    identity, new = keys.load_or_create(places.identity)
    lines = []
    if payload is not None:
        put = founding.install(places, payload)
        lines.append(f"genesis   {'made' if put else 'kept'}  {places.genesis}")
        lines.append(f"ledger    {founding.genesis_hash(payload).hex()}")
    return [
        f"identity  {'made' if new else 'kept'}  {places.identity}",
        f"config    {'made' if written else 'kept'}  {places.config_file}",
        *lines,
        f"peer id   {identity.text}",
    ]


def _run(arguments: argparse.Namespace) -> int:
    places = paths.find(arguments.home, arguments.config, os.environ)
    named = arguments.config or os.environ.get("SYNAPSED_CONFIG")
    exists = places.config_file.exists()
    said = dict(os.environ)
    if arguments.allow_weaker_jail:
        said["SYNAPSED_UPGRADES__ALLOW_WEAKER_JAIL"] = "true"
    loaded = configload.load(places.config_file if named or exists else None, said)
    logs.configure(loaded.config.log)
    try:
        return run_daemon(loaded, places, on_ready=lambda: None)
    except keys.IdentityMissingError as error:
        if arguments.home is None:
            raise
        remedy = f"`synapsed init --home {arguments.home}` makes one"
        raise keys.IdentityMissingError(error.message, remedy=remedy) from error


def run_daemon(loaded: Loaded, places: paths.Paths, on_ready: Callable[[], None]) -> int:
    """Run until a signal; the exit code. Also what each child of the fork server does."""
    stopping = Stopping()
    stopping.install()
    sys.excepthook = _log_uncaught
    identity = keys.load(places.identity)
    places.create()
    # The collector looks for garbage in vain while modules are loaded: a fifth of the start.
    gc.disable()
    with Lock(places.lock):
        # Imported late: what is wrong above is said at once, not after half a second of imports.
        from synapsed.node import run_node  # noqa: PLC0415

        logs.tame()

        def ready() -> None:
            gc.freeze()  # nor need it ever look at the modules again: its pauses get shorter
            gc.enable()
            log.info("ready", extra={"fields": {"peer": identity.text, "after_s": _age()}})
            sdnotify.notify("READY=1", f"STATUS={identity.text} on {loaded.config.network}")
            on_ready()

        async def serve() -> None:
            stop = trio.Event()
            stopping.bind(stop)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sdnotify.watchdog)
                await run_node(loaded, places, identity, ready=ready, stop=stop)
                nursery.cancel_scope.cancel()

        return _run_trio(serve)


def _run_trio(serve: Callable[[], Awaitable[None]]) -> int:
    code = EXIT_DONE
    try:
        trio.run(serve)
    except* SynapseError as group:
        for error in leaves(group):
            log.error("%s", error)
            code = exit_code(error)
    if code == EXIT_DONE:
        log.info("stopped", extra={"fields": {"after_s": _age()}})
    return code


def _age() -> float:
    """Seconds that this process has lived."""
    return round(process_metrics.age(), 2)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    log.critical("the daemon failed", exc_info=(kind, error, trace))


if __name__ == "__main__":
    sys.exit(main())
