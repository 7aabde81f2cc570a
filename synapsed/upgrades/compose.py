"""Putting the parts of one daemon's upgrades together."""

from protocols.slots.closed_list import SLOTS
from synapsed.config.options import Config
from synapsed.holdings.eviction import Evictor
from synapsed.jail.jail import Jail
from synapsed.ledger.service import LedgerService
from synapsed.paths import Paths
from synapsed.ports import Identity
from synapsed.process import supervise
from synapsed.store import Store
from synapsed.transfer.pull import Puller
from synapsed.upgrades.board import Board
from synapsed.upgrades.holders import Holders
from synapsed.upgrades.memory import Memory
from synapsed.upgrades.modules import Modules
from synapsed.upgrades.recorder import Recorder
from synapsed.upgrades.service import UpgradeService
from synapsed.upgrades.trials import Trials


def compose(
    config: Config,
    paths: Paths,
    identity: Identity,
    *,
    store: Store,
    puller: Puller,
    evictor: Evictor,
    ledger: LedgerService,
    board: Board,
    jail: Jail,
    emit: supervise.Emit,
) -> UpgradeService:
    """The service, which has `board` answer as the ledger says from its `restore` on."""
    board.jail = jail
    return UpgradeService(
        ledger,
        identity,
        board=board,
        slots=SLOTS,
        memory=Memory(store.table("upgrades"), config.upgrades),
        modules=Modules(
            store,
            puller,
            jail,
            emit,
            sources=Holders(puller.sources, lambda: ledger.ledger, identity.peer_id),
            evictor=evictor,
        ),
        recorder=Recorder(paths.recorded, emit),
        trials=Trials(store.table("trials", durable=False)),
        emit=emit,
    )
