"""Kill runs with SIGKILL at random moments, have them go on, and compare every byte with an undisturbed run.

    python -m tests.chaos_main --kills 100

A real Prefect server and worker, stores on disk and in a real S3 service, all on loopback. The tests do three kills;
this command does as many as asked, prints a line for each and the tally, and exits with 1 if anything went wrong.
"""

import argparse
import itertools
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from artifacts.keys import RunKeys
from artifacts.store import open_store
from tasks.stored_run import StoredRun
from tests.chaos import Bench, PrefectServer, running_server
from tests.chaos_places import Ledger, LocalPlace, Place, S3Place, everything, versioned_bucket
from tests.chaos_runs import COMPLETED, WENT_ON, CommandRuns, PipelineRuns, Runs, Workers
from tests.chaos_tally import Tally
from tests.pipeline import IMPATIENT, MARK, POOL, deploy, end_marked, marked, prefect
from tests.s3 import raw_client, s3_endpoint, s3_environment

GONE_SECONDS = 30.0
"""What the others get to end when one was killed; a worker of its own accord looks at the flow of a killed run."""
STEP_SECONDS = 0.05
"""Between two looks at what a run has written: it writes some ten objects a second, and a look takes milliseconds."""
TRIES = 20
"""Starts without a blow that a run may take to its end."""
ENDING = ("command", "flow", "both")
"""Blows that end the run, so that everything that it started ends too."""
ROUNDS = [
    ("command", "local"), ("pipeline", "s3"), ("pipeline", "local"),
    ("command", "s3"), ("pipeline", "s3"), ("pipeline", "local"),
]  # fmt: skip


@dataclass
class World:
    """Everything that runs need, what an undisturbed one left, and what happened so far."""

    folder: Path
    server: PrefectServer
    workers: Workers
    bench: Bench
    s3: Any
    mark: str
    chance: Random
    tally: Tally = field(default_factory=Tally)
    expected: dict[str, bytes] = field(default_factory=dict)
    reach: tuple[int, int] = (1, 1)
    """How many objects a start writes before a blow, at least and at most."""
    delays: tuple[float, ...] = (0.05, 0.05, 0.05, 2.0)
    """Then it has some more seconds, up to one of these: nothing is written while the evaluation goes on."""
    undisturbed: dict[str, Any] = field(default_factory=dict)
    """What the undisturbed run printed."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def run_id(self) -> str:
        return self.undisturbed["run_id"]

    def place(self, kind: str) -> Place:
        name = f"{kind}-{next(self.numbers)}"
        return S3Place(self.s3, name) if kind == "s3" else LocalPlace(self.folder / name)

    def runs(self, flavour: str, store: str) -> Runs:
        """A run that has not begun, of the `command` line or the `pipeline`, in a `local` or `s3` store of its own."""
        place = self.place(store)
        if flavour == "command":
            return CommandRuns(self.bench, self.server, place)
        return PipelineRuns(self.bench, self.server, self.workers, place, self.chance)

    def others(self) -> list[psutil.Process]:
        """The living processes that this world started, without server and worker."""
        return [process for process in marked(self.mark) if process.pid != self.workers.pid()]


@contextmanager
def world(folder: Path, seed: int, layers: int = 6) -> Iterator[World]:
    """Server, deployments, S3 and an undisturbed run; everything is ended afterwards."""
    (folder / "prefect").mkdir()
    (folder / "tmp").mkdir()
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch, s3_endpoint() as endpoint:
        variables = IMPATIENT | s3_environment(endpoint)
        for name, value in (variables | {"GHOST_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}).items():
            patch.setenv(name, value)
        with running_server(folder / "prefect") as server:
            patch.setenv(MARK, mark)
            client = raw_client(endpoint)
            versioned_bucket(client)
            prefect(server.api, "work-pool", "create", POOL, "--type", "process")
            deploy(server.api, GHOST_STORE=str(folder / "store"), GHOST_DEVICE="cpu")
            bench = Bench(folder, server.api, layers=layers)
            made = World(folder, server, Workers(server.api, folder), bench, client, mark, Random(seed))
            try:
                _undisturbed(made)
                yield made
            finally:
                end_marked(mark)


def _undisturbed(world: World) -> None:
    place = world.place("local")
    world.undisturbed = world.bench.finish_here(place.store, out=place.out)
    world.expected, world.reach = everything(place), (1, place.writes() // 3)


def torment(world: World, runs: Runs, kills: int) -> None:
    """Strike one run until that many kills have struck or it has ended well before the next; then compare."""
    tally, store, struck = world.tally, runs.place.kind, world.tally.struck
    ledger = Ledger(runs.place, world.run_id)
    for start in range(kills + TRIES):
        held = ledger.look()
        how = runs.begin()
        if how == COMPLETED:
            return _compare(world, runs, ledger)
        if start:
            tally.continued[how, store] += 1
            tally.resumed[store] += 0 if how == WENT_ON else held
        if tally.struck < struck + kills and _in_time(world, runs):
            _strike(world, runs, ledger)
        else:
            _until_idle(runs)
    raise RuntimeError(f"the run in {runs.place.store} does not come to an end: {runs.errors}")


def _in_time(world: World, runs: Runs) -> bool:
    """Wait for a random moment; whether the run is still at it then."""
    place, chance = runs.place, world.chance
    goal = place.writes() + chance.randint(*world.reach)
    while runs.working() and place.writes() < goal:
        time.sleep(STEP_SECONDS)
    time.sleep(chance.choice(world.delays) * chance.random())
    return runs.working()


def _strike(world: World, runs: Runs, ledger: Ledger) -> None:
    tally, store = world.tally, runs.place.kind
    kind = min(runs.kinds, key=lambda kind: (tally.kills[kind, store], world.chance.random()))
    others = world.others()
    runs.strike(kind)
    layers, moment = ledger.look(), _moment(world, runs.place)
    tally.kills[kind, store] += 1
    tally.moments[moment, store] += 1
    if kind in ENDING:
        _count_left(world, others, store)
    print(f"{tally.struck:4} {time.strftime('%H:%M:%S')} {store:5} {kind:7} {moment}, {layers} layers", flush=True)


def _moment(world: World, place: Place) -> str:
    """How far the run was."""
    if not place.writes():
        return "nothing stored"
    store = open_store(place.store)
    keys = RunKeys(world.run_id)
    pruning = StoredRun(store, keys).pruning
    for name, key in (
        ("the manifest", keys.manifest),
        ("the evaluation", keys.stage("evaluation")),
        ("the export", keys.stage("export")),
        ("all layers", pruning.layer(world.bench.layers - 1)),
        ("some layers", pruning.layer(0)),
    ):
        if store.exists(key):
            return f"{name} stored"
    return "no layer stored"


def _count_left(world: World, processes: list[psutil.Process], store: str) -> None:
    _, left = psutil.wait_procs(processes, timeout=GONE_SECONDS)
    for process in left:
        with suppress(psutil.Error):
            print(f"left behind: {process.pid} {' '.join(process.cmdline())}", flush=True)
    world.tally.orphans[store] += len(left)


def _until_idle(runs: Runs) -> None:
    while runs.working():
        time.sleep(0.1)


def _compare(world: World, runs: Runs, ledger: Ledger) -> None:
    tally, store = world.tally, runs.place.kind
    ledger.look()
    found, expected = everything(runs.place), world.expected
    differ = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    tally.finished[store] += 1
    tally.recomputed[store] += ledger.recomputed
    tally.mismatches[store] += len(differ)
    tally.errors.update(runs.errors)
    _count_left(world, world.others(), store)
    print(f"     {runs.place.store}: {differ or 'the same bytes'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, world(Path(name), args.seed) as tormented:
        tally, started = tormented.tally, time.monotonic()
        for flavour, store in itertools.cycle(ROUNDS):
            if tally.struck >= args.kills:
                break
            kills = min(tormented.chance.randint(3, 7), args.kills - tally.struck)
            torment(tormented, tormented.runs(flavour, store), kills)
    print(f"\n{tally.table()}\n\n{(time.monotonic() - started) / 60:.0f} minutes. How starts ended otherwise:")
    print("\n".join(f"{count:4} {message}" for message, count in tally.errors.most_common()))
    sys.exit(not tally.clean)


if __name__ == "__main__":
    main()
