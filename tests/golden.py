"""Golden results: numbers that a change which should not change numbers must leave alone.

python -m tests.golden --write      after a change that should, with the reason in the commit
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import open_checkpoint
from ghost.evaluation.perplexity import perplexity
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk

FILE = Path(__file__).parent / "golden.json"
TEXT = Path(__file__).parent / "golden.txt"
METHODS = ("ghost", "ghost-mean", "magnitude", "random")


def compute() -> dict[str, Any]:
    """The demo model on a fixed text: perplexity, and per method and layer the saliency and the kept channels."""
    checkpoint = open_checkpoint("demo")
    stack = Stack(checkpoint, torch.device("cpu"), torch.float32)
    tokens = tokenize(checkpoint.folder, TEXT.read_text())
    calibration_bl = sample_windows(tokens, 8, 64, seed=0)
    layers = {}
    for method in METHODS:
        results = walk(stack, calibration_bl, RunSettings(method=method, sparsity=0.75))
        layers[method] = [
            {"saliency": r.selection.saliency_gn[0, ::16].tolist(), "kept": r.selection.indices_gk()[0].tolist()}
            for r in results
        ]
    return {"nll": perplexity(stack, tokens, 256).nll, "layers": layers}


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(json.dumps(compute(), indent=1) + "\n")
    else:
        print(json.dumps(compute()))
