"""Decoding and prefill of a smaller state in stock transformers: what a state of 16 buys, sliced and projected.

Speed does not depend on the values, so the weights are random, in real shapes. On a CPU transformers computes in plain
torch; on a GPU with mamba-ssm and causal-conv1d it takes their kernels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import Mamba2Config, Mamba2ForCausalLM

from bench.measure import medians
from bench.random_checkpoint import SHAPES, VOCAB
from ghost.evaluation.decode import PROMPT, STEPS, decode
from ghost.modeling import GhostMamba2Config, GhostMamba2ForCausalLM

D_STATE, KEPT, ROUNDS = 128, 16, 5
SIZES = {"cpu": ("130m",), "cuda": ("130m", "1.3b")}
BATCHES = {"cpu": (1, 8), "cuda": (1, 8, 64, 256, 512)}
PREFILL = {"cpu": (1, 512), "cuda": (8, 2048)}


def run(device: str) -> dict[str, Any]:
    """By shape: tokens per second and state bytes by batch, seconds of a prefill, and both against dense."""
    return {shape: _of_shape(shape, torch.device(device)) for shape in SIZES[torch.device(device).type]}


@torch.inference_mode()
def _of_shape(shape: str, device: torch.device) -> dict[str, Any]:
    models = {name: _made(make, device) for name, make in _contestants(shape).items()}
    figures: dict[str, Any] = {f"batch {batch}": _decoding(models, batch) for batch in BATCHES[device.type]}
    prompt_bl = torch.randint(VOCAB, PREFILL[device.type], generator=torch.Generator().manual_seed(0)).to(device)
    seconds = medians({name: partial(_prefill, model, prompt_bl) for name, model in models.items()}, ROUNDS)
    ratios = {f"{name} / dense": seconds[name] / seconds["dense"] for name in models if name != "dense"}
    return figures | {f"prefill of {' x '.join(map(str, prompt_bl.shape))} tokens, seconds": seconds | ratios}


@torch.inference_mode()
def by_state(
    shape: str, layers: int | None, states: Sequence[int], batch: int, device: torch.device
) -> dict[str, float]:
    """Tokens per second by size of the state, and each against the first."""
    fields = _fields(shape)
    fields["num_hidden_layers"] = layers or fields["num_hidden_layers"]
    made = {f"N = {n}": lambda n=n: Mamba2ForCausalLM(Mamba2Config(state_size=n, **fields)) for n in states}
    models = {name: _made(make, device) for name, make in made.items()}
    dense, found = f"N = {states[0]}", decode(models, torch.arange(PROMPT), batch, lambda rounds: None)
    speeds = {name: batch * STEPS / median(timed.seconds) for name, timed in found.items()}
    gains = {f"{name} / {dense}": speeds[name] / speeds[dense] for name in speeds if name != dense}
    return {f"{name} tokens/s": speed for name, speed in speeds.items()} | gains


def _fields(shape: str) -> dict[str, Any]:
    d_model, layers = SHAPES[shape]
    return {
        "hidden_size": d_model, "num_hidden_layers": layers, "num_heads": 2 * d_model // 64, "head_dim": 64,
        "n_groups": 1, "vocab_size": VOCAB, "tie_word_embeddings": True,
    }  # fmt: skip


def _contestants(shape: str) -> dict[str, Callable[[], Any]]:
    fields = _fields(shape)
    return {
        "dense": lambda: Mamba2ForCausalLM(Mamba2Config(state_size=D_STATE, **fields)),
        "sliced": lambda: Mamba2ForCausalLM(Mamba2Config(state_size=KEPT, **fields)),
        "projected": lambda: GhostMamba2ForCausalLM(
            GhostMamba2Config(state_size=KEPT, projected_from=D_STATE, **fields)
        ),
    }


def _made(make: Callable[[], Any], device: torch.device) -> Any:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return make().to(device, dtype).eval()


def _decoding(models: dict[str, Any], batch: int) -> dict[str, float]:
    found = decode(models, torch.arange(PROMPT), batch, lambda rounds: None)
    figures: dict[str, float] = {}
    for name, timed in found.items():
        figures[f"{name} tokens/s"] = batch * STEPS / median(timed.seconds)
        figures[f"{name} state bytes"] = timed.ssm_bytes
        if name != "dense":
            pairs = zip(found["dense"].seconds, timed.seconds, strict=True)
            figures[f"{name} / dense"] = median(dense / smaller for dense, smaller in pairs)
    return figures


def _prefill(model: Any, prompt_bl: Tensor) -> None:
    model(prompt_bl, use_cache=True, logits_to_keep=1)
