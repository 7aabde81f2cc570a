"""Why manifests are pinned. A manifest stays for as long as there is one reason for it."""

IMPORTED = "imported"
"""The owner brought it."""
PULLED = "pulled"
"""The owner had it fetched."""
OWNER = "user"
"""The owner said so."""
PUBLISHED = "published"
"""An adapter, kernel or proposal of the owner's."""
CHECKPOINT = "checkpoint"
"""The daemon wrote it from what it learned, and its proposal, or the next one, needs it."""
REPLICA = "replica"
"""It is held for others, who had too few copies."""
WATCHED = "watched"
"""Others have it, and we watch over its copies: only its manifest and headers are here."""

UPGRADE = "upgrade"
"""The ledger has it in force here, or may have it again: modules of slots, with their source."""

FOUND = "found"
"""It was here when state.db was lost: the owner removes it, not we."""

HEADERS_ONLY = frozenset((WATCHED,))
"""These keep of a model's files the safetensors headers, and no tensor."""
FOR_OTHERS = frozenset((REPLICA, WATCHED))
"""What is here for these alone is not the owner's, and has a share of the quota (replicas.py)."""
