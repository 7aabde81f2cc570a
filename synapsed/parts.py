"""The parts of one running node, as its owner's requests reach them."""

import msgspec
import trio

from synapsed.compute.compute import Compute
from synapsed.config.inforce import InForce
from synapsed.config.options import Loaded
from synapsed.control.meters import MessageMeter
from synapsed.gossip.catalog import CatalogService
from synapsed.gossip.liveness import LivenessService
from synapsed.holdings.adapters import Adapters
from synapsed.holdings.eviction import Evictor
from synapsed.holdings.replicas import Replicas
from synapsed.holdings.replicator import Replicator
from synapsed.holdings.shards import Shards
from synapsed.holdings.uses import Uses
from synapsed.jail.jail import Jail
from synapsed.keys import Identity
from synapsed.ledger.examiner import Examiner
from synapsed.ledger.service import LedgerService
from synapsed.net import Net
from synapsed.paths import Paths
from synapsed.process.events import EventBus
from synapsed.process.looplag import LoopLag
from synapsed.process.tally import Tally
from synapsed.reach import Reach
from synapsed.store import Store
from synapsed.training.service import TrainingService
from synapsed.training.tally import TrainingTally
from synapsed.transfer.limits import Uploads
from synapsed.transfer.pull import Puller
from synapsed.upgrades.board import Board
from synapsed.upgrades.service import UpgradeService


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What node.py composes, and overview.py and library.py answer from."""

    loaded: Loaded
    paths: Paths
    identity: Identity
    started: float
    bus: EventBus
    tally: Tally
    meter: MessageMeter
    lag: LoopLag
    store: Store
    net: Net
    reach: Reach
    catalog: CatalogService
    liveness: LivenessService
    uploads: Uploads
    puller: Puller
    pulls: trio.CapacityLimiter
    """The owner's pulls at a time; repairs have a limit of their own."""
    shards: Shards
    replicas: Replicas
    replicator: Replicator
    uses: Uses
    evictor: Evictor
    adapters: Adapters
    in_force: InForce
    examiner: Examiner
    board: Board
    """What answers in each slot: the Slots of all services."""
    ledger: LedgerService | None
    """None where the daemon was given no genesis."""
    jail: Jail | None
    compute: Compute
    training: TrainingService | None
    """None where there is no ledger that could say what is to be learned."""
    learned: TrainingTally
    upgrades: UpgradeService | None
    """None, as the jail is, where there is no ledger that could say anything of upgrades."""
