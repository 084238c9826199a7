"""`ghost bench`: run benchmarks, print their figures as tables, and keep them as JSON."""

import json
import platform
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import (
    cuda,
    decode,
    energies,
    memory,
    operators,
    processes,
    quality,
    recovery,
    recovery_cost,
    s3,
    walk,
    windows,
)
from ghost.config import resolve_device
from ghost.errors import SettingsError

BENCHMARKS = {
    "energies": energies.run,
    "walk": walk.run,
    "processes": processes.run,
    "operators": operators.run,
    "decode": decode.run,
    "memory": memory.run,
    "windows": windows.run,
    "quality": quality.run,
    "recovery": recovery.run,
    "recovery-cost": recovery_cost.run,
    "s3": s3.run,
    "cuda": cuda.run,
}


def run_benchmarks(what: str, out: Path | None, device: str = "auto", family: str = "mamba2") -> None:
    """One benchmark by name, or all that this machine can run. `family` is of the model whose memory is measured."""
    if what != "all" and what not in BENCHMARKS:
        raise SettingsError(f"benchmark {what!r} is unknown; choose one of all, {', '.join(BENCHMARKS)}")
    if lacking := _lacking(what):
        raise SettingsError(f"benchmark {what!r} needs {lacking}, and there is none; choose another")
    if family not in memory.FAMILIES:
        raise SettingsError(f"--family {family!r} has no benchmark; choose one of {', '.join(memory.FAMILIES)}")
    runs = BENCHMARKS | {"memory": partial(memory.run, family=family)}
    names = [name for name in BENCHMARKS if name == what or (what == "all" and not _lacking(name))]
    figures: dict[str, Any] = {"machine": machine()}
    for name in names:
        figures[name] = runs[name](str(resolve_device(device)))
        _print(name, figures[name])
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(figures, indent=2) + "\n")


def _lacking(name: str) -> str | None:
    """What this machine has not, and the benchmark needs."""
    if name == "cuda" and not torch.cuda.is_available():
        return "a CUDA GPU"
    if name == "s3" and find_spec("moto") is None:
        return "moto, of the extra `dev`"
    return None


def machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__, "gpu": gpu}


def _print(name: str, figures: dict[str, Any]) -> None:
    table = Table(title=name, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in _flat(figures, ""):
        table.add_row(key, f"{value:,.0f}" if isinstance(value, int) else f"{value:.3f}")
    Console().print(table)


def _flat(figures: dict[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}: ")
        else:
            yield f"{prefix}{key}", value
