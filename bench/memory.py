"""Peak resident memory of pruning mamba2-1.3b's shape from disk to disk, with 48 and with 12 layers."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.random_checkpoint import write_random

TOKENS = (16, 128)


def run(device: str) -> dict[str, Any]:
    """Each size is pruned in a process of its own, which reports its peak."""
    peaks = {layers: _prune(layers, device) for layers in (12, 48)}
    growth = peaks[48]["peak_rss"] / peaks[12]["peak_rss"]
    return {
        "peaks": {f"{layers} layers": figures for layers, figures in peaks.items()},
        "48 layers / 12 layers": growth,
    }


def _prune(layers: int, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source = write_random(Path(folder) / "source", "1.3b", layers)
        command = [
            sys.executable,
            "-m",
            "bench.prune_process",
            str(source),
            f"{folder}/pruned",
            device,
            *map(str, TOKENS),
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
