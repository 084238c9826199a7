"""A real pipeline on loopback for tests: server, pool, deployments, worker and runs, and nothing left afterwards.

with served(folder) as api:
    deploy(api, GHOST_STORE=str(store))
    with worker(api, folder):
        run = run_and_wait(api, "ghost/prune-eval", {"model": ...})

`by_readme` starts the same by the commands of README.md.
"""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.events import Event
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter, EventResourceFilter
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.cli import CycloptsCliRunner

from tests.chaos import free_port, prefect_server, served_by, take_database

ROOT = Path(__file__).parent.parent
POOL = "gpu"
MARK = "GHOST_TEST_WORKER"
IMPATIENT = {
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "0.3",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
}
"""By default a queued run looks for its slot every 30 s, a worker for its runs every 10 s, and a server writes events
and looks for what has not happened every 5 s. Leases as docs/deploy.md advises: kept in memory they go with the server,
and Prefect then ends the runs that held them."""
UNTRACKED = ("PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK")
LOOK_SECONDS = 0.3
"""Between two looks at the server, each of which it has some 20 ms of work with."""
WORKING = {"PREFECT_LOGGING_TO_API_ENABLED": "true", "PREFECT_LOGGING_LEVEL": "INFO"}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server with the work pool `gpu`; gives its API address."""
    home = folder / "prefect"
    home.mkdir()
    before = dict(os.environ)
    os.environ |= IMPATIENT
    try:
        with prefect_server(home) as api:
            prefect(api, "work-pool", "create", POOL, "--type", "process")
            yield api
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def by_readme(folder: Path, parameters: dict[str, Any], **env: str) -> Iterator[tuple[str, str]]:
    """README's pipeline block as it stands but for the port and what is pruned, in a folder with prefect.yaml alone.

    Gives the server's API address and what the commands printed; server and worker are ended afterwards.
    """
    mark, port = uuid.uuid4().hex, free_port()
    words = " ".join(f"-p {name}={value}" for name, value in parameters.items())
    block = readme_block("As a pipeline").replace(":4200/", f":{port}/").replace("-p model=demo -p sparsity=0.5", words)
    kept = {name: value for name, value in os.environ.items() if name not in UNTRACKED}
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_API_PORT": str(port), MARK: mark, "COLUMNS": "200"}
    shutil.copy(ROOT / "prefect.yaml", folder)
    (folder / "prefect").mkdir()
    take_database(folder / "prefect")
    printed = folder / "printed.txt"
    try:
        with printed.open("w") as out:
            subprocess.run(
                ["bash", "-ec", block], cwd=folder, env=kept | IMPATIENT | WORKING | path | own | env,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=300,
            )  # fmt: skip
        yield f"http://127.0.0.1:{port}/api", printed.read_text()
    finally:
        end_marked(mark)


def readme_block(heading: str) -> str:
    """The first block of commands under a heading of README.md."""
    section = (ROOT / "README.md").read_text().split(f"\n## {heading}\n")[1]
    return section.split("\n```\n")[1]


def prefect(api: str, *words: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """`prefect ...` in the repository; its output, once it has ended with this exit code.

    In this process, as Prefect's own tests have it: one of its own takes seconds to import Prefect and the flows.
    """
    with chdir(ROOT), pytest.MonkeyPatch.context() as patch, served_by(api):
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        ended = CycloptsCliRunner().invoke(["--no-prompt", *words])
    if ended.exit_code != code:
        raise RuntimeError(f"{' '.join(words)} ended with {ended.exit_code}:\n{ended.output}")
    return ended.output


def deploy(api: str, **env: str) -> str:
    """All deployments of prefect.yaml, with these variables set; what the command printed."""
    return prefect(api, "deploy", "--all", env=env)


@contextmanager
def worker(api: str, folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process worker in a folder that has nothing of ghost's, in a process group of its own; log in worker.log.

    It is ended afterwards with everything that it started, whatever process group that is in.
    """
    mark = uuid.uuid4().hex
    every = os.environ | IMPATIENT | WORKING | {"PREFECT_API_URL": api, MARK: mark} | env
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    with (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=every, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        end_marked(mark)
        process.wait()


def end_marked(mark: str) -> None:
    """Kill every process with this mark in its environment, until there is none."""
    while left := marked(mark):
        kill(left)


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that were started with this mark, children of children and the re-parented included."""
    return _with_variable(MARK, mark)


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL, and wait until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _with_variable(name: str, value: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _variable(process, name) == value]


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(name)
    except psutil.Error:
        return None


@contextmanager
def client(api: str) -> Iterator[SyncPrefectClient]:
    """Prefect's own client of this server."""
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as opened:
        yield opened


def start_run(api: str, deployment: str, parameters: dict[str, Any]) -> FlowRun:
    """A run of a deployment (`flow/name`), scheduled for now."""
    with client(api) as opened:
        found = opened.read_deployment_by_name(deployment)
        return opened.create_flow_run_from_deployment(found.id, parameters=parameters)


def wait_for(api: str, run: FlowRun, *names: str, timeout: float = 300) -> FlowRun:
    """The run once its state has one of these names, by default once it is final. TimeoutError tells where it stood."""
    deadline = time.monotonic() + timeout
    with client(api) as opened:
        while time.monotonic() < deadline:
            run = opened.read_flow_run(run.id)
            if run.state and (run.state.name in names if names else run.state.is_final()):
                return run
            time.sleep(LOOK_SECONDS)
    raise TimeoutError(f"run {run.name} is {run.state} after {timeout} s")


def wait_for_crash(api: str, run: FlowRun, timeout: float = 180) -> None:
    """Until the run is Crashed, and its worker is through with it.

    A worker reports the end of a killed process twice, a second apart; a retry in between is crashed by the latter.
    """
    wait_for(api, run, "Crashed", timeout=timeout)
    deadline = time.monotonic() + timeout
    with client(api) as opened:
        while not opened.read_events(_executed(run), limit=1).events:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker has not said that run {run.name} has ended after {timeout} s")
            time.sleep(LOOK_SECONDS)


def _executed(run: FlowRun) -> EventFilter:
    """Events up to now by which workers say that they are through with the run."""
    of_run = EventAnyResourceFilter(id=[f"prefect.flow-run.{run.id}"])
    return EventFilter(event=EventNameFilter(name=["prefect.worker.executed-flow-run"]), any_resource=of_run)


def events(api: str, name: str, resource: str, timeout: float = 60) -> list[Event]:
    """What the server has been told under this name about a resource, once there is something."""
    deadline = time.monotonic() + timeout
    with client(api) as opened:
        while not (found := opened.read_events(_about(name, resource), limit=50).events):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {name} of {resource} after {timeout} s")
            time.sleep(LOOK_SECONDS)
    return list(found)


def _about(name: str, resource: str) -> EventFilter:
    """Events up to now of this name and resource."""
    return EventFilter(event=EventNameFilter(name=[name]), resource=EventResourceFilter(id=[resource]))


def run_and_wait(api: str, deployment: str, parameters: dict[str, Any], timeout: float = 300) -> FlowRun:
    """A run of a deployment, once it is final."""
    return wait_for(api, start_run(api, deployment, parameters), timeout=timeout)


def flow_processes(run: FlowRun) -> list[psutil.Process]:
    """The processes that execute a flow run on this machine."""
    return _with_variable("PREFECT__FLOW_RUN_ID", str(run.id))


def task_states(api: str, run: FlowRun, timeout: float = 90) -> dict[str, str]:
    """State names of the task runs of a flow run, the newest of each name; they reach the server a little later."""
    deadline = time.monotonic() + timeout
    while True:
        newest = {task_run.name: task_run for task_run in _task_runs(api, run)}
        if time.monotonic() > deadline or all(t.state and t.state.is_final() for t in newest.values()):
            return {name: str(task_run.state_name) for name, task_run in newest.items()}
        time.sleep(LOOK_SECONDS)


def _task_runs(api: str, run: FlowRun) -> list[TaskRun]:
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    with client(api) as opened:
        found = opened.read_task_runs(flow_run_filter=of_run)
    return sorted(found, key=lambda task_run: str(task_run.expected_start_time))
