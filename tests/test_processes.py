"""Runs by several processes: the bytes of one, whichever of them is killed, and however many go on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import torch

from ghost.errors import ProcessError, SettingsError
from ghost.following import Computed, FollowingPerplexity
from ghost.settings import RunSettings
from ghost.team import Gang
from tasks.run.processes import hire, processes_for, threads_each, torchrun_processes
from tests.chaos import Bench, contents
from tests.models import random_tokens
from tests.processes import assert_gone, children, running

SIZES: dict[str, Any] = {"samples": 6, "length": 1050}
"""Six batches, of a window each."""
OPTIONS = [f"--{name}={value}" for name, value in SIZES.items()]
CPU = Computed("cpu", "float32", 2048)
SOON = 10.0
"""Seconds that a run may take to end."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Bench:
    return Bench(tmp_path_factory.mktemp("processes"), prefect_api, layers=12)


@pytest.fixture(scope="module")
def expected(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("one")
    bench.finish_here(store, **SIZES)
    return contents(store)


def wait_for(process: subprocess.Popen[bytes], moment: Callable[[], Any]) -> Any:
    """What the moment gives, once there is something."""
    while not (found := moment()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found


def followers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = running(process.pid, "tasks.run.follower")
    return found if len(found) == 2 else []


def test_a_run_by_several_processes_has_the_bytes_of_one_whoever_is_killed(
    bench: Bench, expected: dict[str, bytes], tmp_path: Path
) -> None:
    first = bench.start(tmp_path, *OPTIONS, "--processes=3")
    others = wait_for(first, lambda: followers(first))
    wait_for(first, lambda: any(tmp_path.glob("prunings/*/layers/000/layer.json")))
    others[0].kill()
    _, err = first.communicate(timeout=SOON)
    assert first.returncode == 2
    assert "was ended by SIGKILL" in err.decode().splitlines()[-1] and "Traceback" not in err.decode()
    assert_gone(others, SOON)

    second = bench.start(tmp_path, *OPTIONS, "--processes=3")
    everyone = wait_for(second, lambda: followers(second) and children(second.pid))
    second.kill()
    assert_gone(everyone, SOON)
    second.communicate()

    result = bench.finish_here(tmp_path, **SIZES, processes=2)
    assert result["layers"]["cached"] >= 1
    assert contents(tmp_path) == expected


def test_torchrun_starts_the_same_run_and_takes_it_along_when_killed(
    bench: Bench, expected: dict[str, bytes], tmp_path: Path
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "flows.cli"]
    command = [*torchrun, *bench.arguments(tmp_path, *OPTIONS)]
    env = os.environ | {"PREFECT_API_URL": bench.api, "OMP_NUM_THREADS": "1"}
    with (tmp_path.parent / "killed.log").open("wb") as log:
        first = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    wait_for(first, lambda: any(tmp_path.glob("prunings/*/layers/000/layer.json")))
    everyone = children(first.pid)
    first.kill()
    first.wait()
    assert_gone(everyone, SOON)
    assert len(everyone) == 2 and not list(tmp_path.rglob("manifest.json"))

    ended = subprocess.run(command, env=env, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr.decode()
    assert contents(tmp_path) == expected


@pytest.mark.parametrize(
    ("processes", "device", "words"),
    [
        (0, "cpu", "processes: 0 is one per GPU, and the device is the CPU; give a number, such as 2"),
        (2, "cuda:1", "device: cuda:1 is one GPU, and each of several processes takes one; give --device cuda"),
        (64, "cuda", f"processes: 64 take a GPU each, and there are {torch.cuda.device_count()}; give --processes 0"),
    ],
)
def test_processes_that_the_machine_has_no_place_for_are_refused(processes: int, device: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        processes_for(RunSettings.make(processes=processes), torch.device(device))


@pytest.mark.parametrize("processes", [-1, 65, 1.5])
def test_a_number_that_is_none_is_refused(processes: float) -> None:
    with pytest.raises(SettingsError, match="processes: "):
        RunSettings.make(processes=processes)


def test_what_torchrun_has_started_is_what_a_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchrun_processes(RunSettings.make(processes=3)) == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert torchrun_processes(RunSettings.make()) == 4
    with pytest.raises(SettingsError, match="processes: 3 asked for, but torchrun started 4; leave --processes out"):
        torchrun_processes(RunSettings.make(processes=3))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="4 processes on several nodes"):
        torchrun_processes(RunSettings.make())


def test_processes_share_the_cores_unless_the_user_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    assert threads_each(2) == threads  # OMP_NUM_THREADS is set for tests
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_each(1) == threads and threads_each(1000) == 1


def test_an_error_of_another_process_is_that_of_the_team() -> None:
    with hire(3, threads=1) as team, pytest.raises(ProcessError, match=r"process [12] of 3: .*nowhere"):
        assert isinstance(team, Gang)
        team.begin(FollowingPerplexity, CPU, random_tokens(1, 24)[0], 10)
        team.ask("perplexity", "/nowhere")
        team.count([1])


def test_a_process_that_dies_stops_one_that_computes_alone(capfd: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(KeyboardInterrupt), hire(2, threads=1) as team:
            assert isinstance(team, Gang)
            team.begin(FollowingPerplexity, CPU, random_tokens(1, 24)[0], 10)
            (follower,) = running(os.getpid(), "tasks.run.follower")
            follower.kill()
            time.sleep(60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "process 1 of 2 was ended by SIGKILL" in capfd.readouterr().err
