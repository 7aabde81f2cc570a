"""Writes announcement.json, heartbeat.json, reconcile.json and rendezvous.json beside it.

    python -m tests.vectors.make_gossip

Keys are Ed25519 seeds of one byte repeated; times are Unix milliseconds; bytes are hex.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from protocols.cid import cid_of, cid_text
from protocols.codec import encode
from protocols.envelope import domain, seal
from protocols.gossip.announcement import PAYLOAD_TYPE, USE, announcement_id, kind_of_body
from protocols.gossip.heartbeat import PAYLOAD_TYPE as HEARTBEAT_TYPE
from protocols.gossip.heartbeat import USE as HEARTBEAT_USE
from protocols.gossip.heartbeat import Counters, Heartbeat, pack_batch
from protocols.gossip.reconcile import Reconciler, Turn
from protocols.packing import pack
from protocols.peerid import peer_id_text
from protocols.rendezvous import MAX_WEIGHT, cost, rank
from tests.gossip_kit import NETWORK, NOW_MS, announce, bodies, identity, sealed, shard

HERE = Path(__file__).parent


def announcements() -> dict[str, Any]:
    """One of each kind, and a withdrawn one: payload, id, envelope."""
    who = identity(2)
    cases = []
    for body, withdrawn in [*((body, False) for body in bodies()), (shard(tiles=()), True)]:
        payload = encode(announce(who, body, withdrawn=withdrawn))
        cases.append(
            {
                "kind": kind_of_body(body),
                "withdrawn": withdrawn,
                "payload": payload.hex(),
                "cid": cid_text(cid_of(payload)),
                "id": announcement_id(payload).hex(),
                "envelope": sealed(who, body, withdrawn=withdrawn).hex(),
            }
        )
    return {
        "network": NETWORK,
        "domain": domain(NETWORK, USE).decode(),
        "payload_type": PAYLOAD_TYPE.decode(),
        "issuer": peer_id_text(who.peer_id),
        "public_key": who.public_key.hex(),
        "now_ms": NOW_MS,
        "cases": cases,
    }


def heartbeats() -> dict[str, Any]:
    """A heartbeat, a goodbye, and the batch of both."""
    who = identity(2)
    envelopes = []
    cases = []
    for ttl in (20_000, 0):
        payload = encode(
            Heartbeat(
                issuer=who.peer_id,
                seq=NOW_MS + (ttl == 0),
                issued=NOW_MS,
                ttl=ttl,
                addrs=("/ip4/192.0.2.1/tcp/4817",),
                agent="synapsed/0.1.0",
                counters=Counters(held=91_000_000, free=1 << 35, upload=2_500_000),
            )
        )
        where = domain(NETWORK, HEARTBEAT_USE)
        envelopes.append(seal(where, HEARTBEAT_TYPE, payload, who.public_key, who.sign))
        cases.append({"payload": payload.hex(), "envelope": envelopes[-1].hex()})
    return {
        "network": NETWORK,
        "domain": domain(NETWORK, HEARTBEAT_USE).decode(),
        "payload_type": HEARTBEAT_TYPE.decode(),
        "issuer": peer_id_text(who.peer_id),
        "now_ms": NOW_MS,
        "cases": cases,
        "batch": {
            "ages": [0, 1500],
            "frame": pack_batch(list(zip([0, 1500], envelopes, strict=True))).hex(),
        },
    }


def reconciliations() -> dict[str, Any]:
    """The first turn over sets of ids, and what another set answers to it."""
    cases = []
    for count, lacking in ((0, []), (5, []), (100, [7]), (1000, [3, 500])):
        everything = sorted(hashlib.sha256(f"{n}".encode()).digest() for n in range(count))
        mine = [one for at, one in enumerate(everything) if at not in lacking]
        first = Reconciler(everything).first()
        answer = Reconciler(mine).answer(first)
        cases.append(
            {
                "ids": f"sha256 of the decimal numbers 0 to {count - 1}, sorted",
                "count": count,
                "lacking": lacking,
                "first": pack(Turn(ranges=first, want=(), lengths=()), []).hex(),
                "answer": pack(Turn(ranges=answer.ranges, want=(), lengths=()), []).hex(),
                "have": [one.hex() for one in answer.have],
                "need": [one.hex() for one in answer.need],
            }
        )
    return {"cases": cases}


def rendezvous() -> dict[str, Any]:
    """Costs and ranks."""
    names = [hashlib.sha256(f"node {n}".encode()).digest() for n in range(6)]
    costs = [
        {
            "key": key.hex(),
            "node": node.hex(),
            "weight": weight,
            "cost": str(cost(key, node, weight)),
        }
        for key in (b"", b"tile group 0", b"\xff" * 40)
        for node in names[:2]
        for weight in (1, 3, MAX_WEIGHT)
    ]
    weights = [1, 1, 2, 4, 0, 1 << 30]
    ranks = []
    for n in range(4):
        key = f"group {n}".encode()
        nodes = list(zip(names, weights, strict=True))
        ranks.append(
            {
                "key": key.hex(),
                "nodes": [[node.hex(), weight] for node, weight in nodes],
                "rank": [node.hex() for node in rank(key, nodes)],
            }
        )
    return {"costs": costs, "ranks": ranks}


def everything() -> dict[str, dict[str, Any]]:
    return {
        "announcement.json": announcements(),
        "heartbeat.json": heartbeats(),
        "reconcile.json": reconciliations(),
        "rendezvous.json": rendezvous(),
    }


if __name__ == "__main__":
    for name, content in everything().items():
        (HERE / name).write_text(json.dumps(content, indent=1) + "\n")
