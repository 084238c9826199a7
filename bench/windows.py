"""Peak memory of long windows, with and without `--batch-tokens`: mamba2-130m's shape with 2 layers, in fp32."""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.random_checkpoint import VOCAB, write_random
from ghost.checkpoint.source import open_checkpoint
from ghost.evaluation.perplexity import perplexity
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk

LAYERS, BATCH_TOKENS = 2, 2048
CASES = (("evaluation", 2048), ("evaluation", 32768), ("walk", 2048), ("walk", 8192), ("walk", 32768))
"""What reads windows of so many tokens; the shortest are what Python, weights and one batch take."""


def run(device: str) -> dict[str, Any]:
    """Each case in a process of its own, in pieces and whole."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_random(Path(folder), "130m", LAYERS)
        for what, window in CASES:
            for batch_tokens in sorted({BATCH_TOKENS, window}):
                command = [sys.executable, "-m", "bench.windows", folder, what, str(window), str(batch_tokens), device]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                figures[f"{what}, window {window}, {batch_tokens} at once"] = json.loads(done.stdout.splitlines()[-1])
    return figures


def peak(folder: str, what: str, window: int, batch_tokens: int, device: str) -> dict[str, int]:
    """Bytes at the most, of the process, and of the GPU where it computes on one."""
    stack = Stack(open_checkpoint(folder), torch.device(device), torch.float32, batch_tokens=batch_tokens)
    tokens = torch.randint(VOCAB, (window + 1,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    if what == "walk":
        list(walk(stack, tokens[None, :-1], RunSettings(sparsity=0.5)))
    else:
        perplexity(stack, tokens, window)
    found = {"peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}  # Linux counts in KiB
    if stack.device.type == "cuda":
        found["peak_cuda"] = torch.cuda.max_memory_allocated(stack.device)
    return found


if __name__ == "__main__":
    folder, what, window, batch_tokens, device = sys.argv[1:]
    print(json.dumps(peak(folder, what, int(window), int(batch_tokens), device)))
