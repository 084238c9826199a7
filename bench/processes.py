"""The walk by two processes against the walk by one on as many threads; the same work, and the same bytes."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.measure import medians
from bench.random_checkpoint import write_random
from ghost.checkpoint.source import open_checkpoint
from ghost.following import LedWalk
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.team import Gang
from ghost.walk import Walk
from tasks.run.processes import hire, threads_each

PROCESSES = 2
LAYERS, SAMPLES, LENGTH, ROUNDS = 6, 16, 1024, 5


def run(device: str) -> dict[str, Any]:
    """mamba2-130m's shape with 6 layers, 16 x 1,024 tokens, fp32, 50% sparsity. The other process is there already."""
    threads, settings = torch.get_num_threads(), RunSettings(sparsity=0.5)
    tokens_bl = torch.randint(50000, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, hire(PROCESSES, each := threads_each(PROCESSES)) as team:
        assert isinstance(team, Gang)
        stack = Stack(open_checkpoint(write_random(Path(folder), "130m", LAYERS)), torch.device(device), torch.float32)

        def alone() -> None:
            torch.set_num_threads(threads)
            _through(Walk(stack, tokens_bl, settings))

        def together() -> None:
            torch.set_num_threads(each)
            _through(LedWalk(stack, tokens_bl, settings, team))

        seconds = medians({"one process": alone, f"{PROCESSES} processes": together}, ROUNDS)
    torch.set_num_threads(threads)
    speed = seconds["one process"] / seconds[f"{PROCESSES} processes"]
    return {"threads in all": threads, "threads each of several": each, "seconds": seconds, "times as fast": speed}


def _through(walk: Walk) -> None:
    for layer in walk.stack.mixers:
        walk.restore(layer, walk.select(layer, walk.statistics(layer)))
