"""Models of mamba2-130m's shape with random weights, a folder a state size: speed doesn't depend on the values."""

import shutil
from pathlib import Path

from bench.random_checkpoint import write_random
from bench.runtimes.checkpoints import Sample, Source
from ghost.checkpoint.source import DEMO

STATES = (128, 64, 32, 16)


def random_sample(d_state: int, scratch: Path) -> Sample:
    """In bf16, with the demo's tokenizer: some formats can't be without."""
    folder = write_random(scratch / f"130m-{d_state}", "130m", d_state=d_state)
    for path in DEMO.glob("tokenizer*"):
        shutil.copy(path, folder)
    return Sample(Source(name="130m", model=str(folder)), "random", d_state, folder, scratch)
