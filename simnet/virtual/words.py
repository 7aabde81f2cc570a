"""What members say to each other, in words for the story of a run."""

from protocols.effects import Emit
from protocols.errors import SynapseError
from protocols.ledger.council import Kind, Statement
from protocols.raft.messages import (
    PROTOCOL,
    Append,
    Certified,
    Fetch,
    Fetched,
    Message,
    Opened,
    Signed,
    Suspicion,
    TimedOut,
    TimedOuts,
    unpack,
)
from simnet.virtual.node import GOSSIP
from simnet.virtual.node import Message as Carried


def _place(said: Statement) -> str:
    return f"{said.index} {said.hash[:4].hex()} in term {said.term}"


def words(message: Message) -> str:
    """One message between members."""
    text = ""
    match message:
        case Append(term=term, prev=prev, lengths=lengths):
            first, last = prev.index + 1, prev.index + len(lengths)
            what = f"entry {first}" if first == last else f"entries {first} to {last}"
            text = f"append {what} after {prev.hash[:4].hex()} in term {term}"
        case Signed(said=said):
            kind = "ack" if said.kind is Kind.ACK else "certificate-ack"
            text = f"{kind} of {_place(said)}"
        case Certified(certificate=certificate):
            done = "ratified" if certificate.ratifies else "certified"
            text = f"{done}: {_place(certificate.said)}, by {len(certificate.seats)} seats"
        case Suspicion(term=term, ratified=index):
            text = f"suspects the leader of term {term}, has {index} ratified"
        case TimedOut(signed=signed):
            out = signed.said
            text = f"time-out for term {out.term}, holds {out.index} of term {out.high_term}"
        case TimedOuts(time_outs=time_outs):
            text = f"{len(time_outs)} time-outs for term {time_outs[0].said.term}"
        case Opened(opening=opening):
            at = opening.certificate.said
            text = f"term {opening.term} opens at {_place(at)}"
        case Fetch(top=top, above=above):
            text = f"asks for entries {above + 1} to {top.index} {top.hash[:4].hex()}"
        case Fetched(headers=headers):
            text = f"gives entries {headers[-1].index} to {headers[0].index}"
    return text


def carried(message: Carried) -> str:
    """Anything that a node receives."""
    way, name, data = message
    if way == GOSSIP:
        return f"gossip of {name}, {len(data)} bytes"
    if name != PROTOCOL:
        return f"{name}, {len(data)} bytes"
    try:
        return words(unpack(data)[0])
    except SynapseError as error:
        return f"no message: {error.message}"


def event(emit: Emit, leader: str) -> str:
    """What a machine tells its owner. `leader` is the member that it speaks of, if it does."""
    fields = emit.fields
    told = {
        "council.suspects": f"suspects {leader} in term {fields.get('term')}",
        "council.timeout": f"times out: term {fields.get('term')} is to be {leader}'s",
        "council.leader": f"takes term {fields.get('term')} for open, under {leader}",
        "council.lost-state": f"signs nothing more: {fields.get('why')}",
        "council.damaged": "finds a damaged entry, and fetches it again",
        "ledger.loaded": f"has read its ledger up to {fields.get('index')}",
        "ledger.damaged": f"finds its disk damaged: {fields.get('what')}",
        "ledger.wrong-genesis": f"lets be who follows another genesis: {fields.get('theirs')}",
        "ledger.skipped": f"begins at a snapshot, above {fields.get('to')}",
    }
    return told.get(emit.kind, f"{emit.kind}: {fields}")
