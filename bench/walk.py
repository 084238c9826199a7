"""The whole walk against one dense forward of the same tokens, and that against transformers' own."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.measure import medians
from bench.random_checkpoint import write_random
from ghost.checkpoint.source import open_checkpoint
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.stream import batches
from ghost.walk import walk

LAYERS, SAMPLES, LENGTH, ROUNDS = 6, 16, 256, 5


def run(device: str) -> dict[str, Any]:
    """mamba2-130m's shape with 6 layers, 16 x 256 tokens, fp32, 50% sparsity; no head in any of them."""
    return compared("130m", LAYERS, (SAMPLES, LENGTH), torch.device(device), torch.float32)


@torch.inference_mode()
def compared(
    shape: str, layers: int | None, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Seconds and ratios for random tokens (samples, length) through so many layers of `shape`, all for None."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_random(Path(folder), shape, layers))
        tokens_bl = torch.randint(50000, size, generator=torch.Generator().manual_seed(0))
        stack = Stack(checkpoint, device, dtype)
        stock: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        stock.to(device).eval()
        parts = [tokens_bl[p].to(device) for p in batches(*size, batch_tokens=stack.batch_tokens)]
        contestants = {
            "dense forward": lambda: stack.run(tokens_bl),
            "walk": lambda: list(walk(stack, tokens_bl, RunSettings(sparsity=0.5))),
            "transformers' forward": lambda: [stock.backbone(part) for part in parts],
        }
        seconds = medians(contestants, ROUNDS)
    return {
        "seconds": seconds,
        "walk / dense forward": seconds["walk"] / seconds["dense forward"],
        "walk / transformers' forward": seconds["walk"] / seconds["transformers' forward"],
        "transformers' forward / dense forward": seconds["transformers' forward"] / seconds["dense forward"],
    }
