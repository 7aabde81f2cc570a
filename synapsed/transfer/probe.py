"""Asking a holder for one sub-tile with its proof, so that it counts only for what it has."""

import trio

from protocols.errors import LimitError, MalformedError
from protocols.manifest import ModelManifest
from protocols.tensors.blocks import PROTOCOL, Proven, ProveRequest
from protocols.tensors.hashtree import HASH_BYTES
from protocols.tensors.tensorblock import Layout, split_hashes, verify_run
from synapsed.hashing import HASHER
from synapsed.net.errors import NetError
from synapsed.store import Store
from synapsed.transfer.errors import PeerRefusedError
from synapsed.transfer.plan import model_tiles
from synapsed.transfer.talk import Streams, Talk

PROBE_SECONDS = 20.0
"""For the answer, and again for the sub-tile: a loaded home uplink takes a few."""


async def probe(
    streams: Streams, store: Store, peer: bytes, model: ModelManifest, *, tile: int, pick: int
) -> bool | None:
    """Ask `peer` for a sub-tile of `tile` of a model, the `pick`-th modulo how many it has.

    True: it sent bytes that lead to the file's root. False: it does not have them, or sent
    others. None: it gave no answer (away, busy, paused). Raises IncompleteError where we do not
    have the model's headers, LeafRangeError for a tile that it does not have.
    """
    file, lo, hi = (await trio.to_thread.run_sync(model_tiles, store, model)).leaves(tile)
    ref = model.files[file]
    held = store.file_of(ref)
    layout = held.layout if held is not None else Layout.flat(ref.size)
    leaf = lo + pick % (hi - lo)
    try:
        async with streams.open_stream(peer, PROTOCOL) as stream:
            await _prove(Talk(stream), layout, ref.root, leaf)
    except NetError:
        return None
    except PeerRefusedError as error:
        return None if error.refusal.code in ("busy", "paused") else False
    except (MalformedError, LimitError):
        return False
    return True


async def _prove(talk: Talk, layout: Layout, root: bytes, leaf: int) -> None:
    """Raise PeerRefusedError, MalformedError or NetError unless the peer proves one leaf."""
    await talk.send(ProveRequest(root=root, leaf=leaf))
    answer = await talk.answer(Proven, PROBE_SECONDS)
    start, stop = layout.leaf_span(leaf)
    if answer.length != answer.hashes * HASH_BYTES + stop - start:
        raise MalformedError("a proof of another length than announced")
    raw = await talk.raw(answer.length, answer.length, PROBE_SECONDS)
    proof = split_hashes(raw[: answer.hashes * HASH_BYTES])
    found = HASHER.leaf(raw[answer.hashes * HASH_BYTES :])
    verify_run(HASHER, layout, root, leaf, leaf + 1, leaf_hashes=found, proof=proof)
