"""Runs that can be struck: of the command line, and of a deployment under a worker."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any, Protocol

import psutil
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Scheduled

from tests.chaos import Bench, PrefectServer
from tests.chaos_places import Place
from tests.pipeline import IMPATIENT, LOOK_SECONDS, POOL, WORKING, client, flow_processes, kill, start_run

DEPLOYMENT = "ghost/prune-eval"
WENT_ON, COMPLETED = "went on by itself", "completed"
"""Beginnings that start nothing."""
PATIENCE = 180.0
"""Seconds that a run may take to begin, and a worker to say what became of its run."""


class Runs(Protocol):
    """The starts of one run, one after the other."""

    kinds: tuple[str, ...]
    """The blows that there are."""
    place: Place
    errors: list[str]
    """How starts ended that neither a blow nor success had ended."""

    def begin(self) -> str:
        """Have the run go on, and say how; COMPLETED where it has ended well."""
        ...

    def working(self) -> bool:
        """Whether a process is at it."""
        ...

    def strike(self, kind: str) -> None:
        """One SIGKILL, to one process or to several at once."""
        ...


class CommandRuns:
    """`ghost run`, with a server that others use too."""

    kinds: tuple[str, ...] = ("command", "server")

    def __init__(self, bench: Bench, server: PrefectServer, place: Place) -> None:
        self.place = place
        self._bench, self._server = bench, server
        self._process: subprocess.Popen[bytes] | None = None
        self.errors: list[str] = []

    def begin(self) -> str:
        how = "new run" if self._process else "first run"
        if self._process is not None:
            if self._process.poll() is None:
                return WENT_ON
            _, errors = self._process.communicate()
            if self._process.returncode == 0:
                return COMPLETED
            if self._process.returncode > 0:
                self.errors.append(errors.decode().strip().rpartition("\n")[2])
        self._process = self._bench.start(self.place.store, "--out", self.place.out)
        return how

    def working(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def strike(self, kind: str) -> None:
        if kind == "server":
            restart(self._server)
        elif self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Workers:
    """One living worker after the other; whatever they start carries the mark."""

    def __init__(self, api: str, folder: Path) -> None:
        self._api, self._folder = api, folder
        self._worker: subprocess.Popen[bytes] | None = None

    def living(self) -> subprocess.Popen[bytes]:
        """The worker; a new one where it is gone."""
        if self._worker is None or self._worker.poll() is not None:
            command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
            env = os.environ | IMPATIENT | WORKING | {"PREFECT_API_URL": self._api, "OMP_NUM_THREADS": "1"}
            with (self._folder / "worker.log").open("ab") as log:
                self._worker = subprocess.Popen(
                    command, cwd=self._folder, env=env, stdout=log, stderr=log, start_new_session=True
                )
        return self._worker

    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None


class PipelineRuns:
    """A run of the deployment, retried or made anew."""

    kinds: tuple[str, ...] = ("flow", "worker", "both", "server")

    def __init__(self, bench: Bench, server: PrefectServer, workers: Workers, place: Place, chance: Random) -> None:
        self.place = place
        self._bench, self._server, self._workers = bench, server, workers
        self._ways = itertools.cycle(chance.sample(("retry", "new run"), 2))
        self._run: FlowRun | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self.errors: list[str] = []

    def begin(self) -> str:
        how = self._go_on()
        self._worker = self._workers.living() if how != WENT_ON else self._worker
        if how != COMPLETED:
            self._await_process()
        return how

    def working(self) -> bool:
        for _ in range(2):  # while the process makes itself another program it has no environment to know it by
            if self._run and engine_processes(self._run):
                return True
            time.sleep(0.1)
        return False

    def strike(self, kind: str) -> None:
        assert self._run is not None
        if kind == "server":
            restart(self._server)
            return
        victims = engine_processes(self._run) if kind in ("flow", "both") else []
        if kind in ("worker", "both"):
            victims.append(psutil.Process(self._workers.living().pid))
        kill(victims)

    def _go_on(self) -> str:
        self._workers.living()
        if self._run is None:
            self._run = self._new()
            return "first run"
        if self.working():
            return WENT_ON
        state = self._verdict(self._run)
        if state.is_completed():
            return COMPLETED
        self.errors.append(f"{state.name}: {state.message}")
        way = next(self._ways)
        if way == "new run":
            self._run = self._new()
        else:
            with client(self._server.api) as opened:  # as `prefect flow-run retry` does
                opened.set_flow_run_state(self._run.id, Scheduled(), force=True)
        return way

    def _new(self) -> FlowRun:
        given = self._bench.parameters(self.place.store) | {"out": self.place.out}
        return start_run(self._server.api, DEPLOYMENT, given)

    def _verdict(self, run: FlowRun) -> Any:
        """The state of a run without processes. Its worker tells, or ghost-watch in the end: it marks the silent."""
        deadline = time.monotonic() + PATIENCE
        with client(self._server.api) as opened:
            while True:
                state = opened.read_flow_run(run.id).state
                assert state is not None
                if state.is_final():
                    return state
                if self._worker is None or self._worker.poll() is not None or time.monotonic() > deadline:
                    opened.set_flow_run_state(run.id, Crashed(message="no sign of life"), force=True)
                    continue
                time.sleep(LOOK_SECONDS)

    def _await_process(self) -> None:
        assert self._run is not None
        deadline = time.monotonic() + PATIENCE
        with client(self._server.api) as opened:
            while not self.working():
                state = opened.read_flow_run(self._run.id).state
                if state and state.is_final():
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"run {self._run.name} is {state!r} and has no process after {PATIENCE} s")
                time.sleep(LOOK_SECONDS)


def engine_processes(run: FlowRun) -> list[psutil.Process]:
    """What executes a flow run, without the process in which its worker looks for hooks once the run has crashed."""
    return [process for process in flow_processes(run) if "hook" not in _command(process)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # gone meanwhile
        return ["hook"]


def restart(server: PrefectServer) -> None:
    """The server is gone for as long as its start takes."""
    server.kill()
    server.start()
