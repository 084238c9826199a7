"""What a pruning cost: seconds by stage, and the most memory that it took. Both lie in its timings.json."""

import ctypes
import gc
import platform
import resource
from contextlib import suppress
from pathlib import Path

import torch

from artifacts.claims import read
from artifacts.digest import parse_object
from artifacts.keys import PruningKeys
from artifacts.manifest import merge_timings
from artifacts.store import Store
from tasks.run.open import Run

PEAK = "peak memory, bytes"
"""Beside the seconds in timings.json, which is where a run keeps what differs from one time to the next."""
RESET_PEAK = "5"
"""Written to clear_refs, it sets the peak of a process to what it holds now (man 5 proc)."""


def forget_peak() -> None:
    """Begin to measure anew: in one process, a cell must not be charged with the peak of the cell before it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):  # Linux with glibc; elsewhere the peak is of all cells so far
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)


def note_peak(run: Run) -> None:
    """Note the most memory taken so far; a run that was interrupted keeps the larger one."""
    known = parse_object(read(run.store, run.pruning.timings)) or {}
    merge_timings(run.store, run.pruning.timings, {PEAK: max(peak_bytes(run.stack.device), known.get(PEAK, 0))})


def peak_bytes(device: torch.device) -> int:
    """The most memory taken, in bytes: on a GPU what tensors took there, else the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def read_cost(store: Store, keys: PruningKeys) -> tuple[float, int | None]:
    """Seconds that the pruning took, without export and evaluation, which cost the same for every method; and its peak
    in bytes."""
    found = {k: v for k, v in (parse_object(read(store, keys.timings)) or {}).items() if isinstance(v, int | float)}
    peak = found.pop(PEAK, None)
    return round(sum(found.values()), 3), None if peak is None else int(peak)
