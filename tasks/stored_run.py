"""A run in the store, looked at and not continued: of this format version, or of an earlier one that is still read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from artifacts.claims import read
from artifacts.digest import parse_object
from artifacts.errors import MissingArtifact
from artifacts.folders import open_folder
from artifacts.keys import RUNS, PruningKeys, RunKeys
from artifacts.manifest import read_manifest
from artifacts.marker import MARKER
from artifacts.schemas import READABLE, SAMPLES, SELECTION, STATS
from artifacts.store import Store, open_store
from artifacts.tables import decode
from ghost.export import PROVENANCE
from ghost.report.paired_runs import Figure, Sampled, Samples
from ghost.saliency import LayerStatistics
from ghost.selection import Selection
from tasks.tables import samples_from, selection_from, statistics_from


@dataclass(frozen=True)
class StoredRun:
    """What the store has of one run. Everything but records is read by the digest that a record vouches for."""

    store: Store
    keys: RunKeys

    @cached_property
    def record(self) -> dict[str, Any]:
        """run.json; empty where it is absent or damaged."""
        return parse_object(read(self.store, self.keys.run)) or {}

    @cached_property
    def pruning(self) -> PruningKeys:
        """Where its layers lie: until format 3, in the run's own folder."""
        prune_id = self.record.get("prune_id")
        return PruningKeys.of(str(prune_id)) if prune_id else PruningKeys(self.keys.root)

    @property
    def files(self) -> dict[str, str]:
        """The sha256 of each of its files by key. Raises MissingArtifact for a run that is not finished."""
        if self._manifest is None:
            raise MissingArtifact(f"run {self.keys.run_id} is not finished; start it again to continue")
        return self._manifest

    @property
    def finished(self) -> bool:
        return self._manifest is not None

    @cached_property
    def _manifest(self) -> dict[str, str] | None:
        return read_manifest(self.store, self.keys)

    @cached_property
    def layers(self) -> list[int]:
        """The numbers of its layers that are done."""
        keys = self.store.list(f"{self.pruning.root}/layers/")
        return sorted(int(key.split("/")[-2]) for key in keys if key.endswith("/layer.json"))

    def statistics(self, layer: int) -> LayerStatistics:
        data = self.store.get(self.pruning.stats(layer), self._vouched(layer, "stats.parquet"))
        return statistics_from(decode(data, STATS))

    def selection(self, layer: int) -> Selection:
        data = self.store.get(self.pruning.selection(layer), self._vouched(layer, "selection.parquet"))
        return selection_from(decode(data, SELECTION))

    def said_of(self, layer: int) -> tuple[str | None, dict[str, Any] | None]:
        """Note and figures of the layer's record."""
        record = self._layer(layer)
        return record.get("note"), record.get("figures")

    def results(self) -> dict[str, Any]:
        """The figures of its evaluation. Raises MissingArtifact for a run that is not finished."""
        return json.loads(self.get(self.keys.evaluation))

    def provenance(self) -> dict[str, Any]:
        """ghost.json of its checkpoint. Raises MissingArtifact for a run that is not finished."""
        return json.loads(self.get(f"{self.keys.checkpoint}/{PROVENANCE}"))

    def samples(self, seen: Mapping[str, Mapping[str, Any]] | None = None) -> Samples:
        """What the pruned model's figures are means of; empty for a run of before it was kept. `seen` says by part what
        another run must have been given to have seen the same: nothing more, where it is known that it has."""
        found: dict[Figure, Sampled] = {}
        for key in (self.keys.samples, self.keys.documents):
            if key in self.files:
                found |= samples_from(decode(self.get(key), SAMPLES), seen or {})
        return found

    def get(self, key: str) -> bytes:
        """One of the files that its manifest lists."""
        if key not in self.files:
            raise MissingArtifact(f"run {self.keys.run_id} lists no {key}; start it again to continue")
        return self.store.get(key, self.files[key])

    def _vouched(self, layer: int, name: str) -> str:
        return str((self._layer(layer).get("files") or {}).get(name))

    def _layer(self, layer: int) -> dict[str, Any]:
        return parse_object(self.store.record(self.pruning.layer(layer))) or {}


def open_existing(store: str) -> Store:
    """The store at `store`, to look at; MissingArtifact where there is none, which a look must not make."""
    try:
        open_folder(store).read(MARKER)
    except MissingArtifact:
        raise MissingArtifact(f"there is no store at {store}; give the one of your runs with --store") from None
    return open_store(store, READABLE)


def find_run(store: Store, run_id: str) -> StoredRun:
    """The one run whose id starts so; MissingArtifact where there is none, or more than one."""
    runs = sorted({key.split("/")[1] for key in store.list(RUNS)})
    matching = [name for name in runs if run_id and name.startswith(run_id)]
    if len(matching) != 1:
        found = f"runs there: {', '.join(runs)}" if runs else "there are no runs"
        raise MissingArtifact(f"run {run_id!r} matches {len(matching)} runs in the store {store.url}; {found}")
    return StoredRun(store, RunKeys(matching[0]))
