"""Decoding speed in stock transformers with its cache, models in turns, so that their ratio holds on a busy machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ghost.checkpoint.source import Checkpoint
from ghost.errors import CheckpointError, reason
from ghost.out_of_memory import is_out_of_memory

PROMPT, STEPS, ROUNDS = 16, 16, 5
PROTOCOL = (
    f"stock transformers, greedy, cache after a prompt of {PROMPT} tokens; each of {ROUNDS} rounds times {STEPS} steps "
    "of every model in turn, after one round that does not count; tokens per second: median of the rounds; ratio: "
    "median of the rounds' own ratios; state bytes: the tensors of the cache"
)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Seconds for STEPS steps, by round, and the bytes of the cache's recurrent and convolution states, and of the keys
    and values that the attention layers of a hybrid keep."""

    seconds: list[float]
    ssm_bytes: int
    conv_bytes: int
    kv_bytes: int


def stock_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    """The checkpoint in stock transformers, native folders through their translated config. CheckpointError where
    transformers does not load it."""
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, config=checkpoint.config, dtype=dtype, trust_remote_code=False
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{checkpoint.folder} does not load in transformers ({reason(error)}); check the model, or leave decoding "
            "and tasks out with --batch-sizes ''"
        ) from None
    return model.to(device).eval()


@torch.inference_mode()
def decode(models: dict[str, Any], prompt: Tensor, batch: int, progress: Callable[[int], None]) -> dict[str, Decoding]:
    """Time the models in turns on `batch` copies of a prompt (PROMPT,) of token ids.

    `progress` is called with the rounds just finished, ROUNDS + 1 in all.
    """
    prompt_bl = prompt.long().expand(batch, -1)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    sizes: dict[str, tuple[int, int, int]] = {}
    for number in range(ROUNDS + 1):
        for name, model in models.items():
            taken, sizes[name] = _round(model, prompt_bl.to(model.device))
            if number:
                seconds[name].append(taken)
        progress(1)
    return {
        name: Decoding(
            seconds=seconds[name], ssm_bytes=sizes[name][0], conv_bytes=sizes[name][1], kv_bytes=sizes[name][2]
        )
        for name in models
    }


def _round(model: Any, prompt_bl: Tensor) -> tuple[float, tuple[int, int, int]]:
    """Seconds of STEPS steps after the prompt, and the sizes of the cache."""
    out = model(prompt_bl, use_cache=True, logits_to_keep=1)
    named = "cache_params" if "cache_params" in out else "past_key_values"
    cache, token_b1, first = out[named], out.logits[:, -1:].argmax(-1), prompt_bl.shape[1]
    positions = torch.arange(first, first + STEPS, device=model.device).view(-1, 1, 1)
    _wait_for(model.device)
    start = time.perf_counter()
    for position_ids in positions:  # bamba does not ask its cache where it is
        out = model(token_b1, position_ids=position_ids, use_cache=True, **{named: cache})
        token_b1 = out.logits[:, -1:].argmax(-1)
    _wait_for(model.device)
    return time.perf_counter() - start, cache_bytes(cache)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cache_bytes(cache: Any) -> tuple[int, int, int]:
    """Bytes of a transformers cache's recurrent states, of its convolution states, and of its keys and values."""
    ssm, conv = (sum(_bytes(layer, name) for layer in cache.layers) for name in ("recurrent_states", "conv_states"))
    held = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return ssm, conv, sum(tensor.nbytes for tensor in held if tensor is not None)


def _bytes(layer: Any, states: str) -> int:
    """Of a layer's states of one kind; an attention layer has none."""
    return sum(state.nbytes for state in getattr(layer, states, {}).values() if state is not None)
