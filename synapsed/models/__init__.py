"""Models: folders into the store and out of it, and what is here of them.

All of it is synchronous; callers on an event loop run it in a thread.
"""

from synapsed.models.exports import DestinationError, export_model, held_path
from synapsed.models.imports import Imported, import_artefact, import_artefacts, import_model
from synapsed.models.listing import (
    FileState,
    ModelState,
    forget_watched,
    held_tiles,
    list_models,
    model_state,
    promised,
    remove_model,
    unpin_model,
)
from synapsed.models.manifests import (
    IncompleteError,
    NotAModelManifestError,
    UnknownPartError,
    dependencies,
    experts,
    layouts_of,
    model_manifest,
    put_experts,
    sections_of,
)

__all__ = [
    "DestinationError",
    "FileState",
    "Imported",
    "IncompleteError",
    "ModelState",
    "NotAModelManifestError",
    "UnknownPartError",
    "dependencies",
    "experts",
    "export_model",
    "forget_watched",
    "held_path",
    "held_tiles",
    "import_artefact",
    "import_artefacts",
    "import_model",
    "layouts_of",
    "list_models",
    "model_manifest",
    "model_state",
    "promised",
    "put_experts",
    "remove_model",
    "sections_of",
    "unpin_model",
]
