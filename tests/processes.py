"""Looking after processes that tests start, and those that these start in turn."""

import time

import psutil


def children(pid: int) -> list[psutil.Process]:
    """All that a process started, and they in turn; none where it is gone."""
    try:
        return [child for child in psutil.Process(pid).children(recursive=True) if alive(child)]
    except psutil.NoSuchProcess:
        return []


def alive(process: psutil.Process) -> bool:
    """Not so for a zombie, which only waits for a parent to look."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def running(pid: int, word: str) -> list[psutil.Process]:
    """What the process started with this word in its command line."""
    return [child for child in children(pid) if word in _words(child)]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def assert_gone(processes: list[psutil.Process], seconds: float = 10.0) -> None:
    """They end by themselves within so many seconds."""
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if alive(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
