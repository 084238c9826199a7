"""Where each artifact of a run lies: full keys from the store's root, '/' between segments."""

from dataclasses import dataclass
from typing import Self

from artifacts.errors import StoreError

RUNS, PRUNINGS = "runs/", "prunings/"
"""Below these, each run and each pruning has a folder of its own."""


def check_key(key: str) -> None:
    """Raise StoreError unless `key` names something below the store's root on every kind of store."""
    segments = key.split("/")
    if not key or "\\" in key or "\0" in key or not {"", ".", ".."}.isdisjoint(segments):
        raise StoreError(
            f"key {key!r} is refused: give a relative path with '/' between segments and without '..', '.', "
            "empty segments, backslash or NUL"
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"key {key!r} is refused: it is not valid Unicode; give it another name") from error


@dataclass(frozen=True)
class RunKeys:
    """The keys of one run. Raises StoreError where `run_id` is not a single segment."""

    run_id: str

    def __post_init__(self) -> None:
        check_key(self.run_id)
        if "/" in self.run_id:
            raise StoreError(f"run {self.run_id!r} is refused: give a run's id, without '/'")

    @property
    def root(self) -> str:
        return f"{RUNS}{self.run_id}"

    @property
    def run(self) -> str:
        return f"{self.root}/run.json"

    @property
    def checkpoint(self) -> str:
        """The folder of the pruned checkpoint, not an object itself."""
        return f"{self.root}/checkpoint"

    @property
    def evaluation(self) -> str:
        return f"{self.root}/evaluation/results.json"

    @property
    def samples(self) -> str:
        """What those results are means of."""
        return f"{self.root}/evaluation/samples.parquet"

    @property
    def benchmarks(self) -> str:
        """Only in runs that were given lm-eval's tasks."""
        return f"{self.root}/evaluation/tasks.parquet"

    @property
    def documents(self) -> str:
        """What the tasks' figures are means of."""
        return f"{self.root}/evaluation/documents.parquet"

    @property
    def report(self) -> str:
        return f"{self.root}/report/index.html"

    @property
    def manifest(self) -> str:
        return f"{self.root}/manifest.json"

    @property
    def timings(self) -> str:
        return f"{self.root}/timings.json"

    def stage(self, stage: str) -> str:
        """The record of a stage after the layers."""
        return f"{self.root}/stages/{stage}.json"


@dataclass(frozen=True)
class PruningKeys:
    """The keys of what all runs share that prune alike, below `root`."""

    root: str

    @classmethod
    def of(cls, prune_id: str) -> Self:
        return cls(f"{PRUNINGS}{prune_id}")

    @property
    def prune_id(self) -> str:
        return self.root.removeprefix(PRUNINGS)

    @property
    def pruning(self) -> str:
        return f"{self.root}/pruning.json"

    @property
    def tokens(self) -> str:
        return f"{self.root}/calibration/tokens.parquet"

    @property
    def timings(self) -> str:
        return f"{self.root}/timings.json"

    def layer_folder(self, layer: int) -> str:
        return f"{self.root}/layers/{layer:03d}"

    def stats(self, layer: int) -> str:
        return f"{self.layer_folder(layer)}/stats.parquet"

    def selection(self, layer: int) -> str:
        return f"{self.layer_folder(layer)}/selection.parquet"

    def weights(self, layer: int) -> str:
        return f"{self.layer_folder(layer)}/weights.safetensors"

    def layer(self, layer: int) -> str:
        return f"{self.layer_folder(layer)}/layer.json"


def dense_score(digest: str) -> str:
    """Where a dense model's score lies, for all runs on the same text; `digest` is of everything that it depends on."""
    return f"dense/{digest}.json"


@dataclass(frozen=True)
class SweepKeys:
    """The keys of one sweep. Its cells are runs like any other, and lie where runs do."""

    sweep_id: str

    @property
    def root(self) -> str:
        return f"sweeps/{self.sweep_id}"

    @property
    def cells(self) -> str:
        return f"{self.root}/cells.parquet"

    @property
    def sweep(self) -> str:
        return f"{self.root}/sweep.json"

    @property
    def page(self) -> str:
        return f"{self.root}/index.html"
