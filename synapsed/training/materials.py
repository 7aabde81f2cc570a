"""A lineage's model, as training needs it: how it is cut, its bytes here, and its files' paths."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from protocols.cid import cid_text
from protocols.learn.partition import Group, UntrainableError, groups_of
from protocols.manifest import ModelManifest
from protocols.tensors.safetensors_header import SafetensorsHeader, parse_safetensors_header
from protocols.tensors.tensorblock import SAFETENSORS, Layout
from synapsed.models import model_manifest
from synapsed.models.manifests import layouts_of
from synapsed.store import Store
from synapsed.store.reasons import PULLED
from synapsed.training.errors import CannotLearnError
from synapsed.transfer.plan import Part


class Fetch(Protocol):
    """`Puller.pull`, of which training uses this much."""

    async def pull(self, cid: bytes, part: Part | None = None) -> object:
        """Have (a part of) a model here. Raises SynapseError."""


class Cutting(msgspec.Struct, frozen=True):
    """A model cut into groups."""

    manifest: ModelManifest
    layouts: tuple[Layout, ...]
    groups: tuple[Group, ...]

    def runs(self, wanted: Iterable[int]) -> tuple[tuple[int, int], ...]:
        """The model's tiles that these groups are made of, as runs (start, count)."""
        first_of_file = [0]
        for layout in self.layouts:
            first_of_file.append(first_of_file[-1] + layout.tile_count)
        tiles = sorted(
            first_of_file[tile.file]
            + self.layouts[tile.file].sections[tile.section].first_tile
            + tile.index
            for number in wanted
            for tile in self.groups[number].tiles
        )
        runs: list[tuple[int, int]] = []
        for tile in tiles:
            if runs and sum(runs[-1]) == tile:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((tile, 1))
        return tuple(runs)


class Materials:
    """Where models come from, and lie."""

    def __init__(self, store: Store, fetch: Fetch) -> None:
        self._store = store
        self._fetch = fetch

    async def cut(self, model: bytes, group_bytes: int) -> Cutting:
        """Have a model's headers here, and cut it. Raises what a pull does, UntrainableError."""
        cutting = await trio.to_thread.run_sync(self._cut, model, group_bytes)
        if cutting is None:
            await self._fetch.pull(model, Part(headers=True))
            cutting = await trio.to_thread.run_sync(self._cut, model, group_bytes)
        if cutting is None:
            raise CannotLearnError(f"the headers of {cid_text(model)} are not here")
        return cutting

    def _cut(self, model: bytes, group_bytes: int) -> Cutting | None:
        if not self._store.has_block(model):
            return None
        manifest = model_manifest(self._store, model)
        layouts = layouts_of(self._store, manifest)
        whole = tuple(layout for layout in layouts if layout is not None)
        if len(whole) < len(layouts):
            return None
        headers: list[tuple[int, SafetensorsHeader]] = []
        for number, ref in enumerate(manifest.files):
            if ref.layout == SAFETENSORS:
                held = self._store.file_of(ref)
                if held is None:
                    return None
                headers.append((number, parse_safetensors_header(held.header, held.size)))
        if not headers:
            raise UntrainableError(f"{cid_text(model)} has no safetensors file")
        return Cutting(manifest, whole, tuple(groups_of(headers, group_bytes)))

    async def bring(self, model: bytes, cutting: Cutting, groups: Iterable[int] | None) -> None:
        """Have the tiles of these groups here, or the whole model. Raises what a pull does."""
        if groups is None:
            await trio.to_thread.run_sync(self._store.pin, model, PULLED)
            await self._fetch.pull(model)
        else:
            await self._fetch.pull(model, Part(tiles=cutting.runs(groups)))

    def files(self, cutting: Cutting) -> list[tuple[str, Path]]:
        """(name, path) of the files, in the manifest's order, whether whole here or not."""
        found = []
        for ref in cutting.manifest.files:
            held = self._store.file_of(ref)
            path = held.path if held is not None else self._store.root / "files" / ref.root.hex()
            found.append((ref.path, path))
        return found
