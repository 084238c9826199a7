"""Perplexity by method and kept channels: the README's table, on the demo model or any other."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import open_checkpoint
from ghost.config import resolve_device, resolve_dtype
from ghost.evaluation.perplexity import perplexity
from ghost.export import export
from ghost.selection import Selection
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.surgery import slice_mixer
from ghost.walk import walk

KEPT = (96, 64, 32, 16, 8)
SEEDS = {"ghost": (0,), "magnitude": (0,), "random": (0, 1, 2)}


def run(device: str) -> dict[str, Any]:
    """The demo model on corpus stdlib: 128 x 128 calibration tokens, windows of 2048. Random is the mean of three seeds
    (geometric, of perplexities)."""
    settings = RunSettings()
    chosen = resolve_device(device)
    stack = Stack(open_checkpoint(settings.model), chosen, resolve_dtype(settings.dtype, chosen))
    folder = stack.checkpoint.folder
    text = tokenize(folder, read_text(settings.evaluation, "evaluation"))
    calibration = tokenize(folder, read_text(settings.calibration, "calibration"))
    figures: dict[str, Any] = {"dense": {"128": perplexity(stack, text, settings.window).perplexity}}
    cells = [(method, kept) for method in SEEDS for kept in KEPT]
    for method, kept in track(cells, "methods x kept channels"):
        nlls = []
        for seed in SEEDS[method]:
            tokens_bl = sample_windows(calibration, settings.samples, settings.length, seed)
            nlls.append(_pruned_nll(stack, tokens_bl, text, method, kept, seed))
        figures.setdefault(method, {})[str(kept)] = math.exp(sum(nlls) / len(nlls))
    return {"perplexity": figures, "evaluation tokens": len(text) - 1}


def _pruned_nll(stack: Stack, tokens_bl: torch.Tensor, text: torch.Tensor, method: str, kept: int, seed: int) -> float:
    sparsity = 1 - kept / stack.checkpoint.mixer_layout.d_state
    settings = RunSettings(method=method, sparsity=sparsity, round_to=8, seed=seed)
    selections = [result.selection for result in walk(stack, tokens_bl, settings)]
    return nll_of_pruned(stack, selections, kept, text, settings.window)


def nll_of_pruned(stack: Stack, selections: list[Selection], kept: int, text: torch.Tensor, window: int) -> float:
    """Mean negative log-likelihood of the model cut to these channels, exported and opened again."""
    source = stack.checkpoint
    with tempfile.TemporaryDirectory() as folder:
        export(
            source,
            lambda i: slice_mixer(source.mixer_layout, source.mixer(i), selections[i])[1],
            replace(source.mixer_layout, d_state=kept),
            Path(folder),
            {},
        )
        pruned = Stack(open_checkpoint(folder), stack.device, stack.dtype)
        return perplexity(pruned, text, window).nll
