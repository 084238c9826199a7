"""On a CUDA GPU: what pruning mamba2-1.3b's shape costs (the paper's 128 x 2048 tokens: there 480 s and 15 GB), how far
that is from a dense forward, and what a smaller state gains in decoding.

Bounds stand in the names of the figures. Where mamba-ssm and causal-conv1d are installed, both sides use their kernels.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import decode, walk
from bench.random_checkpoint import write_random
from ghost.config import resolve_dtype
from ghost.kernels import versions


class Plan(NamedTuple):
    """Whose shape, how many of its layers (None: all), the calibration sizes, sequences that are decoded at once, and
    sizes of their state."""

    shape: str
    layers: int | None
    sizes: Sequence[tuple[int, int]]
    batch: int
    states: Sequence[int]


PLANS = {
    "cuda": Plan("1.3b", None, ((128, 128), (128, 2048)), 64, (128, 64, 32, 16)),
    "cpu": Plan("tiny", 1, ((2, 64),), 1, (128, 16)),
}
"""The CPU's is no benchmark: it goes the same way, so that the way is known before there is a GPU."""


def run(device: str) -> dict[str, Any]:
    """Seconds, bytes and ratios by part."""
    where, plan = torch.device(device), PLANS[torch.device(device).type]
    with tempfile.TemporaryDirectory() as folder:
        source = write_random(Path(folder) / "source", plan.shape, plan.layers)
        pruned = {f"{' x '.join(map(str, size))} tokens": _pruned(source, size, device) for size in plan.sizes}
    compared = walk.compared(plan.shape, plan.layers, plan.sizes[-1], where, resolve_dtype("auto", where))
    return {
        "kernels installed": len(versions()),
        "from disk to disk": pruned,
        "walk / transformers' forward (bound 1.5)": compared["walk / transformers' forward"],
        "walk / ghost's dense forward": compared["walk / dense forward"],
        f"decoding at batch {plan.batch}": decode.by_state(plan.shape, plan.layers, plan.states, plan.batch, where),
    }


def _pruned(source: Path, size: tuple[int, int], device: str) -> dict[str, Any]:
    """Weights resident where they fit, as in a run, and streamed, each in a process of its own."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for keeping in ("auto", "ahead"):
            command = ["-m", "bench.prune_process", source, f"{folder}/{keeping}", device, *size, keeping]
            done = subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
            name = "as a run has it (bound 15 s)" if keeping == "auto" else "streamed (bound 3 GB on the GPU)"
            figures[name] = json.loads(done.stdout.splitlines()[-1])
    return figures
