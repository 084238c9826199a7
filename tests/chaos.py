"""Kill runs with SIGKILL at random moments, start them again, and compare every byte with an undisturbed run.

    python -m tests.chaos --kills 100

The tests do eight; this command does as many as asked, and prints the tally.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from artifacts.store import open_store
from tests.models import make_model, text

OUTSIDE_MANIFEST = {"timings.json"}


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """A real server in a process group of its own on a free port; gives its API address, ends it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    env = os.environ | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _await_healthy(f"http://127.0.0.1:{port}/api/health", server)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _await_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the Prefect server did not answer at {url}")


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

    def arguments(self, store: Path, *more: str) -> list[str]:
        texts = [f"--{name}={self.folder / name}.txt" for name in ("calibration", "evaluation")]
        sizes = ["--samples=8", "--length=64", "--window=128", "--round-to=8"]
        return ["run", str(self.folder / "model"), *texts, *sizes, f"--store={store}", "--json", *more]

    def start(self, store: Path, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flows.cli", *self.arguments(store, *more)]
        env = os.environ | {"PREFECT_API_URL": self.api, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def finish(self, store: Path, *more: str) -> dict:
        """Run to the end, and return the JSON object of its stdout."""
        process = self.start(store, *more)
        out, err = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError(err.decode())
        return json.loads(out)


def contents(store: Path) -> dict[str, bytes]:
    """Every object of every run by its key, except what may differ. A killed writer's temporary is no object."""
    opened = open_store(store)
    keys = (key for key in opened.list("runs/") if key.rpartition("/")[-1] not in OUTSIDE_MANIFEST)
    return {key: opened.get(key) for key in keys}


@dataclass
class Tally:
    """What happened: at how many stored files each kill struck, and how often the bytes were not the same."""

    struck_at: list[int] = field(default_factory=list)
    finished: int = 0
    layers_resumed: int = 0
    mismatches: list[str] = field(default_factory=list)


def torment(bench: Bench, kills: int, seed: int) -> Tally:
    """Kill until `kills` have struck, finishing and comparing a store whenever it survives."""
    chance, tally = random.Random(seed), Tally()
    bench.finish(bench.folder / "undisturbed")
    expected = contents(bench.folder / "undisturbed")
    number = 0
    while len(tally.struck_at) < kills:
        store, number = bench.folder / f"store-{number}", number + 1
        while len(tally.struck_at) < kills and _struck(bench, store, chance, len(expected), tally):
            pass
        result = bench.finish(store)
        tally.finished += 1
        tally.layers_resumed += result["layers"]["cached"]
        found = contents(store)
        tally.mismatches += [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    return tally


def _struck(bench: Bench, store: Path, chance: random.Random, files: int, tally: Tally) -> bool:
    """Start the run and kill it once the store holds a random number of files more; False if it ended before."""
    process = bench.start(store)
    goal = len(_stored(store)) + chance.randint(0, max(1, files // 3))
    while process.poll() is None and len(_stored(store)) < goal:
        time.sleep(0.001)
    time.sleep(chance.random() * 0.05)
    if process.poll() is not None:
        process.communicate()
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    tally.struck_at.append(len(_stored(store)))
    return True


def _stored(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file()] if store.is_dir() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prefect").mkdir()
        with prefect_server(folder / "prefect") as api:
            tally = torment(Bench(folder, api), args.kills, args.seed)
    print(f"{len(tally.struck_at)} kills, with {sorted(tally.struck_at)} files stored; {tally.finished} runs finished;")
    print(
        f"{tally.layers_resumed} layers taken from the store by the last starts; {len(tally.mismatches)} files differ"
    )
    sys.exit(bool(tally.mismatches))


if __name__ == "__main__":
    main()
