"""One real daemon of a world: its home, its address, its life, and its control socket."""

import enum
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from protocols.errors import SynapseError
from simnet.addresses import home_ip, proxy_ip
from simnet.forks import Forked, ForkServer
from simnet.timeline import Runs
from synapsed import keys, paths
from synapsed.control import models
from synapsed.control.client import AsyncClient

READY_PATIENCE_S = 60.0
"""From fork to ready: 0.1 s on an idle machine; a hundred at once on two cores take longer."""

STOP_PATIENCE_S = 10.0
"""From SIGTERM to the end: five times what a daemon promises."""

ANSWER_PATIENCE_S = 30.0
"""For one answer over the control socket: milliseconds, unless two cores carry a hundred."""


class Life(enum.Enum):
    """What a daemon is doing."""

    NEW = "new"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


class LifeError(SynapseError):
    """A daemon did not start, or not end, as a step needs."""

    code = "daemon-life"


class Daemon:
    """A daemon; it is made when the world is, and started by a step."""

    def __init__(self, index: int, home: Path, port: int, *, proxied: bool, seed: int) -> None:
        self.index = index
        self.home = home
        self.port = port
        self.life = Life.NEW
        self.died = False  # it ended, and nobody here had asked for it
        self.places = paths.find(home, None, {})
        self.identity = keys.create(self.places.identity, random=_seeded(seed, index))
        self.announced_ip = proxy_ip(index) if proxied else home_ip(index)
        self.client = AsyncClient(self.places.socket, ANSWER_PATIENCE_S)
        self._forked: Forked | None = None
        self._asked_to_end = False

    def __str__(self) -> str:
        return f"daemon {self.index}"

    @property
    def address(self) -> str:
        """The multiaddr at which others reach it."""
        return f"/ip4/{self.announced_ip}/tcp/{self.port}/p2p/{self.identity.text}"

    @property
    def up(self) -> bool:
        """Whether it runs and answers."""
        return self.life is Life.RUNNING

    def configure(
        self, network: str, bootstrap: list[str], extra: dict[str, dict[str, Any]]
    ) -> None:
        """Write its config file: what a world needs, and over that what the scenario says."""
        tables: dict[str, dict[str, Any]] = {
            "net": {
                "listen": [f"/ip4/{home_ip(self.index)}/tcp/{self.port}"],
                "announce": [f"/ip4/{self.announced_ip}/tcp/{self.port}"],
                "bootstrap": bootstrap,
                "dial_from": home_ip(self.index),
            },
        }
        for table, entries in extra.items():
            tables.setdefault(table, {}).update(entries)
        lines = [f"network = {json.dumps(network)}", 'profile = "lab"']
        for table, entries in tables.items():
            lines += ["", f"[{table}]"]
            # JSON's scalars and lists are TOML's too.
            lines += [f"{key} = {json.dumps(value)}" for key, value in entries.items()]
        self.places.config_file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    async def start(self, forks: ForkServer) -> float:
        """Start it; seconds until it was ready. LifeError where it ends before."""
        self._asked_to_end = self.died = False
        self._forked = forked = await forks.spawn(str(self.index), self.home)
        with trio.move_on_after(READY_PATIENCE_S):
            async with trio.open_nursery() as nursery:

                async def first(event: trio.Event) -> None:
                    await event.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(first, forked.ready)
                nursery.start_soon(first, forked.ended)
        if not forked.ready.is_set() or forked.ended.is_set():
            raise LifeError(f"{self} did not become ready: {self.last_words()}")
        self.life = Life.RUNNING
        return forked.ready_after

    async def signal(self, forks: ForkServer, number: str) -> None:
        """Send a signal; KILL and TERM are expected ends and are waited for."""
        forked = self._forked
        if forked is None or self.life in (Life.NEW, Life.ENDED):
            raise LifeError(f"{self} is not running")
        if number in ("KILL", "TERM"):
            self._asked_to_end = True
        await forks.signal(forked, number)
        if number == "STOP":
            self.life = Life.PAUSED
            await self._stopped()
        elif number == "CONT":
            self.life = Life.RUNNING
        else:
            with trio.move_on_after(STOP_PATIENCE_S):
                await forked.ended.wait()
            if not forked.ended.is_set():
                raise LifeError(f"{self} outlived SIG{number} by {STOP_PATIENCE_S:.0f} s")

    async def _stopped(self) -> None:
        """Return once the kernel shows it as stopped: signals arrive in their own time."""
        with trio.move_on_after(STOP_PATIENCE_S):
            while Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
                await trio.sleep(0.001)

    def ended(self) -> None:
        """The fork server says that it has ended."""
        self.life = Life.ENDED
        self.died = not self._asked_to_end

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._forked.status if self._forked else None

    @property
    def pid(self) -> int:
        """Its process, while it runs."""
        return self._forked.pid if self._forked else 0

    # -- what it says -----------------------------------------------------------------------

    async def get_status(self) -> models.Status:
        """`GET /v1/status`."""
        return await self.client.call("GET", "/v1/status", models.Status)

    async def peers(self, which: models.Which) -> list[models.PeerInfo]:
        """`GET /v1/peers`."""
        found = await self.client.call("GET", "/v1/peers", models.Peers, which=which)
        return found.peers

    async def announcements(self, **query: str) -> list[models.AnnouncementInfo]:
        """`GET /v1/announcements`, by `kind` and `subject` at will."""
        found = await self.client.call("GET", "/v1/announcements", models.Announcements, **query)
        return found.announcements

    async def model(self, cid: str) -> models.ModelDetail:
        """`GET /v1/models/{cid}`."""
        return await self.client.call("GET", f"/v1/models/{cid}", models.ModelDetail)

    async def models(self) -> list[models.ModelInfo]:
        """`GET /v1/models`."""
        return (await self.client.call("GET", "/v1/models", models.Models)).models

    async def own_tiles(self, cid: str) -> Runs:
        """The tiles of a model that it announces itself."""
        for said in await self.announcements(kind="shard", subject=cid):
            if said.own:
                return [(start, count) for start, count in said.body["tiles"]]
        return []

    def last_words(self) -> str:
        """The last lines of its log."""
        log = self.home / "daemon.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " | ".join(lines[-3:]) or "it logged nothing"


def _seeded(seed: int, index: int) -> Callable[[int], bytes]:
    """A source of bytes for an identity that is the same in every run of a seed.

    Rendezvous ranks peers by their ids, so reproducing a run needs the same ids.
    """
    return random.Random(f"{seed}/{index}").randbytes  # noqa: S311 - a seed is a reproduction
