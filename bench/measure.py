"""Timing contestants in turn, so that a drifting machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def medians(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one warm-up round; every round runs all of them once, in order."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            _wait()
            started = time.perf_counter()
            run()
            _wait()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
