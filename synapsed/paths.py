"""Where everything of one daemon lies.

With a home folder (`--home DIR` or SYNAPSED_HOME) all is below it; without, the XDG base
directories are followed. All folders are made 0700: a store tells what its owner runs.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import platformdirs

from protocols.errors import SynapseError

APP = "synapsed"

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path on Linux: sun_path has 108 with its closing zero."""


class PathError(SynapseError):
    """A place that cannot be used as one of the daemon's."""

    code = "bad-path"


class Paths(msgspec.Struct, frozen=True):
    """The places of one daemon. The lock lies beside the store, because that is what it guards."""

    config_file: Path
    data: Path
    runtime: Path
    is_home: bool = False
    """Whether all is in one folder of the owner's choice."""

    @property
    def identity(self) -> Path:
        """The private key, 0600."""
        return self.data / "identity.key"

    @property
    def lock(self) -> Path:
        """What a running daemon holds, so that no second one opens the same data."""
        return self.data / "daemon.lock"

    @property
    def store(self) -> Path:
        """Blocks, TensorBlocks and the state database."""
        return self.data / "store"

    @property
    def genesis(self) -> Path:
        """The genesis file of the network; without one there is no ledger."""
        return self.data / "genesis.toml"

    @property
    def ledger(self) -> Path:
        """The ledger's database, with the seat key in it."""
        return self.data / "ledger.db"

    @property
    def jail(self) -> Path:
        """What the compiler made of modules, and the key that vouches for it."""
        return self.data / "jail"

    @property
    def training(self) -> Path:
        """What models that learn are made of: deltas, results, versions."""
        return self.data / "training"

    @property
    def recorded(self) -> Path:
        """The last batches of each slot, to replay."""
        return self.data / "recorded"

    @property
    def models(self) -> Path:
        """One folder per held model, as other programs map it."""
        return self.data / "models"

    @property
    def socket(self) -> Path:
        """The control socket, unless [control] socket says otherwise."""
        return self.runtime / "control.sock"

    def socket_in_use(self) -> Path:
        """Where the usual control socket is, for who wants to speak to it.

        A daemon that systemd started has it in the session's runtime folder, and one of a bare
        shell beside its data. Neither cron nor ssh or sudo need have the daemon's environment.
        """
        usual = self.socket_at("")
        if self.is_home:
            return usual
        others = (_run_folder() / usual.name, self.data / usual.name)
        return next((path for path in (usual, *others) if _is_socket(path)), usual)

    def socket_at(self, configured: str) -> Path:
        """The control socket under the configured value; PathError where it is too long."""
        path = self.data / configured if configured else self.socket
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise PathError(
                f"the control socket's path {path} is longer than {MAX_SOCKET_PATH} bytes",
                remedy="set socket in [control], or SYNAPSED_CONTROL__SOCKET, to a shorter path",
            )
        return path

    def create(self) -> None:
        """Make the folders that are missing, for the owner alone."""
        for folder in (self.data, self.config_file.parent, self.runtime):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise PathError(
                    f"cannot make the folder {folder}: {error.strerror}",
                    remedy="choose another place with --home DIR or SYNAPSED_HOME",
                ) from error
        for folder in (self.data, self.runtime):
            _check_ours(folder)


def _check_ours(folder: Path) -> None:
    """Refuse a folder that somebody else prepared, as anybody can in /tmp."""
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
        raise PathError(
            f"the folder {folder} belongs to user {status.st_uid} with mode "
            f"{stat.S_IMODE(status.st_mode):04o}: somebody else could put things there",
            remedy=f"`chown` and `chmod 700` {folder}, or choose another with --home",
        )


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _run_folder() -> Path:
    """What systemd calls %t/synapsed, for who is not told XDG_RUNTIME_DIR."""
    return Path(f"/run/user/{os.geteuid()}", APP)


def find(home: str | Path | None, config: str | Path | None, env: Mapping[str, str]) -> Paths:
    """The places for `--home` and `--config` (None: not given) under `env`."""
    home = home or env.get("SYNAPSED_HOME")
    config = config or env.get("SYNAPSED_CONFIG")
    if home:
        top = Path(home).expanduser().absolute()
        return Paths(Path(config or top / "config.toml").absolute(), top, top, is_home=True)
    dirs = platformdirs.PlatformDirs(APP, appauthor=False)
    config_file = Path(config) if config else dirs.user_config_path / "config.toml"
    runtime = _session_folder(env) or dirs.user_data_path
    return Paths(config_file.absolute(), dirs.user_data_path, runtime)


def _session_folder(env: Mapping[str, str]) -> Path | None:
    """Below XDG_RUNTIME_DIR. None, so that the socket lies with the data, where it is not usable.

    Without a session manager there is none, and `sudo -E` leaves that of another user.
    """
    top = env.get("XDG_RUNTIME_DIR", "")
    try:
        status = os.stat(top)
    except (OSError, ValueError):
        return None
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return Path(top, APP).absolute() if is_ours and stat.S_ISDIR(status.st_mode) else None
