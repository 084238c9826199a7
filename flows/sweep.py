"""The flow `ghost-sweep`: every cell a run of the flow `ghost`, by the deployment's workers or here, then one table."""

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from prefect import Flow, flow
from prefect.logging import get_run_logger
from prefect.runtime import deployment as own_deployment
from prefect.states import Failed
from pydantic import Field, WithJsonSchema

from flows.failures import failing_in_one_line
from flows.prune import check_places, ghost_flow
from ghost.saliency import METHODS
from tasks.run.cost import forget_peak
from tasks.run.open import open_run
from tasks.run.page import RunPage
from tasks.sweep.collect import collect
from tasks.sweep.deployed_cells import DeployedCells, served
from tasks.sweep.outcome import Outcome, failed
from tasks.sweep.progress import SILENT_CELLS, CellProgress
from tasks.sweep.settings import DEFAULTS, Cell, RunOptions, Sweep, make_sweep

POLL_SECONDS = 1.0
PLAIN = RunOptions()
Methods = Annotated[Sequence[str], WithJsonSchema({"type": "array", "items": {"type": "string", "enum": [*METHODS]}})]


def sweep_flow(progress: CellProgress = SILENT_CELLS) -> Flow[..., Any]:
    """The flow, with who is told how far it is."""

    @flow(name="ghost-sweep", flow_run_name="sweep of {models}")
    @failing_in_one_line
    def ghost_sweep(
        models: Sequence[str] = DEFAULTS["models"],
        methods: Methods = DEFAULTS["methods"],
        sparsity: Sequence[float] = DEFAULTS["sparsity"],
        keep: Sequence[int] = (),
        calibration_lengths: Sequence[int] = DEFAULTS["calibration_lengths"],
        windows: Sequence[int] = DEFAULTS["windows"],
        seeds: Sequence[int] = DEFAULTS["seeds"],
        recovery: Sequence[Literal["none", "lstsq", "fit", "local"]] = DEFAULTS["recovery"],
        options: RunOptions = PLAIN,
        deployment: str = "ghost/prune-eval",
        patience: Annotated[float, Field(ge=0)] = 60.0,
    ) -> Any:
        """Prune and evaluate every combination, and put the figures side by side; cells that the store has are not
        computed again. A cell that fails does not stop the others; the sweep is then Failed, with the table made.

        Args:
            models: Models, each as for ghost/prune-eval.
            methods: Saliencies.
            sparsity: Shares of the state channels to drop.
            keep: In place of sparsity, state channels to keep in each group.
            calibration_lengths: Tokens of a calibration window.
            windows: Tokens of an evaluation window.
            seeds: Seeds of the calibration sample and of the method `random`.
            recovery: Corrections after pruning.
            options: What all cells share, by the names of ghost/prune-eval's parameters, such as {"samples": 32}.
            deployment: Deployment that computes one cell, for a sweep that itself runs as a deployment. Where it is
                empty or unknown, the sweep computes its cells itself, one after the other.
            patience: Seconds without a sign of any worker after which the sweep computes a cell itself.
        """
        axes = {"models": models, "methods": methods, "sparsity": sparsity, "keep": keep,
                "calibration_lengths": calibration_lengths,
                "windows": windows, "seeds": seeds, "recovery": recovery}  # fmt: skip
        return _swept(make_sweep(axes, options), deployment, patience, progress)

    return ghost_sweep


ghost_sweep = sweep_flow()


def _swept(sweep: Sweep, deployment: str, patience: float, progress: CellProgress) -> Any:
    started = time.perf_counter()
    check_places(sweep.cells[0].settings)
    page, outcomes = RunPage(), []
    for outcome in _outcomes(sweep, deployment, patience, progress):
        outcomes.append(outcome)
        progress.cell_done()
        _log(outcome)
        page.progress("ghost-sweep-progress", 100 * len(outcomes) / len(sweep.cells), f"{len(sweep.cells)} cells")
    return _ending(collect(sweep, outcomes) | {"seconds": round(time.perf_counter() - started, 1)})


def _outcomes(sweep: Sweep, deployment: str, patience: float, progress: CellProgress) -> Iterator[Outcome]:
    if own_deployment.id and deployment and served(deployment):
        yield from _shared_out(sweep, DeployedCells(deployment, patience), progress)
    else:
        yield from (_computed(cell, progress) for cell in sweep.cells)


def _shared_out(sweep: Sweep, deployed: DeployedCells, progress: CellProgress) -> Iterator[Outcome]:
    yield from filter(None, map(deployed.give, sweep.cells))
    while deployed:
        yield from deployed.ended()
        if (cell := deployed.take_back()) is not None:
            yield _computed(cell, progress)
        elif deployed:
            time.sleep(POLL_SECONDS)


def _computed(cell: Cell, progress: CellProgress) -> Outcome:
    """Compute a cell in this process, or take it from the store. Whatever happens to it happens to no other."""
    progress.cell(cell.name)
    forget_peak()
    try:
        run = ghost_flow(lambda settings: open_run(settings, progress))
        return Outcome(cell=cell, run_id=run(**cell.settings.model_dump())["run_id"])
    except Exception as error:
        return failed(cell, error)


def _log(outcome: Outcome) -> None:
    if outcome.error:
        get_run_logger().error(f"{outcome.cell.name}: {outcome.error}")
    else:
        get_run_logger().info(f"{outcome.cell.name}: run {outcome.run_id}")


def _ending(result: dict[str, Any]) -> Any:
    """The result, as a failure's data where a cell failed."""
    if not (failures := result["failed"]):
        return result
    first, why = next(iter(failures.items()))
    return Failed(message=f"{len(failures)} of {len(result['cells'])} cells failed, first {first}: {why}", data=result)
