"""What runs are tried on: a Prefect server of one's own, a tiny model with its texts, and the bytes of a store.

`python -m tests.chaos_main` torments runs with these.
"""

import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from artifacts.keys import PRUNINGS, RUNS
from artifacts.store import open_store
from tests.models import make_model, text

DATABASE = "prefect.db"
EVENTS_SECONDS = 30.0
"""What is on its way to the server gets to arrive: Prefect sends the states of tasks as events, by the way, and all to
the server that the first of them was for, be it gone."""
OUTSIDE_MANIFEST = {"timings.json"}


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PrefectServer:
    """A real server in a process group of its own on a free port. Started again, it keeps port and database."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._folder = folder
        quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        self._env = os.environ | {"PREFECT_HOME": str(folder)} | quiet
        self.api = f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Returns once it answers."""
        take_database(self._folder)
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", f"--port={self._port}"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)
        try:
            self._await_health()
        except BaseException:
            self.kill()
            raise
        leave_database(self._folder)

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _await_health(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.api}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"the Prefect server did not answer at {self.api}")


def take_database(home: Path) -> None:
    """Give a new server the tables of one before it: to make them takes longer than all else at its start."""
    database, shared = home / DATABASE, shared_database()
    if shared and shared.exists() and not database.exists():
        shutil.copyfile(shared, database)


def leave_database(home: Path) -> None:
    """Leave the database of a server just started to those that come after."""
    if (shared := shared_database()) and not shared.exists():
        unfinished = shared.with_suffix(f".{os.getpid()}")
        with closing(sqlite3.connect(home / DATABASE)) as own, closing(sqlite3.connect(unfinished)) as copy:
            own.backup(copy)
        unfinished.rename(shared)


def shared_database() -> Path | None:
    """Where the workers of one test session find it."""
    folder = os.environ.get("GHOST_TESTS_SHARED")
    return Path(folder) / DATABASE if folder else None


@contextmanager
def running_server(folder: Path) -> Iterator[PrefectServer]:
    """A started server, ended afterwards."""
    server = PrefectServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """The API address of a started server, ended afterwards."""
    with running_server(folder) as server:
        yield server.api


@contextmanager
def served_by(api: str) -> Iterator[None]:
    """Flows and commands of this process, and those that it starts, use the server at this address."""
    if PREFECT_API_URL.value() == api:
        yield
        return
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: api}):
        patch.setenv("PREFECT_API_URL", api)
        EventsWorker.drain_all(EVENTS_SECONDS)
        try:
            yield
        finally:
            EventsWorker.drain_all(EVENTS_SECONDS)


def ghost_here(api: str, argv: list[str]) -> tuple[Any, str, str]:
    """`ghost ...` in this process and with this server, to its exit code, stdout and stderr."""
    from flows import cli

    out, err = io.StringIO(), io.StringIO()
    with served_by(api), redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ghost", *argv])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code, out.getvalue(), err.getvalue()


@dataclass
class Bench:
    """A tiny model, its texts, and the command that prunes it."""

    folder: Path
    api: str
    layers: int = 4

    def __post_init__(self) -> None:
        make_model(self.folder / "model", layers=self.layers)
        (self.folder / "calibration.txt").write_text(text(400, seed=1))
        (self.folder / "evaluation.txt").write_text(text(400, seed=2))

    def parameters(self, store: Path | str) -> dict[str, Any]:
        """Of the flow, or of its deployment."""
        texts = {name: str(self.folder / f"{name}.txt") for name in ("calibration", "evaluation")}
        sizes = {"samples": 8, "length": 64, "window": 128, "round_to": 8}
        return {"model": str(self.folder / "model"), "store": str(store)} | texts | sizes

    def arguments(self, store: Path | str, *more: str) -> list[str]:
        """Of the command line."""
        model, *options = self.parameters(store).items()
        return ["run", model[1], *(f"--{name.replace('_', '-')}={value}" for name, value in options), "--json", *more]

    def start(self, store: Path | str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flows.cli", *self.arguments(store, *more)]
        env = os.environ | {"PREFECT_API_URL": self.api, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def finish(self, store: Path | str, *more: str) -> dict[str, Any]:
        """Run to the end, and return the JSON object of its stdout."""
        process = self.start(store, *more)
        out, err = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError(err.decode())
        return json.loads(out)

    def finish_here(self, store: Path | str, **changes: Any) -> dict[str, Any]:
        """The flow's result, in this process: where it is not the command that is looked at."""
        from flows.prune import ghost

        with served_by(self.api):
            return ghost(**self.parameters(store) | changes)


def contents(store: Path | str) -> dict[str, bytes]:
    """Every object of every run and pruning by its key, except what may differ. A killed writer's temporary is no
    object."""
    opened = open_store(store)
    stored = (*opened.list(RUNS), *opened.list(PRUNINGS))
    keys = (key for key in stored if key.rpartition("/")[-1] not in OUTSIDE_MANIFEST)
    return {key: opened.record(key) for key in keys}
