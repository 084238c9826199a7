"""Runs of a deployment that are told to stop: they end within ten seconds and leave nothing behind but what is done."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun

from tests.chaos import Bench, contents
from tests.pipeline import (
    client,
    deploy,
    flow_processes,
    prefect,
    served,
    start_run,
    wait_for,
    worker,
)

T = TypeVar("T")
NAME = "ghost/prune-eval"
SOON = 10.0
"""Seconds that a run may take to end."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("cancel")
    with served(folder) as api:
        deploy(api, GHOST_STORE=str(folder / "store"), GHOST_DEVICE="cpu")
        yield Bench(folder, api, layers=3)


def start(bench: Bench, store: Path) -> FlowRun:
    return start_run(bench.api, NAME, bench.parameters(store))


def until(moment: Callable[[], T | None]) -> T:
    """What the moment gives, once there is something."""
    deadline = time.monotonic() + 120
    while not (found := moment()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def first_layer(store: Path) -> Path | None:
    return next(store.glob("prunings/*/layers/000/layer.json"), None)


def evaluation(run: FlowRun) -> psutil.Process | None:
    """The process that evaluates for the run."""
    return next(
        (process for process in flow_processes(run) if "tasks.run.evaluation_process" in process.cmdline()), None
    )


def assert_gone(processes: list[psutil.Process], started: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=max(0, SOON - (time.monotonic() - started)))
    assert not alive


def test_a_run_that_is_told_to_stop_ends_soon_and_goes_on_to_the_same_bytes(bench: Bench, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with worker(bench.api, bench.folder):
        run = start(bench, store)
        until(lambda: first_layer(store))
        processes, started = flow_processes(run), time.monotonic()
        for process in processes:
            process.terminate()
        assert_gone(processes, started)
        told = wait_for(bench.api, run).state
        assert told and (told.name, told.message) == ("Crashed", "Execution was aborted by a termination signal.")

        prefect(bench.api, "flow-run", "retry", str(run.id))
        until(lambda: evaluation(run)).suspend()  # so that it is still at it when the command has reached the server
        processes = flow_processes(run)
        prefect(bench.api, "flow-run", "cancel", str(run.id))
        assert_gone(processes, time.monotonic())
        assert wait_for(bench.api, run, "Cancelled").state_name == "Cancelled"
    assert bench.finish_here(store)["layers"] == {"computed": 0, "cached": bench.layers}
    bench.finish_here(tmp_path / "undisturbed")
    assert contents(store) == contents(tmp_path / "undisturbed")


def test_a_worker_that_is_told_to_stop_takes_its_run_along(bench: Bench, tmp_path: Path) -> None:
    """Prefect (#16746) leaves the run `Running` then: docs/reliability.md says what to do about it."""
    with worker(bench.api, bench.folder) as process:
        run = start(bench, tmp_path / "store")
        until(lambda: first_layer(tmp_path / "store"))
        processes, started = flow_processes(run), time.monotonic()
        process.terminate()
        assert_gone(processes, started)
        assert process.wait(SOON) == 0
    with client(bench.api) as opened:
        assert opened.read_flow_run(run.id).state_name == "Running"
