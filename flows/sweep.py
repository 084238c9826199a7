"""The flow `ghost-sweep`: every cell a run of the flow `ghost`, by the deployment's workers or here, then one table."""

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import deployment as own_deployment
from prefect.states import Failed
from pydantic import Field, WithJsonSchema

from flows.failures import failing_in_one_line
from flows.prune import check_places, ghost
from ghost.saliency import METHODS
from tasks.run.cost import forget_peak
from tasks.run.page import RunPage
from tasks.sweep import told
from tasks.sweep.collect import collect
from tasks.sweep.deployed_cells import Elsewhere, served
from tasks.sweep.outcome import Outcome, failed
from tasks.sweep.settings import DEFAULTS, Cell, RunOptions, Sweep, make_sweep

POLL_SECONDS = 1.0
PLAIN = RunOptions()
Methods = Annotated[Sequence[str], WithJsonSchema({"type": "array", "items": {"type": "string", "enum": [*METHODS]}})]


@flow(name="ghost-sweep", flow_run_name="sweep of {models}")
@failing_in_one_line
def ghost_sweep(
    models: Sequence[str] = DEFAULTS["models"],
    methods: Methods = DEFAULTS["methods"],
    sparsity: Sequence[float] = DEFAULTS["sparsity"],
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
        calibration_lengths: Tokens of a calibration window.
        windows: Tokens of an evaluation window.
        seeds: Seeds of the calibration sample and of the method `random`.
        recovery: Corrections after pruning.
        options: What all cells share, by the names of ghost/prune-eval's parameters, such as {"samples": 32}.
        deployment: Deployment that computes one cell, for a sweep that itself runs as a deployment. Where it is empty
            or unknown, the sweep computes its cells itself, one after the other.
        patience: Seconds without a sign of any worker after which the sweep computes a cell itself.
    """
    started = time.perf_counter()
    axes = {"models": models, "methods": methods, "sparsity": sparsity, "calibration_lengths": calibration_lengths,
            "windows": windows, "seeds": seeds, "recovery": recovery}  # fmt: skip
    sweep = make_sweep(axes, options)
    check_places(sweep.cells[0].settings)
    page, outcomes = RunPage(), []
    for outcome in _outcomes(sweep, deployment, patience):
        outcomes.append(outcome)
        _tell(outcome, page, len(outcomes), len(sweep.cells))
    result = collect(sweep, outcomes) | {"seconds": round(time.perf_counter() - started, 1)}
    return _ending(result)


def _outcomes(sweep: Sweep, deployment: str, patience: float) -> Iterator[Outcome]:
    if own_deployment.id and deployment and served(deployment):
        yield from _shared_out(sweep, Elsewhere(deployment, patience))
    else:
        yield from map(_here, sweep.cells)


def _shared_out(sweep: Sweep, elsewhere: Elsewhere) -> Iterator[Outcome]:
    yield from filter(None, map(elsewhere.give, sweep.cells))
    while elsewhere:
        yield from elsewhere.ended()
        if (cell := elsewhere.take_back()) is not None:
            yield _here(cell)
        elif elsewhere:
            time.sleep(POLL_SECONDS)


def _here(cell: Cell) -> Outcome:
    """Compute a cell in this process, or take it from the store. Whatever happens to it happens to no other."""
    told.cell(cell.name)
    forget_peak()
    try:
        return Outcome(cell=cell, run_id=ghost(**cell.settings.model_dump())["run_id"])
    except Exception as error:
        return failed(cell, error)


def _tell(outcome: Outcome, page: RunPage, done: int, cells: int) -> None:
    told.cell_done()
    if outcome.error:
        get_run_logger().error(f"{outcome.cell.name}: {outcome.error}")
    else:
        get_run_logger().info(f"{outcome.cell.name}: run {outcome.run_id}")
    page.progress("ghost-sweep-progress", 100 * done / cells, f"{cells} cells")


def _ending(result: dict[str, Any]) -> Any:
    """The result, as a failure's data where a cell failed."""
    if not (failures := result["failed"]):
        return result
    first, why = next(iter(failures.items()))
    return Failed(message=f"{len(failures)} of {len(result['cells'])} cells failed, first {first}: {why}", data=result)
