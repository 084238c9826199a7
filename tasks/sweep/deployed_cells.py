"""Cells as runs of a deployment: every worker of its pool that is free computes some."""

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled

from artifacts.errors import ArtifactError
from artifacts.manifest import finished
from ghost.errors import GhostError
from tasks.run.open import open_run
from tasks.sweep.outcome import Outcome, failed
from tasks.sweep.settings import Cell
from tasks.watch.attempts import OCCUPIED, trigger

QUEUED = "AwaitingConcurrencySlot"
"""Name of a run's state that a worker has taken up, and that waits for another run of the deployment to end."""


def served(deployment: str) -> bool:
    """Whether this Prefect server has the deployment."""
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(deployment)
        except ObjectNotFound:
            return False
    return True


class DeployedCells:
    """The cells that were given to a deployment, until each has ended or is taken back."""

    def __init__(self, deployment: str, patience: float) -> None:
        self._deployment, self._queue, self._patience = deployment, _own_queue(deployment), patience
        self._cells: dict[Any, tuple[Cell, str]] = {}
        self._last_sign = time.monotonic()

    def __len__(self) -> int:
        return len(self._cells)

    def give(self, cell: Cell) -> Outcome | None:
        """Have the cell computed; its outcome at once where it is in the store already, or can't even be opened."""
        try:
            run = open_run(cell.settings)
            if finished(run.store, run.keys):
                return Outcome(cell=cell, run_id=run.keys.run_id)
            # A key for each time that the sweep is started: what failed before is tried again.
            key = f"ghost-sweep/{flow_run.id}/{flow_run.run_count}/{run.keys.run_id}"
            parameters = cell.settings.model_dump(exclude_none=True)
            given = trigger(self._deployment, parameters, key, ["ghost-sweep"], self._queue)
        except (GhostError, ArtifactError) as error:
            return failed(cell, error)
        self._cells[given.id] = cell, run.keys.run_id
        return None

    def ended(self) -> list[Outcome]:
        """The cells that ended since the last call."""
        runs = self._runs()
        ended = [run for run in runs if run.state and run.state.is_final()]
        if ended or any(map(_at_work, runs)):
            self._last_sign = time.monotonic()
        return [_outcome(*self._cells.pop(run.id), run) for run in ended]

    def take_back(self) -> Cell | None:
        """A cell that no worker wants: none of them has done anything for the sweep since `patience` seconds ago.

        It may be that the only worker is busy with the sweep itself.
        """
        if not self._cells or time.monotonic() - self._last_sign < self._patience or any(map(_at_work, self._runs())):
            return None
        with get_client(sync_client=True) as client:
            run_id = next(iter(self._cells))
            answer = client.set_flow_run_state(run_id, Cancelled(message="computed by the sweep itself"))
        if answer.status != SetStateStatus.ACCEPT:  # a worker was faster
            return None
        return self._cells.pop(run_id)[0]

    def _runs(self) -> list[FlowRun]:
        if not self._cells:
            return []
        found: list[FlowRun] = []
        ids = list(self._cells)
        with get_client(sync_client=True) as client:
            for start in range(0, len(ids), 100):
                wanted = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + 100]))
                found += client.read_flow_runs(flow_run_filter=wanted)
        return found


def _own_queue(deployment: str) -> str | None:
    """The work queue of the sweep itself, where the deployment's runs go to the same pool: its cells have its priority.

    In another pool a queue of that name may be one that no worker looks at.
    """
    with get_client(sync_client=True) as client:
        own, cells = client.read_flow_run(UUID(flow_run.id)), client.read_deployment_by_name(deployment)
    return own.work_queue_name if own.work_pool_name == cells.work_pool_name else None


def _at_work(run: FlowRun) -> bool:
    """A worker computes it, or has taken it up and lets it wait for its turn."""
    return run.state is not None and (run.state.type in OCCUPIED or run.state.name == QUEUED)


def _outcome(cell: Cell, run_id: str, run: FlowRun) -> Outcome:
    assert run.state is not None
    if run.state.type == StateType.COMPLETED:
        return Outcome(cell=cell, run_id=run_id)
    return failed(cell, run.state.message or f"run {run.name} is {run.state.name}")
