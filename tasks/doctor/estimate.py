"""What a run with default settings would take of a machine: memory by the sizes of tensors, time by trying a mixer of
the model's shape here. No weight of the model is read."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch
import torch.nn.functional as F

from ghost.budget import COPIES, FP32, bytes_to_hold, resolve_batch_tokens, token_bytes
from ghost.checkpoint.sizes import embeddings, head, largest_layer, layers
from ghost.checkpoint.source import Checkpoint
from ghost.chunks import CACHE_BYTES, PIECE_BYTES
from ghost.evaluation.forward import TOKENS_PER_SWEEP
from ghost.likelihood import LOGIT_BYTES
from ghost.mixer import MixerLayout, Weights, mixer_forward, mixer_inputs
from ghost.recovery.room import calibration_bytes
from ghost.settings import RunSettings
from ghost.ssd import energies
from ghost.stack import what_fits

TRIED_PRODUCTS = 3e10
"""Products of numbers that a trial of a mixer takes at the most; a small model's is tried on a whole batch."""
TRIAL_SECONDS = 1.0
"""For so long each part is tried again and again, and once at least, after a first time that warms up."""


def memory(source: Checkpoint, settings: RunSettings, device: torch.device, dtype: torch.dtype) -> dict[str, int]:
    """Bytes at the most on the device: of the `walk` and of the `evaluation`, of which one comes after the other, and
    in `total`. On a CPU that has the weights as they are read, before they are converted, and `process`, which is
    Python with its libraries as in this one."""
    layout, on_cpu = source.mixer_layout, device.type == "cpu"
    resident, batch_tokens = what_fits(source, device, dtype) == "resident", _batch_tokens(source, settings, device)
    layer, table, end = (
        part.bytes + on_cpu * part.file_bytes
        for part in (largest_layer(source, dtype), embeddings(source, dtype), head(source, dtype))
    )
    if resident:
        layer = sum(part.bytes for part in layers(source, dtype))
    tokens = settings.samples * settings.length
    stream = calibration_bytes(layout, dtype, tokens, settings.recovery)
    sweep = TOKENS_PER_SWEEP * layout.d_model * FP32
    inputs = tokens * (sum(layout.in_proj_sections) + sum(layout.conv_sections)) * dtype.itemsize
    held = min(inputs, bytes_to_hold(device, resident=resident))
    logits = COPIES * max(LOGIT_BYTES, FP32 * source.vocab_size)
    walk = stream + max(layer + held + _batch(source, settings.length, batch_tokens, device), table)
    evaluation = sweep + max(layer + _batch(source, settings.window, batch_tokens, device), end + logits)
    process = psutil.Process().memory_info().rss if on_cpu else 0
    return {"process": process, "walk": walk, "evaluation": evaluation, "total": process + max(walk, evaluation)}


def _batch_tokens(source: Checkpoint, settings: RunSettings, device: torch.device) -> int:
    return resolve_batch_tokens(settings.batch_tokens, source.mixer_layout, device)


def _batch(source: Checkpoint, length: int, batch_tokens: int, device: torch.device) -> int:
    """Of one batch's intermediate results: in a mixer, which takes a long window in pieces, those of the recurrence and
    around it; in other layers what the widest projection puts out; the stream's own beside them."""
    layout, tokens = source.mixer_layout, length * max(1, batch_tokens // length)
    recurrence = COPIES * (CACHE_BYTES if device.type == "cpu" else PIECE_BYTES)
    mixer = recurrence + min(tokens, batch_tokens) * token_bytes(layout)
    widest = max((width for _, width, _ in _others(source)), default=0)
    return COPIES * FP32 * tokens * layout.d_model + max(mixer, COPIES * FP32 * tokens * widest)


def _others(source: Checkpoint) -> Iterator[tuple[int, int, float]]:
    """Of each matrix in a decoder layer that is not of a mixer: its elements, how many numbers it puts out for a token,
    and the share of it that a token goes through."""
    names, mixers = source.names, tuple(f"{path}." for path in source.names.mixers.values())
    chosen = getattr(source.config, "num_experts_per_tok", 1)
    for name, shape in names.shapes.items():
        if not name.startswith(f"{names.layers}.") or name.startswith(mixers) or len(shape) < 2:
            continue
        share = min(1.0, chosen / shape[0]) if len(shape) == 3 else 1.0  # experts are stacked
        yield math.prod(shape), shape[-2] * (chosen if len(shape) == 3 else 1), share


def times(source: Checkpoint, settings: RunSettings, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds that the walk over the calibration text would take, and seconds a token of evaluation of both models.

    A mixer of the model's shape is tried on some tokens; other layers are taken to be as fast, an element of their
    matrices, as its in_proj.
    """
    layout, length = source.mixer_layout, settings.length
    products = sum(math.prod(shape) for shape in layout.shapes().values()) * length
    batch_tokens = _batch_tokens(source, settings, device)
    sequences = max(1, min(batch_tokens // length, int(TRIED_PRODUCTS / products)))
    forward, scored, product = _tried(layout, sequences, length, device, dtype)
    elements = sum(share * size for size, _, share in _others(source))
    others, mixers = elements * product, len(source.mixers)
    vocabulary = source.vocab_size * layout.d_model * product
    return {
        "walk_seconds": settings.samples * settings.length * (mixers * (forward + scored) + others),
        "evaluation_seconds_per_token": 2 * (mixers * forward + others + vocabulary),
        "tried_tokens": sequences * length,
    }


@torch.inference_mode()
def _tried(
    layout: MixerLayout, sequences: int, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Seconds a token of a mixer's forward, of its energies, and seconds a token and element of in_proj."""
    weights: Weights = {
        name: torch.full(shape, 0.01, dtype=dtype, device=device) for name, shape in layout.shapes().items()
    }
    hidden_blm = torch.full((sequences, length, layout.d_model), 0.01, dtype=dtype, device=device)
    _, *recurrence, _ = mixer_inputs(layout, weights, hidden_blm)
    in_proj, tokens = weights["in_proj.weight"], sequences * length
    forward = _seconds(lambda: mixer_forward(layout, weights, hidden_blm), device) / tokens
    scored = _seconds(lambda: energies(*recurrence), device) / tokens
    product = _seconds(lambda: F.linear(hidden_blm, in_proj), device) / tokens
    return forward, scored, product / in_proj.numel()


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of its rounds."""
    rounds: list[float] = []
    while len(rounds) < 2 or sum(rounds[1:]) < TRIAL_SECONDS:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rounds.append(time.perf_counter() - started)
    return statistics.median(rounds[1:])
