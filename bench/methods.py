"""Every method on the demo model, side by side: the table of docs/methods.md.

python -m bench.methods [--samples N] [--tokens N]

One-shot (every layer scored on the dense model), so that all kept counts, and the methods that share statistics, come
from one pass; `ghost bench quality` has the sequential figures of ghost, magnitude and random.
"""

import argparse
import math
import time
from collections.abc import Iterator

import torch

from bench.quality import nll_of_pruned
from ghost.backbone import Backbone
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import open_checkpoint
from ghost.config import RunSettings, resolve_device
from ghost.evaluation.perplexity import perplexity
from ghost.saliency import METHODS, LayerStatistics
from ghost.selection import select
from ghost.walk import walk

KEPT = (16, 32, 64, 8)
SHARED = {
    "ghost-joint": ("ghost", "ghost-mean", "ghost-joint", "rrqr", "magnitude", "random"),
    "sparsessm": ("sparsessm",),
    "taylor": ("taylor", "taylor2"),
}
"""The method whose statistics are measured, and those that are scored by them."""


def rises(samples: int, tokens: int) -> Iterator[str]:
    """One line per measurement: seconds of a pass, then the rise of perplexity over the dense model by kept channels
    and method. Calibration of `samples` windows of 128, evaluation on the first `tokens` tokens, corpus stdlib."""
    settings = RunSettings()
    backbone = Backbone(open_checkpoint(settings.model), resolve_device("auto"), torch.float32)
    folder = backbone.checkpoint.folder
    text = tokenize(folder, read_text(settings.evaluation, "evaluation"))[: tokens + 1]
    calibration = tokenize(folder, read_text(settings.calibration, "calibration"))
    tokens_bl = sample_windows(calibration, samples, settings.length, settings.seed)
    measured = {}
    for method, methods in SHARED.items():
        started = time.perf_counter()
        measured |= dict.fromkeys(methods, _statistics(backbone, tokens_bl, method))
        yield f"{method}: statistics in {time.perf_counter() - started:.1f} s"
    dense = perplexity(backbone, text, settings.window).nll
    yield f"dense: perplexity {math.exp(dense):.3f} on {len(text) - 1} tokens"
    for kept in KEPT:
        for method, statistics in measured.items():
            selections = [
                select(METHODS[method].score(layer, i, settings.seed), kept) for i, layer in enumerate(statistics)
            ]
            nll = nll_of_pruned(backbone, selections, kept, text, settings.window)
            yield f"{kept:3} {method:12} {100 * math.expm1(nll - dense):+.2f}%"


def _statistics(backbone: Backbone, tokens_bl: torch.Tensor, method: str) -> list[LayerStatistics]:
    settings = RunSettings(method=method, sequential=False)
    return [result.statistics for result in walk(backbone, tokens_bl, settings)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=1 << 30)
    chosen = parser.parse_args()
    for line in rises(chosen.samples, chosen.tokens):
        print(line, flush=True)
