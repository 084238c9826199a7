"""Processes that a run starts: they have its modules, end with it, and leave a word on how they ended."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import IO

STDERR_TAIL = 4096
"""Bytes from the end of a dead evaluation's stderr in which its last line is looked for."""
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
"""What torchrun tells the processes that it starts; libraries go by it."""


def environment(**more: str) -> dict[str, str]:
    """For a process that has the modules of this one, and is none of those that torchrun started."""
    kept = {name: value for name, value in os.environ.items() if name not in TORCHRUN}
    return kept | {"PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path)} | more


def end_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS gives the latter where only a zombie is left
        os.killpg(group, signal.SIGKILL)


def how_it_ended(code: int, log: IO[bytes]) -> str:
    """What ended a process, and the last line that it wrote to stderr."""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    log.seek(max(0, log.seek(0, os.SEEK_END) - STDERR_TAIL))
    last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
    return f"{how} ({last})" if last else how


def end_with_the_run() -> None:
    """End this process and its group when stdin ends, which is when the one that started it does."""
    os.read(0, 1)  # not through sys.stdin, whose lock a thread must not hold when the process ends
    os.killpg(0, signal.SIGKILL)


def end_with_torchrun() -> None:
    """Stop this process soon after torchrun is gone that started it: killed, it ends none of those that it started."""
    threading.Thread(target=_stop_as_an_orphan, args=(os.getppid(),), daemon=True).start()


def _stop_as_an_orphan(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
