"""The deployments of prefect.yaml end to end: a real server, pool and worker on loopback, and the command line."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.exceptions import PrefectHTTPStatusError

from artifacts.keys import RunKeys
from artifacts.store import open_store
from tasks.run.events import RESUMED
from tasks.stored_run import StoredRun
from tests.chaos import Bench
from tests.pipeline import (
    ROOT,
    by_readme,
    client,
    events,
    flow_processes,
    kill,
    prefect,
    run_and_wait,
    start_run,
    task_states,
    wait_for,
    wait_for_crash,
)

NAME = "ghost/prune-eval"
SWEEP = "ghost-sweep/sweep"
LAYERS = 3
LINE = r"layer=\d\d seconds=[\d.]+ kept=\d+ of=32 energy_dropped=0\.\d{4} memory_mb=\d+ state=computed"


@dataclass
class Pipeline:
    """A deployed pipeline with one worker, and what it prunes."""

    api: str
    folder: Path
    printed: str

    @property
    def store(self) -> Path:
        return self.folder / "ghost-runs"

    def parameters(self, **changes: Any) -> dict[str, Any]:
        return parameters(self.folder) | changes


def parameters(folder: Path) -> dict[str, Any]:
    texts = {name: str(folder / f"{name}.txt") for name in ("calibration", "evaluation")}
    sizes = {"samples": 8, "length": 64, "window": 128, "round_to": 8, "sparsity": 0.5}
    return {"model": str(folder / "model")} | texts | sizes


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """By the commands of README.md, on a machine without internet, with telemetry as they leave it."""
    folder = tmp_path_factory.mktemp("pipeline")
    Bench(folder, api="that of the block", layers=LAYERS)
    with by_readme(folder, parameters(folder), GHOST_DEVICE="cpu") as (api, printed):
        yield Pipeline(api, folder, printed)


def test_the_deployments_are_there_with_pool_limit_and_schedule(pipeline: Pipeline) -> None:
    with client(pipeline.api) as opened:
        names = (NAME, "ghost-watch/nightly", SWEEP)
        prune, nightly, sweep = (opened.read_deployment_by_name(name) for name in names)
        queues = {queue.name: queue.priority for queue in opened.read_work_queues(work_pool_name="gpu")}
    assert [prune.work_pool_name, nightly.work_pool_name, sweep.work_pool_name] == ["gpu"] * 3
    assert [prune.work_queue_name, nightly.work_queue_name, sweep.work_queue_name] == ["default", "default", "sweeps"]
    assert queues == {"default": 1, "sweeps": 2}
    limit, options = prune.global_concurrency_limit, prune.concurrency_options
    assert limit and limit.limit == 1 and options and options.collision_strategy == "ENQUEUE"
    assert prune.job_variables == {"env": {"GHOST_STORE": str(pipeline.store), "GHOST_DEVICE": "cpu"}}
    [nightly_at_two] = nightly.schedules
    assert (nightly_at_two.slug, nightly_at_two.active) == ("nightly", False), "no recipe was given to watch for"
    assert "timezone='Etc/UTC'" in repr(nightly_at_two.schedule)
    for deployment in (prune, sweep):
        fields = (deployment.parameter_openapi_schema or {})["properties"]
        assert all(len(field["description"]) > 8 for field in fields.values())


def test_a_run_from_the_command_line_completes_and_leaves_its_artifacts(pipeline: Pipeline) -> None:
    assert "finished successfully in 'Completed'" in pipeline.printed, pipeline.printed
    assert len(list(pipeline.store.glob("runs/*/manifest.json"))) == 1
    with client(pipeline.api) as opened:
        [run] = opened.read_flow_runs()
        kinds = {artifact.key: artifact.type for artifact in opened.read_artifacts()}
        page = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        lines = [log.message for log in opened.read_logs(log_filter=page) if log.message.startswith("layer=")]
    tables = {f"ghost-layer-{layer:02d}": "table" for layer in range(LAYERS)}
    assert kinds == tables | {"ghost-progress": "progress", "ghost-summary": "markdown"}
    assert [bool(re.fullmatch(LINE, line)) for line in sorted(lines)] == [True] * LAYERS, lines


def test_two_runs_at_once_queue_and_take_every_layer_from_the_store(pipeline: Pipeline) -> None:
    started = [start_run(pipeline.api, NAME, pipeline.parameters()) for _ in range(2)]
    first, second = sorted((wait_for(pipeline.api, run) for run in started), key=lambda run: str(run.start_time))
    assert [run.state_name for run in (first, second)] == ["Completed", "Completed"]
    assert first.end_time and second.start_time and first.end_time <= second.start_time
    for run in (first, second):
        states = task_states(pipeline.api, run)
        assert len(states) == 3 * LAYERS + 3 and set(states.values()) == {"Cached"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"sparsity": 1.5}, "field 'sparsity'"), ({"sparsity": 0}, "field 'sparsity'"), ({"samples": 0}, "less than the"),
     ({"method": "best"}, "'best' is not one of ['ghost'"), ({"policy": "fair"}, "'fair' is not one of ['balanced'"),
     ({"device": "gpu"}, "field 'device'"), ({"seed": "x"}, "'x' is not of type 'integer'"),
     ({"max_perplexity": -1}, "field 'max_perplexity'")],
    ids=str,
)  # fmt: skip
def test_bad_parameters_are_refused_before_a_run_exists(
    pipeline: Pipeline, changes: dict[str, Any], reason: str
) -> None:
    with client(pipeline.api) as opened:
        before = len(opened.read_flow_runs())
        with pytest.raises(PrefectHTTPStatusError) as refused:
            start_run(pipeline.api, NAME, pipeline.parameters(**changes))
        assert reason in refused.value.response.json()["detail"]
        assert len(opened.read_flow_runs()) == before


def test_a_misspelt_parameter_is_refused_on_the_command_line(pipeline: Pipeline) -> None:
    said = prefect(pipeline.api, "deployment", "run", NAME, "-p", "sparsty=0.5", code=1)
    assert "not found on the deployment: 'sparsty'" in " ".join(said.split())


def test_the_server_takes_the_kubernetes_template_and_refuses_it_with_a_variable_unknown(pipeline: Pipeline) -> None:
    template = json.loads((ROOT / "deploy/kubernetes/job-template.json").read_text())
    with client(pipeline.api) as opened:
        made = opened.create_work_pool(WorkPoolCreate(name="k8s", type="kubernetes", base_job_template=template))
        assert made.base_job_template == template
        del template["variables"]["properties"]["gpus"]
        with pytest.raises(PrefectHTTPStatusError, match="gpus"):
            opened.create_work_pool(WorkPoolCreate(name="bad", type="kubernetes", base_job_template=template))


def test_a_missing_model_fails_the_run_with_one_line(pipeline: Pipeline) -> None:
    run = run_and_wait(pipeline.api, NAME, pipeline.parameters(model=str(pipeline.folder / "nowhere")))
    assert run.state and run.state.name == "Failed"
    remedy = "give demo, a local folder"
    assert re.fullmatch(f"model {pipeline.folder / 'nowhere'}: no such folder; {remedy}.*", str(run.state.message))


def test_a_killed_run_is_retried_and_resumes(pipeline: Pipeline) -> None:
    run = start_run(pipeline.api, NAME, pipeline.parameters(seed=1))
    while not (started := [p for p in unfinished(pipeline.store) if first_layer_done(pipeline.store, p)]):
        time.sleep(0.02)
    kill(flow_processes(run))
    wait_for_crash(pipeline.api, run)
    assert started[0] in unfinished(pipeline.store), "the run was killed too late"
    prefect(pipeline.api, "flow-run", "retry", str(run.id))
    assert wait_for(pipeline.api, run, "Completed", "Failed").state_name == "Completed"
    assert started[0] not in unfinished(pipeline.store)
    assert task_states(pipeline.api, run)["layer 00: prune"] == "Cached"
    [resumed] = events(pipeline.api, RESUMED, f"ghost.run.{started[0]}")
    assert f"prefect.flow-run.{run.id}" in {resource.id for resource in resumed.related}


def unfinished(store: Path) -> list[str]:
    """The ids of the runs that have no manifest."""
    runs = store.glob("runs/*/run.json")
    return [record.parent.name for record in runs if not (record.parent / "manifest.json").exists()]


def first_layer_done(store: Path, run_id: str) -> bool:
    opened = open_store(store)
    return opened.exists(StoredRun(opened, RunKeys(run_id)).pruning.layer(0))


def test_a_sweep_has_its_cells_computed_as_runs_of_the_other_deployment(pipeline: Pipeline) -> None:
    run = run_and_wait(pipeline.api, SWEEP, sweep_parameters(pipeline, methods=["magnitude", "random"]))
    assert run.state and run.state.name == "Completed", run.state
    with client(pipeline.api) as opened:
        made = FlowRunFilter(tags=FlowRunFilterTags(all_=["ghost-sweep"]))
        cells = opened.read_flow_runs(flow_run_filter=made)
        prune = opened.read_deployment_by_name(NAME)
    assert [(cell.deployment_id, cell.state_name) for cell in cells] == [(prune.id, "Completed")] * 2
    assert {cell.work_queue_name for cell in cells} == {"sweeps"}
    [table] = pipeline.store.glob("sweeps/*/cells.parquet")
    rows = pq.read_table(table).to_pylist()
    assert [(row["method"], row["error"]) for row in rows] == [("magnitude", None), ("random", None)]
    assert all((pipeline.store / "runs" / row["run_id"] / "manifest.json").exists() for row in rows)


def test_a_sweep_computes_what_no_worker_wants(pipeline: Pipeline) -> None:
    with client(pipeline.api) as opened:
        prune = opened.read_deployment_by_name(NAME)
        opened.create_work_pool(WorkPoolCreate(name="idle", type="process"))
        opened.create_deployment(prune.flow_id, "idle", work_pool_name="idle", entrypoint=prune.entrypoint)
    cell = {"methods": ["magnitude"], "sparsity": [0.75], "deployment": "ghost/idle", "patience": 1}
    run = run_and_wait(pipeline.api, SWEEP, sweep_parameters(pipeline, **cell))
    assert run.state and run.state.name == "Completed", run.state
    with client(pipeline.api) as opened:
        runs = opened.read_flow_runs(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["idle"])))
    assert [(made.state_name, made.work_queue_name) for made in runs] == [("Cancelled", "default")]


def sweep_parameters(pipeline: Pipeline, **axes: Any) -> dict[str, Any]:
    every = pipeline.parameters()
    options = {name: every[name] for name in ("calibration", "evaluation", "samples", "round_to")}
    lists = {"sparsity": [0.5], "calibration_lengths": [every["length"]], "windows": [every["window"]]}
    return {"models": [every["model"]], "options": options} | lists | axes
