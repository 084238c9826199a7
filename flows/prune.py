"""The flow `ghost`: prune a checkpoint layer by layer, export it, evaluate it, report on it.

Not named flows/ghost.py: a worker puts this folder first on sys.path, and that file would hide the package ghost.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import Flow, flow
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run

from flows.failures import failing_in_one_line
from flows.options import flow_parameters
from flows.summary import as_markdown, headline
from ghost.errors import SettingsError
from ghost.settings import RunSettings
from tasks.run.evaluation import evaluate
from tasks.run.events import run_resumed
from tasks.run.export import export_checkpoint
from tasks.run.finish import finish
from tasks.run.layer_log import LayerLog
from tasks.run.layers import PrunedLayer, calibrate_layer, prune_layer, score_layer
from tasks.run.open import Run, open_run, write_records
from tasks.run.page import RunPage
from tasks.run.report import report, summarise
from tasks.run.serving import runtime_warnings


def run_name() -> str:
    """The run's name on Prefect's pages, such as `demo: ghost at 0.5`."""
    given = flow_run.parameters
    kept = given.get("keep")
    how_much = f"keeps {kept}" if kept else f"at {given['sparsity']}"
    return f"{Path(given['model']).name}: {given['method']} {how_much}"


def ghost_flow(opened: Callable[[RunSettings], Run] = open_run) -> Flow[..., dict[str, Any]]:
    """The flow, with what opens its run: the command line has opened it before Prefect starts, and watches it."""

    @flow(name="ghost", flow_run_name=run_name)
    @failing_in_one_line
    @flow_parameters(RunSettings)
    def ghost(settings: RunSettings) -> dict[str, Any]:
        """Prune the recurrent state of a Mamba2 checkpoint; layers that the store has already are taken from it."""
        started = time.perf_counter()
        check_places(settings)
        result = _stages(opened(settings), RunPage())
        return result | {"seconds": round(time.perf_counter() - started, 1)}

    return ghost


ghost = ghost_flow()


def _stages(run: Run, page: RunPage) -> dict[str, Any]:
    """Every stage in order; each is given what the ones before it found."""
    run_resumed(run)
    for line in runtime_warnings(run):
        get_run_logger().warning(line)
    records = write_records(run)
    layers = _layers(run, LayerLog(run, page))
    exported = export_checkpoint(run, layers).result()
    evaluated = evaluate(run, layers, exported).result()
    reported = report(run, layers, evaluated).result()
    checkpoint = finish(run, records, layers, exported, evaluated, reported)
    summary, report_page = summarise(run, evaluated), run.store.locate(run.keys.report)
    page.markdown("ghost-summary", as_markdown(summary, checkpoint, report_page), headline(summary))
    cached = sum(layer.cached for layer in layers)
    counts = {"layers": {"computed": len(layers) - cached, "cached": cached}}
    return summary | counts | {"checkpoint": checkpoint, "page": report_page}


def _layers(run: Run, log: LayerLog) -> list[PrunedLayer]:
    layers: list[PrunedLayer] = []
    run.progress.start(run.source.layers, len(run.source.mixers))
    with run.computing.team:
        for number in run.source.mixers:
            started = time.perf_counter()
            chain = layers[-1].record.digest if layers else run.pruning.prune_id
            statistics = calibrate_layer(run, number, chain).result()
            selection = score_layer(run, number, statistics).result()
            layers.append(prune_layer(run, number, chain, statistics, selection).result())
            log.done(number, layers[-1], time.perf_counter() - started)
    return layers


def check_places(settings: RunSettings) -> None:
    """SettingsError where a deployment's run would leave its results in the worker's temporary folder."""
    for name in ("store", "out"):
        place = getattr(settings, name)
        if deployment.id and place and "://" not in place and not Path(place).expanduser().is_absolute():
            raise SettingsError(
                f"{name} {place} is relative to the worker's folder, which is removed after the run; "
                f"give an absolute folder or s3://bucket/prefix"
            )
