"""Runs that are told to stop, or killed: they end soon, leave no process behind, and go on to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.stop import CODES, LINE
from tests.chaos import Bench, contents
from tests.processes import alive, assert_gone, children, running

SOON = 10.0
"""Seconds that a run may take to end."""


def wait_for(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> list[psutil.Process]:
    """What the process has started by the moment."""
    while not moment():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return children(process.pid)


def end(process: subprocess.Popen[bytes], number: signal.Signals, times: int = 1) -> list[str]:
    """Send the signal, and see the process end soon with the code of the signal; its lines on stderr."""
    started = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.2)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < SOON
    assert process.returncode == CODES[number] and not out, err
    return err.decode().splitlines()


def test_a_run_that_is_told_to_stop_says_so_and_goes_on_to_the_same_bytes(tmp_path: Path, prefect_api: str) -> None:
    bench, store = Bench(tmp_path, prefect_api), tmp_path / "store"
    bench.finish_here(tmp_path / "undisturbed")
    first = bench.start(store)
    wait_for(first, lambda: any(store.glob("prunings/*/layers/001/layer.json")))
    lines = end(first, signal.SIGTERM)
    assert lines[-1] == LINE and sum("ghost: " in line for line in lines) == 1 and "Traceback" not in str(lines)
    second = bench.start(store)
    started = wait_for(second, lambda: bool(running(second.pid, "tasks.run.evaluation_process")))
    assert end(second, signal.SIGINT, times=3)[-1] == LINE
    assert_gone(started)
    assert bench.finish_here(store)["layers"] == {"computed": 0, "cached": bench.layers}
    assert contents(store) == contents(tmp_path / "undisturbed")


PATIENT = "import time; from flows.stop import stoppable\nwith stoppable(): print('ready', flush=True); time.sleep(60)"
DEAF = """
import time
from flows.stop import stoppable
with stoppable():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException:
        time.sleep(60)
"""
MASKING = """
import time
from flows import cli
def app():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException:
        raise ValueError("Task run is not set")
cli.app = app
cli.main()
"""


@pytest.mark.parametrize("program", [PATIENT, DEAF, MASKING], ids=["patient", "deaf", "masking"])
@pytest.mark.parametrize("number", CODES)
def test_whatever_a_command_does_it_ends_with_one_line(program: str, number: signal.Signals) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert end(process, number) == [LINE]


GUARDED = """
import os, subprocess, sys
from flows.guard import MARK, start_guard
inherited = os.environ.get(MARK)
guard = start_guard()
sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
assert start_guard() is guard and os.environ[MARK] != inherited
print(guard.pid, sleeper.pid, flush=True)
sys.stdin.readline()
"""


def guarded() -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """A process with a guard, and its guard and sleeping child; with its end, the child ends too."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", GUARDED], stdin=pipe, stdout=pipe, start_new_session=True)
    assert process.stdout is not None
    return process, [psutil.Process(int(word)) for word in process.stdout.readline().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, None], ids=["killed", "ended"])
def test_a_guard_ends_what_its_own_process_left_and_nothing_else(number: signal.Signals | None) -> None:
    process, left = guarded()
    other, spared = guarded()
    if number:
        os.killpg(process.pid, number)
    process.communicate()
    assert_gone(left)
    assert all(alive(each) for each in spared)
    other.kill()
    other.communicate()
    assert_gone(spared)


def test_a_killed_run_leaves_no_server_behind(tmp_path: Path) -> None:
    arguments = Bench(tmp_path, api="none: Prefect starts a server of its own").arguments(tmp_path / "store")
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    with subprocess.Popen(
        command,
        env=env | {"PREFECT_HOME": str(tmp_path / "prefect")},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        started = wait_for(run, lambda: bool(running(run.pid, "uvicorn")))
        assert any("guard.py" in word for process in started for word in process.cmdline())
        os.killpg(run.pid, signal.SIGKILL)
    assert_gone(started)
