"""What runs are tried on: a Prefect server of one's own, a tiny model with its texts, and the bytes of a store.

`python -m tests.chaos_main` torments runs with these.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from artifacts.keys import PRUNINGS, RUNS
from artifacts.store import open_store
from tests.models import make_model, text

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
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", f"--port={self._port}"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)
        try:
            self._await_health()
        except BaseException:
            self.kill()
            raise

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

    def arguments(self, store: Path | str, *more: str) -> list[str]:
        texts = [f"--{name}={self.folder / name}.txt" for name in ("calibration", "evaluation")]
        sizes = ["--samples=8", "--length=64", "--window=128", "--round-to=8"]
        return ["run", str(self.folder / "model"), *texts, *sizes, f"--store={store}", "--json", *more]

    def start(self, store: Path | str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flows.cli", *self.arguments(store, *more)]
        env = os.environ | {"PREFECT_API_URL": self.api, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def finish(self, store: Path | str, *more: str) -> dict:
        """Run to the end, and return the JSON object of its stdout."""
        process = self.start(store, *more)
        out, err = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError(err.decode())
        return json.loads(out)


def contents(store: Path | str) -> dict[str, bytes]:
    """Every object of every run and pruning by its key, except what may differ. A killed writer's temporary is no
    object."""
    opened = open_store(store)
    stored = (*opened.list(RUNS), *opened.list(PRUNINGS))
    keys = (key for key in stored if key.rpartition("/")[-1] not in OUTSIDE_MANIFEST)
    return {key: opened.record(key) for key in keys}
