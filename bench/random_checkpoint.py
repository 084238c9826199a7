"""Checkpoints of a real model's shape with random weights: speed and memory don't depend on the values."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import Mamba2Config

from ghost.checkpoint.names import find_names
from ghost.checkpoint.writer import SINGLE, Planned, write_weights

REAL = {"130m": (768, 24), "1.3b": (2048, 48)}
SHAPES = REAL | {"tiny": (128, 2)}
VOCAB = 50288


def write_random(folder: Path, shape: str, layers: int | None = None, d_state: int = 128) -> Path:
    """A bf16 Mamba2 folder of `shape` (d_model and layers of SHAPES), one tensor in memory at a time."""
    d_model, usual = SHAPES[shape]
    config = Mamba2Config(
        hidden_size=d_model, num_hidden_layers=layers or usual, num_heads=2 * d_model // 64, head_dim=64, n_groups=1,
        vocab_size=VOCAB, state_size=d_state, tie_word_embeddings=True, dtype="bfloat16",
        architectures=["Mamba2ForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    names = find_names(config, files=())
    shapes = {name: size for name, size in names.shapes.items() if name not in names.tied}
    plan = [Planned(name, size, torch.bfloat16, partial(random_values, name, size)) for name, size in shapes.items()]
    write_weights(folder, {SINGLE: plan})
    return folder


def random_values(name: str, size: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Values of one tensor that keep a model's activations finite."""
    if name.endswith("norm.weight") or name.endswith((".D", "norm_f.weight")):
        return torch.ones(size, dtype=dtype)
    if name.endswith("A_log"):
        return torch.arange(1, size[0] + 1).log().to(dtype)
    scale = size[-1] ** -0.5 if len(size) > 1 else 0.1
    return torch.randn(size, generator=torch.Generator().manual_seed(len(name)), dtype=dtype).mul_(scale)
