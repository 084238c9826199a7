"""What recovery is worth on the demo model, and the seconds that it costs."""

import math
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import track

from ghost.backbone import Backbone
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import open_checkpoint
from ghost.config import RunSettings, resolve_device, resolve_dtype
from ghost.evaluation.perplexity import perplexity
from ghost.export import export
from ghost.mixer import Weights
from ghost.surgery import slice_mixer
from ghost.walk import LayerResult, walk

KEPT = (32, 16, 8)
Recovery = Literal["none", "lstsq", "local"]
RECOVERIES: tuple[Recovery, ...] = ("none", "lstsq", "local")
WINDOWS = (512, 2048)
"""Tokens of an evaluation window: as long as a calibration window, and four times as long."""
CALIBRATION = {"32 x 512": (32, 512), "8 x 512": (8, 512)}
TOKENS = 24_576


def run(device: str) -> dict[str, Any]:
    """Rises of perplexity over the dense model, as shares, on the first 24,576 evaluation tokens of corpus stdlib."""
    chosen = resolve_device(device)
    backbone = Backbone(open_checkpoint("demo"), chosen, resolve_dtype("auto", chosen))
    folder = backbone.checkpoint.folder
    text = tokenize(folder, read_text("stdlib", "evaluation"))[: TOKENS + 1]
    calibration = tokenize(folder, read_text("stdlib", "calibration"))
    dense = _nlls(backbone, text)
    cells: list[tuple[str, int, Recovery]] = [
        (sample, kept, how) for sample in CALIBRATION for kept in KEPT for how in RECOVERIES
    ]
    figures: dict[str, Any] = {}
    for sample, kept, how in track(cells, "calibration x kept x recovery"):
        tokens_bl = sample_windows(calibration, *CALIBRATION[sample], seed=0)
        nlls, seconds = _pruned(backbone, tokens_bl, text, kept, how)
        rises = {f"window {window}": math.exp(nlls[window] - dense[window]) - 1 for window in WINDOWS}
        figures.setdefault(sample, {}).setdefault(str(kept), {})[how] = rises | {"seconds": seconds}
    return figures


def _pruned(
    backbone: Backbone, tokens_bl: torch.Tensor, text: torch.Tensor, kept: int, how: Recovery
) -> tuple[dict[int, float], float]:
    """Nats per token by window, and the seconds of the walk."""
    settings = RunSettings(sparsity=1 - kept / 128, round_to=8, recovery=how)
    started = time.perf_counter()
    results = list(walk(backbone, tokens_bl, settings))
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        export(backbone.checkpoint, partial(_mixer, backbone, results), kept, Path(folder), {})
        return _nlls(Backbone(open_checkpoint(folder), backbone.device, backbone.dtype), text), seconds


def _mixer(backbone: Backbone, results: list[LayerResult], i: int) -> Weights:
    source, recovered = backbone.checkpoint, results[i].recovered
    if recovered is not None:
        return recovered.mixer
    return slice_mixer(source.mixer_layout, source.mixer(i), results[i].selection)[1]


def _nlls(backbone: Backbone, text: torch.Tensor) -> dict[int, float]:
    return {window: perplexity(backbone, text, window).nll for window in WINDOWS}
