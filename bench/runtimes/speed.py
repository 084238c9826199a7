"""Models of mamba2-130m's shape with random weights, a folder a state size: speed doesn't depend on the values."""

from pathlib import Path

from bench.random_checkpoint import write_random
from bench.runtimes.checkpoints import Sample, Source

STATES = (128, 64, 32, 16)


def random_sample(d_state: int, scratch: Path) -> Sample:
    """In bf16, without a tokenizer."""
    folder = write_random(scratch / f"130m-{d_state}", "130m", d_state=d_state)
    return Sample(Source(name="130m", model=str(folder)), "random", d_state, folder, scratch)
