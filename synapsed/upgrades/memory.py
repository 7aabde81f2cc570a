"""What one daemon remembers of upgrades beside the ledger: its owner's will, and what broke here.

    mode        the owner's, said while the daemon runs: for all slots, or for one
    word        accept or refuse, of one proposal
    ran         modules that were in force here while nobody had to be asked
    quarantine  modules that broke here, and why

What answers a call is the ledger's word; these take a module out of it on this one daemon. All of
it is on disk at once, so that a crash changes nothing.
"""

import logging
import time
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import msgspec

from protocols.changes import NATIVE
from protocols.errors import RefusedError
from synapsed.config.options import UpgradeMode, UpgradesConfig
from synapsed.ports import Table

log = logging.getLogger(__name__)

MAX_REMEMBERED = 512
"""Words and quarantined modules, each: more than can be open at once; the oldest go first."""
MAX_RAN = 8
"""Modules of one slot: the one in force, those that the ledger still names, and some to spare."""
HASH = 32

T = TypeVar("T", bound=msgspec.Struct)


class UnknownSlotError(RefusedError):
    """A slot that there is not."""

    code = "unknown-slot"


Said = Literal["accept", "refuse"]


class Word(msgspec.Struct, frozen=True):
    """What the owner said of a proposal."""

    slot: str
    module: bytes
    said: Said
    at: float


class Broken(msgspec.Struct, frozen=True):
    """A module that is not run here any more."""

    slot: str
    module: bytes
    version: int
    why: str
    at: float


class Memory:
    """Kept in one table of state.db. Every change is on disk on return; StoreError otherwise."""

    def __init__(
        self, table: Table, config: UpgradesConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._table = table
        self._config = config
        self._clock = clock
        self._modes: dict[str, UpgradeMode] = {}
        self.words: dict[bytes, Word] = {}
        """By proposal."""
        self._broken: dict[bytes, Broken] = {}
        self._ran: dict[str, tuple[bytes, ...]] = {}
        for key, value in table.items():
            try:
                self._restore(key, value)
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.warning("something that was remembered of upgrades is damaged: %r", key[:40])

    def _restore(self, key: bytes, value: bytes) -> None:
        kind, _, name = key.partition(b"/")
        match kind:
            case b"mode":
                said = value.decode()
                if said in get_args(UpgradeMode):
                    self._modes[name.decode()] = said  # type: ignore[assignment]  # looked at
            case b"word":
                self.words[name] = _decode(value, Word)
            case b"broken":
                self._broken[name] = _decode(value, Broken)
            case b"ran":
                parts = range(0, len(value), HASH)
                self._ran[name.decode()] = tuple(value[at : at + HASH] for at in parts)

    # -- mode --

    def mode(self, slot: str) -> UpgradeMode:
        """What was said last, of the slot or of all; else the config's, in the same order."""
        own: UpgradeMode | Literal[""] = getattr(self._config.slots, slot, "")
        return self._modes.get(slot) or self._modes.get("") or own or self._config.mode

    def origin(self, slot: str) -> str:
        """Where `mode` comes from."""
        if slot in self._modes or "" in self._modes:
            return "upgrade mode"
        return "config"

    def set_mode(self, mode: UpgradeMode | None, slot: str | None = None) -> None:
        """From now on and after a restart; of all slots where none is named, whatever was said of
        single ones before. None: what the config says, again."""
        forgotten = [slot] if slot is not None else list(self._modes)
        for name in forgotten:
            self._table.delete(b"mode/" + name.encode())
            self._modes.pop(name, None)
        if mode is not None:
            self._table.put(b"mode/" + (slot or "").encode(), mode.encode())
            self._modes[slot or ""] = mode

    # -- the owner's word --

    def say(self, proposal: bytes, slot: str, module: bytes, said: Said) -> None:
        """`accept` or `refuse`; the last word holds. Accepting ends a quarantine."""
        word = Word(slot=slot, module=module, said=said, at=self._clock())
        self._put(b"word/", proposal, word)
        self.words.pop(proposal, None)
        self.words[proposal] = word
        self._bound(b"word/", self.words)
        if word.said == "accept" and self.broken(slot, module) is not None:
            self._table.delete(b"broken/" + _name(slot, module))
            del self._broken[_name(slot, module)]

    def word_on(self, proposal: bytes, slot: str, module: bytes) -> str:
        """`accept`, `refuse`, or "" where the owner said nothing. What was said of the bytes holds
        for them, whichever later proposal brings them back."""
        if (word := self.words.get(proposal)) is not None:
            return word.said
        if module == NATIVE:  # no bytes: nothing is known of it but by its proposal
            return ""
        about = [word for word in self.words.values() if (word.slot, word.module) == (slot, module)]
        return max(about, key=lambda word: word.at).said if about else ""

    def ran(self, slot: str, module: bytes) -> None:
        """It is in force, and nobody has to be asked."""
        known = self._ran.get(slot, ())
        if module in known:
            return
        known = (*known, module)[-MAX_RAN:]
        self._table.put(b"ran/" + slot.encode(), b"".join(known))
        self._ran[slot] = known

    def has_run(self, slot: str, module: bytes) -> bool:
        """Whether it was in force here before the owner wanted to be asked."""
        return module in self._ran.get(slot, ())

    # -- quarantine --

    def isolate(self, slot: str, module: bytes, version: int, why: str) -> None:
        """Run it no more; on a full disk, until the restart."""
        broken = Broken(slot=slot, module=module, version=version, why=why, at=self._clock())
        self._broken[_name(slot, module)] = broken
        self._put(b"broken/", _name(slot, module), broken)
        self._bound(b"broken/", self._broken)

    def broken(self, slot: str, module: bytes) -> Broken | None:
        """Why a module is not run in a slot, if it is not."""
        return self._broken.get(_name(slot, module))

    def quarantine(self) -> list[Broken]:
        """All that is in it."""
        return list(self._broken.values())

    def _put(self, prefix: bytes, key: bytes, value: msgspec.Struct) -> None:
        self._table.put(prefix + key, msgspec.msgpack.encode(value))

    def _bound(self, prefix: bytes, known: dict[bytes, Word] | dict[bytes, Broken]) -> None:
        while len(known) > MAX_REMEMBERED:
            oldest = min(known, key=lambda key: known[key].at)
            self._table.delete(prefix + oldest)
            del known[oldest]


def _name(slot: str, module: bytes) -> bytes:
    """Of a module in one slot: in another one it may do well, and nobody shall have it taken out
    of service here by proposing it there."""
    return slot.encode() + b"/" + module


def _decode(value: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(value, type=kind)
