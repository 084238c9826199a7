"""What a refusal may cost."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ghost.errors import GhostError

MEGABYTE = 1 << 20


def refusal(action: Callable[[Path], object], folder: Path) -> str:
    """The message with which ghost refuses, within two seconds and without more than 64 MB of new memory."""
    process, finished = psutil.Process(), threading.Event()
    before, most, started = process.memory_info().rss, [0], time.perf_counter()

    def watch() -> None:
        while not finished.wait(0.002):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(GhostError) as error:
            action(folder)
    finally:
        finished.set()
        watcher.join()
    assert time.perf_counter() - started < 2
    assert most[0] - before < 64 * MEGABYTE
    return str(error.value)
