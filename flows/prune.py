"""The flow `ghost`: prune a checkpoint layer by layer, export it, evaluate it, report on it.

Not named flows/ghost.py: a worker puts this folder first on sys.path, and that file would hide the package ghost.
"""

import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.options import flow_parameters
from flows.summary import as_markdown
from ghost.config import RunSettings
from tasks import progress
from tasks.checkpoint import evaluate, export_checkpoint, report, summarise
from tasks.finish import finish
from tasks.layers import calibrate_layer, prune_layer, score_layer
from tasks.run import open_run


def run_name() -> str:
    """The run's name on Prefect's pages, such as `demo: ghost at 0.5`."""
    given = flow_run.parameters
    return f"{Path(given['model']).name}: {given['method']} at {given['sparsity']}"


@flow(name="ghost", flow_run_name=run_name)
@flow_parameters(RunSettings)
def ghost(settings: RunSettings) -> dict[str, Any]:
    """Prune the recurrent state of a Mamba2 checkpoint; layers that the store has already are taken from it."""
    started = time.perf_counter()
    run = open_run(settings)
    progress.current().start(run.source.layers, 0 if run.was_finished else 2 * (len(run.evaluation_tokens) - 1))
    for layer in range(run.source.layers):
        calibrate_layer(run, layer)
        score_layer(run, layer)
        prune_layer(run, layer)
    export_checkpoint(run)
    evaluate(run)
    report(run)
    checkpoint = finish(run)
    summary = summarise(run)
    create_markdown_artifact(as_markdown(summary, checkpoint), key="ghost-summary", description="Dense against pruned")
    cached = len(run.cached)
    return summary | {
        "checkpoint": checkpoint,
        "page": str(run.store.fetch(run.keys.report)),
        "layers": {"computed": run.source.layers - cached, "cached": cached},
        "seconds": round(time.perf_counter() - started, 1),
    }
