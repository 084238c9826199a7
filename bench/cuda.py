"""On a CUDA GPU: pruning mamba2-1.3b's shape on the paper's calibration sizes (there 15 GB and 8 minutes)."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.random_checkpoint import write_random

SIZES = ((128, 128), (128, 2048))


def run(device: str) -> dict[str, Any]:
    """Seconds and peak allocated memory, from disk to disk, by calibration size."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        source = write_random(Path(folder) / "source", "1.3b")
        for samples, length in SIZES:
            target = f"{folder}/pruned-{length}"
            command = [
                sys.executable,
                "-m",
                "bench.prune_process",
                str(source),
                target,
                device,
                str(samples),
                str(length),
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures[f"{samples} x {length} tokens"] = json.loads(done.stdout.splitlines()[-1])
    return figures
