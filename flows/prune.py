"""The flow `ghost`: prune a checkpoint layer by layer, export it, evaluate it, report on it.

Not named flows/ghost.py: a worker puts this folder first on sys.path, and that file would hide the package ghost.
"""

import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import deployment, flow_run

from flows.failures import failing_in_one_line
from flows.options import flow_parameters
from flows.summary import as_markdown, headline
from ghost.errors import SettingsError
from ghost.settings import RunSettings
from tasks import progress
from tasks.run.checkpoint import evaluate, export_checkpoint, report, summarise
from tasks.run.finish import finish
from tasks.run.layer_log import Story
from tasks.run.layers import calibrate_layer, prune_layer, score_layer
from tasks.run.open import open_run
from tasks.run.page import RunPage


def run_name() -> str:
    """The run's name on Prefect's pages, such as `demo: ghost at 0.5`."""
    given = flow_run.parameters
    return f"{Path(given['model']).name}: {given['method']} at {given['sparsity']}"


@flow(name="ghost", flow_run_name=run_name)
@failing_in_one_line
@flow_parameters(RunSettings)
def ghost(settings: RunSettings) -> dict[str, Any]:
    """Prune the recurrent state of a Mamba2 checkpoint; layers that the store has already are taken from it."""
    started = time.perf_counter()
    check_places(settings)
    run = open_run(settings)
    progress.current().start(run.source.layers, 0 if run.was_finished else 2 * (len(run.evaluation_tokens) - 1))
    run_page = RunPage()
    story = Story(run, run_page)
    for layer in range(run.source.layers):
        with story.layer(layer):
            calibrate_layer(run, layer)
            score_layer(run, layer)
            prune_layer(run, layer)
    export_checkpoint(run)
    evaluate(run)
    report(run)
    checkpoint, page = finish(run), run.store.locate(run.keys.report)
    summary, cached = summarise(run), len(run.cached)
    run_page.markdown("ghost-summary", as_markdown(summary, checkpoint, page), headline(summary))
    return summary | {
        "checkpoint": checkpoint,
        "page": page,
        "layers": {"computed": run.source.layers - cached, "cached": cached},
        "seconds": round(time.perf_counter() - started, 1),
    }


def check_places(settings: RunSettings) -> None:
    """SettingsError where a deployment's run would leave its results in the worker's temporary folder."""
    for name in ("store", "out"):
        place = getattr(settings, name)
        if deployment.id and place and "://" not in place and not Path(place).expanduser().is_absolute():
            raise SettingsError(
                f"{name} {place} is relative to the worker's folder, which is removed after the run; "
                f"give an absolute folder or s3://bucket/prefix"
            )
