"""What holds: the owner's own settings, and below them what the network has ratified.

    the owner's explicit setting   a line of the config, a variable, `synapsectl limits`
    a ratified parameter           in force from its entry's index on, on every daemon
    the profile, the built-in      what holds without either

A parameter that no entry has set, and that the genesis states as every version's registry does,
says nothing new: then the profile stands. What is in force names the entry, and the certificate
that covers it, so that two daemons can be seen to act on the same decision.
"""

from collections.abc import Callable

import msgspec

from protocols.ledger.fold import LedgerState
from protocols.ledger.params import REGISTRY
from synapsed.config.options import Loaded, value_at

USED = ("limits.upload", "limits.download")
"""Parameters of the network that this daemon acts on, beside the ledger's own; each is also the
name of a setting."""


class Ratified(msgspec.Struct, frozen=True):
    """A parameter's value in force, and the decision that it comes from."""

    value: int
    index: int
    """Of the entry that set it; 0 for the genesis."""
    proposal: bytes | None = None


class InForce:
    """The values of USED; `apply` is called with a name and its value when that changes."""

    def __init__(self, loaded: Loaded, apply: Callable[[str, int], None]) -> None:
        self._loaded = loaded
        self._apply = apply
        self._own: dict[str, int] = {}
        self.ratified: dict[str, Ratified] = {}
        """By name; what is not here, the ledger says nothing about."""

    def explicit(self, name: str) -> str | None:
        """Where the owner's own setting stands, if there is one."""
        if name in self._own:
            return "limits"
        origin = self._loaded.origins[name]
        given = origin != "default" and not origin.startswith("profile ")
        return origin if given else None

    def value(self, name: str) -> int:
        """What holds."""
        if name in self._own:
            return self._own[name]
        found = self.ratified.get(name)
        if found is None or self.explicit(name) is not None:
            return int(value_at(self._loaded.config, name))
        return found.value

    def origin(self, name: str) -> str:
        """Why it holds, as `config show --origin` says it."""
        found = self.ratified.get(name)
        if self.explicit(name) is not None or found is None:
            return self.explicit(name) or self._loaded.origins[name]
        return f"ledger {found.index}" if found.index else "genesis"

    def local(self) -> dict[str, str]:
        """What holds here instead of what is ratified, in words, by name."""
        found = {}
        for name in USED:
            origin = self.explicit(name)
            if origin is None and name not in self.ratified:
                origin = self._loaded.origins[name]
            if origin is not None:
                found[name] = f"{self.value(name)} ({origin})"
        return found

    def set_own(self, name: str, value: int) -> None:
        """The owner says so, until the restart."""
        self._own[name] = value
        self._apply(name, value)

    def advanced(self, ledger: LedgerState) -> None:
        """The ledger has come further."""
        for name in USED:
            value, origin = ledger.params[name], ledger.origins.get(name)
            if origin is not None:
                found = Ratified(value, origin.index, origin.proposal)
            elif value != REGISTRY[name].default:
                found = Ratified(value, 0)
            else:
                continue
            if found == self.ratified.get(name):
                continue
            before = self.value(name)
            self.ratified[name] = found
            if self.value(name) != before:
                self._apply(name, self.value(name))
