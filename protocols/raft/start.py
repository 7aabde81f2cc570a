"""A seat's start, and its start again: what it signed, its log, and the term that it was in.

Rules of this file:
1. (rule 7, lost state) Whoever cannot remember what it signed says so and signs nothing.
2. A damaged entry is named, and fetched again from the others by its hash; nothing is cut off
   because of it, and nothing signed that rests on it.
3. What proves itself (the opening, certificates) is checked as if a stranger had sent it.
"""

from collections.abc import Mapping

from protocols.effects import Save
from protocols.errors import SignatureError
from protocols.ledger.council import Opening, check_certificate, check_opening
from protocols.raft.core import Core, start_of
from protocols.raft.ports import TABLE
from protocols.raft.state import saved_opening


def restore(core: Core, saved: Mapping[bytes, bytes]) -> Opening | None:
    """Take in what was saved; the current term's opening, if that was."""
    core.vows.load(saved)
    _check_high(core)
    if core.vows.lost:
        core.emit("council.lost-state", why=core.vows.lost)
    acked = core.vows.acked
    for key in core.log.restore(saved.items(), 0 if acked is None else acked.term):
        core.emit("council.damaged", entry=key.hex())
        core.effect(Save(TABLE, key, None))
    if core.proof is not None and core.proof.said.epoch == core.council.epoch:
        core.remember_myself(core.proof)
        core.hold(core.proof)
    return _opening(core, saved)


def _check_high(core: Core) -> None:
    """A high certificate that does not verify was never saved by us: the disk lies."""
    try:
        check_certificate(core.realm, core.council, core.vows.high, core.verify)
    except SignatureError as error:
        core.vows.lost = f"its certificate is false: {error}"
        core.vows.high = start_of(core.council).certificate


def _opening(core: Core, saved: Mapping[bytes, bytes]) -> Opening | None:
    opening = saved_opening(saved, core.council.epoch)
    if opening is None:
        return None
    try:
        check_certificate(core.realm, core.council, opening.certificate, core.verify)
        check_opening(core.realm, core.council, opening, core.verify)
    except SignatureError:
        return None  # whoever has it sends it again
    return opening


def stand(core: Core) -> None:
    """Take the log up again where it was left, once the term is known."""
    if core.opening is None and core.term == 1:
        core.opening = start_of(core.council)
    acked = core.vows.acked_in(core.term)
    for head in (core.vows.high.said.head, acked):
        if head is not None and head.index > core.ratified.index:
            core.align(head)
    core.tip = core.ratified.index if acked is None else max(core.ratified.index, acked.index)
    core.tip = min(core.tip, core.log.end.index)
