"""The tasks of a run one after the other, in this process and without Prefect's engine: quick, and nothing left out."""

from pathlib import Path
from typing import Any

from ghost.settings import RunSettings
from tasks.run.evaluation import Evaluated, evaluate
from tasks.run.export import Exported, export_checkpoint
from tasks.run.finish import finish
from tasks.run.layers import PrunedLayer, calibrate_layer, prune_layer, score_layer
from tasks.run.open import open_run, write_records
from tasks.run.report import report
from tests.models import make_model, text


def small_settings(folder: Path, **changes: Any) -> RunSettings:
    """Settings of a run of a tiny model that is made in `folder`, unless it is there."""
    model, corpus = folder / "model", folder / "text.txt"
    if not model.exists():
        make_model(model, layers=2)
        corpus.write_text(text(400))
    places = {"model": str(model), "store": str(folder / "store")} | dict.fromkeys(
        ("calibration", "evaluation"), str(corpus)
    )
    return RunSettings.make(**places | {"samples": 4, "length": 32, "window": 128, "round_to": 8} | changes)


class ByHand:
    """A run, opened, and what its stages have found so far; `states` has the name of the state in which each ended."""

    def __init__(self, settings: RunSettings) -> None:
        self.run = open_run(settings)
        self.store, self.source = self.run.store, self.run.source
        self.keys, self.pruning = self.run.keys, self.run.pruning
        self.records = write_records(self.run)
        self.layers: list[PrunedLayer] = []
        self.states: dict[str, str] = {}

    def _result(self, task: Any, *inputs: Any) -> Any:
        state = task.fn(self.run, *inputs)
        self.states[task.name] = str(state.name)
        return state.data

    def prune(self, count: int | None = None) -> None:
        """All mixers, or the first so many."""
        for number in self.source.mixers[:count]:
            chain = self.layers[-1].record.digest if self.layers else self.pruning.prune_id
            statistics = self._result(calibrate_layer, number, chain)
            selection = self._result(score_layer, number, statistics)
            self.layers.append(self._result(prune_layer, number, chain, statistics, selection))

    def export(self) -> str:
        self.exported: Exported = self._result(export_checkpoint, self.layers)
        return self.states["export_checkpoint"]

    def evaluate(self) -> str:
        self.evaluated: Evaluated = self._result(evaluate, self.layers, self.exported)
        return self.states["evaluate"]

    def report(self) -> str:
        self.reported: dict[str, str] = self._result(report, self.layers, self.evaluated)
        return self.states["report"]

    def finish(self) -> str:
        return finish(self.run, self.records, self.layers, self.exported, self.evaluated, self.reported)

    @property
    def cached(self) -> set[int]:
        """The layers that the store had."""
        return {layer.record.layer for layer in self.layers if layer.cached}


def through_layers(settings: RunSettings) -> ByHand:
    """A run with all its layers done."""
    run = ByHand(settings)
    run.prune()
    return run


def through_report(settings: RunSettings) -> ByHand:
    """A run to which only its manifest is missing."""
    run = through_layers(settings)
    for stage in (run.export, run.evaluate, run.report):
        stage()
    return run
