"""The tasks of a run one after the other, in this process and without Prefect's engine: quick, and nothing left out."""

from pathlib import Path
from typing import Any

from ghost.settings import RunSettings
from tasks.run.checkpoint import evaluate, export_checkpoint, report
from tasks.run.layers import calibrate_layer, prune_layer, score_layer
from tasks.run.open import Run, open_run
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


def through_layers(settings: RunSettings) -> Run:
    """A run with all its layers done."""
    run = open_run(settings)
    for layer in range(run.source.layers):
        for task in (calibrate_layer, score_layer, prune_layer):
            task.fn(run, layer)
    return run


def through_report(settings: RunSettings) -> tuple[Run, dict[str, str]]:
    """A run to which only its manifest is missing, and the names of the states in which the last tasks ended."""
    run = through_layers(settings)
    return run, {task.name: str(task.fn(run).name) for task in (export_checkpoint, evaluate, report)}
