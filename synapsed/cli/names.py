"""Short names: every command takes a CID, a peer id, their beginnings, or a model's name."""

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from protocols.errors import SynapseError
from synapsed.control.fields import CID_PATTERN
from synapsed.control.ledgermodels import Proposals
from synapsed.control.models import Announcements, ModelInfo, Models, Peers, Status
from synapsed.control.upgrademodels import Upgrades
from synapsed.training.said import TrainingSaid, TrainStatus

if TYPE_CHECKING:
    from synapsed.control.client import Client

MIN_PREFIX = 4
"""Characters of an id that may stand for it: fewer are too easily a slip."""


class NoSuchNameError(SynapseError):
    """A short name that stands for nothing, or for several things."""

    code: ClassVar[str] = "no-such-name"


def is_kept(model: ModelInfo) -> bool:
    """Whether a model is here to stay, or whole. Of others' some headers come here as well."""
    return model.pinned or model.complete


def model_cid(client: "Client", text: str, *, announced: bool = False) -> str:
    """The CID that `text` stands for, among held models and, at will, announced ones."""
    if re.fullmatch(CID_PATTERN, text):
        return text
    held = client.call("GET", "/v1/models", Models).models
    by_name = {model.cid for model in held if model.name == text}
    if len(by_name) == 1:
        return by_name.pop()
    known = {model.cid for model in held}
    if announced:
        catalog = client.call("GET", "/v1/announcements", Announcements).announcements
        known |= {entry.subject for entry in catalog}
    lists = "synapsectl model ls --all lists them"
    near = _near(text, {model.name for model in held})
    remedy = f"did you mean {near!r}? {lists}" if near else lists
    return _one(text, known | by_name, by_name, "model", remedy)


def training_cid(client: "Client", text: str) -> str:
    """The same, and what the ledger has in training is known although it is not held here. By a
    name or beginning that a training and a held model have, the training is meant."""
    if re.fullmatch(CID_PATTERN, text):
        return text
    found = client.call("GET", "/v1/training", TrainStatus).trainings
    named = {each.lineage for each in found if each.name == text}
    named = named or {each.lineage for each in found if _begins(text, each)}
    return named.pop() if len(named) == 1 else model_cid(client, text)


def _begins(text: str, training: TrainingSaid) -> bool:
    cids = (training.lineage, training.head)
    return len(text) >= MIN_PREFIX and any(cid.startswith(text) for cid in cids)


def announcement_id(client: "Client", text: str) -> str:
    """The id of the announcement that `text` stands for."""
    if re.fullmatch(CID_PATTERN, text):
        return text
    catalog = client.call("GET", "/v1/announcements", Announcements).announcements
    known = {entry.id for entry in catalog}
    return _one(text, known, (), "announcement", "synapsectl announcements lists them")


def subject_cid(client: "Client", text: str) -> str:
    """The CID of what announcements are about, that `text` stands for; or a model's by its name."""
    if re.fullmatch(CID_PATTERN, text):
        return text
    catalog = client.call("GET", "/v1/announcements", Announcements).announcements
    held = client.call("GET", "/v1/models", Models).models
    by_name = {model.cid for model in held if model.name == text}
    known = {entry.subject for entry in catalog}
    return _one(text, known, by_name, "subject", "synapsectl announcements lists them")


def proposal_cid(client: "Client", text: str, state: str | None = None) -> str:
    """The CID of the proposal that `text` stands for, among those of one state or all."""
    if re.fullmatch(CID_PATTERN, text):
        return text
    query = {} if state is None else {"state": state}
    found = client.call("GET", "/v1/proposals", Proposals, **query).proposals
    what = "proposal" if state is None else f"{state} proposal"
    known = {each.cid for each in found}
    return _one(text, known, (), what, "synapsectl proposal ls lists them")


def upgrade_cid(client: "Client", text: str) -> str:
    """The CID of the upgrade that `text` stands for: of a slot, the newest that was proposed."""
    if re.fullmatch(CID_PATTERN, text):
        return text
    found = client.call("GET", "/v1/upgrades", Upgrades).upgrades
    newest = [each.proposal for each in found if each.slot == text][:1]
    known = {each.proposal for each in found}
    return _one(text, known, newest, "upgrade", "synapsectl upgrade ls lists them")


def slot_named(text: str) -> str:
    """A slot's name; NoSuchNameError with the one that was probably meant."""
    from protocols.slots.closed_list import SLOTS  # noqa: PLC0415 - their definitions

    if text not in SLOTS:
        near = _near(text, set(SLOTS))
        meant = f"did you mean {near!r}? " if near else ""
        raise NoSuchNameError(
            f"there is no slot {text[:80]!r}",
            remedy=f"{meant}there are {', '.join(SLOTS)}: `synapsectl upgrade slots`",
        )
    return text


def peer_id(client: "Client", text: str, *, own: bool = False) -> str:
    """The peer id that `text` stands for, among connected and live peers and, at will, our own."""
    if len(text) > 50:
        return text
    known = {peer.peer_id for peer in client.call("GET", "/v1/peers", Peers, which="all").peers}
    if own:
        known.add(client.call("GET", "/v1/status", Status).peer_id)
    return _one(text, known, (), "peer", "synapsectl peers --all lists them")


def _near(text: str, names: set[str]) -> str:
    """The one name that was probably meant."""
    begun = [name for name in names if name.lower().startswith(text.lower())]
    close = begun if len(begun) == 1 else difflib.get_close_matches(text, names, n=1, cutoff=0.7)
    return close[0] if close else ""


def _one(text: str, known: Iterable[str], named: Iterable[str], what: str, remedy: str) -> str:
    """The only id in `known` that begins with `text`; several in `named` go by that name."""
    found = set(named)
    if len(text) >= MIN_PREFIX:
        found |= {each for each in known if each.startswith(text)}
    if len(found) == 1:
        return found.pop()
    if found:
        raise NoSuchNameError(
            f"{text!r} stands for {len(found)} {what}s", remedy="give more of its id"
        )
    raise NoSuchNameError(f"no {what} here is called {text!r}", remedy=remedy)
