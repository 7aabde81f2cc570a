"""Whether the council still ratifies, as far as this daemon sees, and if not, who is missing.

An idle council ratifies a tick four times within a time-out, and a leader that is down is
replaced after one. What lasts longer is not a leader: too few members sign, or we hear nobody.
"""

import time
from collections.abc import Callable

from protocols.ledger.fold import LedgerState
from protocols.peerid import peer_id_text
from synapsed.ledger.service import LedgerService

TIME_OUTS = 3
"""Without anything ratified, until the owner is told: two leaders in a row may be down."""
SHOWN, MOST = 18, 8
"""Characters of a peer id, as other commands print it, and seats in one line."""
FAR = 16
"""Entries behind the newest: certificates carry a quorum's signatures, so who answers last is
missing from many of them."""


def warnings(service: LedgerService, alive: Callable[[bytes], bool]) -> list[str]:
    """What the owner should know of a council that ratifies nothing; `alive` by heartbeats."""
    state, quiet = service.ledger, service.quiet_s
    if quiet is None or quiet * 1000 < TIME_OUTS * state.params["council.time_out_ms"]:
        return []
    head = state.head.index
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.time / 1000))
    words = f"nothing is ratified, as far as this daemon sees, since {at} (index {head})"
    missing = _missing(service, state, alive)
    quorum = state.council.quorum
    signing = len(state.council.seats) - len(missing)
    if signing >= quorum:
        return [f"{words}, though {signing} seats seem up, and {quorum} must sign"]
    return [f"{words}: {signing} of the {quorum} seats that must sign seem up; {_list(missing)}"]


def _missing(
    service: LedgerService, state: LedgerState, alive: Callable[[bytes], bool]
) -> list[str]:
    """The seats that sign nothing, as far as we know, and why we think so."""
    signed, found = service.news.signed, []
    for number, seat in enumerate(state.council.seats):
        own = seat.identity == service.me
        last = signed.get(seat.identity)
        if own:
            why = "is ours and lost its state" if service.role == "lost-state" else ""
            why = why or ("is ours and cannot save" if service.stalled else "")
        elif not alive(seat.identity):
            why = "is down"
        elif signed and (last or state.council.start.index) + FAR < state.head.index:
            why = "signed nothing that we know of" if last is None else f"signed last at {last}"
        else:
            why = ""
        if why:
            found.append(f"seat {number} ({peer_id_text(seat.identity)[:SHOWN]}) {why}")
    return found


def _list(missing: list[str]) -> str:
    """All of a small council, and some of a large one."""
    shown = ", ".join(missing[:MOST])
    return shown if len(missing) <= MOST else f"{shown} and {len(missing) - MOST} more"
