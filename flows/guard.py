"""A process that outlives a run and ends what the run left behind: once killed, a run can't stop Prefect's server.

It runs as a script, with the standard library and psutil alone, so that it takes little memory and nobody waits for it.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from functools import cache

MARK = "GHOST_RUN_MARK"
"""Environment variable by which the guard knows the processes that a run started."""
GRACE_SECONDS = 5.0
"""What a process gets to end by itself when the run is gone; Prefect's server is often still at it."""


@cache
def start_guard() -> "subprocess.Popen[bytes]":
    """Have all that this process starts from now on ended after it, however it ends. Returns at once."""
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    os.environ[MARK] = mark = uuid.uuid4().hex
    reader, _ = os.pipe()  # its other end is open, in this process alone, for as long as the process lives
    guard = subprocess.Popen(
        [sys.executable, "-P", __file__, mark], env=unmarked, cwd="/", start_new_session=True,
        stdin=reader, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(reader)
    return guard


def end_marked(mark: str) -> None:
    """End every process that carries the mark: politely, then for good, then those that appeared meanwhile."""
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        for process in _marked(mark):
            with suppress(ProcessLookupError):
                os.kill(process, number)
        deadline = time.monotonic() + GRACE_SECONDS
        while _marked(mark) and time.monotonic() < deadline:
            time.sleep(0.1)


def _marked(mark: str) -> list[int]:
    import psutil  # not before it is needed: a guard mostly waits

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile, dead already, or of another user
            if process.environ().get(MARK) == mark:
                found.append(process.pid)
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
