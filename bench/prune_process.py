"""Prune one folder into another on random tokens, and print seconds and peak memory as JSON. Run by the benchmarks."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ghost.checkpoint.source import open_checkpoint
from ghost.config import resolve_dtype
from ghost.export import export
from ghost.forms import Dense, Sliced
from ghost.selection import Selection
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk


def main(source: str, target: str, device_name: str, samples: str, length: str, keeping: str = "auto") -> None:
    checkpoint, out, device = open_checkpoint(source), Path(target), torch.device(device_name)
    tokens_bl = torch.randint(
        checkpoint.vocab_size, (int(samples), int(length)), generator=torch.Generator().manual_seed(0)
    )
    layers, final = out / "layers", out / "checkpoint"
    layers.mkdir(parents=True)
    final.mkdir()
    started = time.perf_counter()
    form, selections = Sliced(), list[Selection]()
    kept: Any = None if keeping == "auto" else keeping
    stack = Stack(checkpoint, device, resolve_dtype("auto", device), kept)
    for result in walk(stack, tokens_bl, RunSettings(sparsity=0.5)):
        pruned = form.reduce(Dense(checkpoint.mixer_layout, checkpoint.mixer(result.layer), result.selection))
        save_file(pruned, layers / f"{result.layer}.safetensors")
        selections.append(result.selection)
    layout = form.layout(checkpoint.mixer_layout, selections, round_to=1)
    export(checkpoint, lambda i: load_file(layers / f"{i}.safetensors"), layout, final, {})
    figures = {"seconds": time.perf_counter() - started, "peak_rss": _peak_rss()}
    if device.type == "cuda":
        figures["peak_cuda"] = torch.cuda.max_memory_allocated(device)
    print(json.dumps(figures))


def _peak_rss() -> int:
    """Bytes; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
