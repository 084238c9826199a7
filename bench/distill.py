"""A trial: distilling a pruned model. What KL(dense || pruned) through all layers leaves of the rise after `fit`.

    python -m bench.distill --model demo --kept 16 --trained all --out distill.json

Prunes with `--recovery fit`, then takes Adam's steps on the mixers' tensors, a layer's graph in memory at a time, and
keeps the averaged weights that do best on held-back windows. Every figure is of a checkpoint that was opened again. The
same command goes on from its `--out`.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from bench.distill_steps import CHECK_EVERY, Trial, distill
from bench.recovery import Figures, measured, opened, prune
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.evaluation.perplexity import perplexity
from ghost.export import export
from ghost.likelihood import summed_kl
from ghost.stack import Stack


def measure(trial: Trial) -> Figures:
    """Held-back KL by step, and the steps' processor seconds; by text what `_read` says before and after."""
    dense = opened(trial, trial.model)
    with tempfile.TemporaryDirectory() as before, tempfile.TemporaryDirectory() as after:
        prune(dense, trial, Path(before))
        pruned, tokens = (
            opened(trial, before, "resident"),
            tokenize(before, read_text(trial.calibration, "calibration")),
        )
        source, started = pruned.checkpoint, time.process_time()
        layers, curve = distill(dense, pruned, sample_windows(tokens, trial.samples, trial.length, trial.seed), trial)
        figures: Figures = {"seconds": time.process_time() - started, "held-back KL": curve}

        def stored(i: int) -> dict[str, Tensor]:
            return {name: layers[i].mixer[name].to(tensor) for name, tensor in source.mixer(i).items()}

        export(source, stored, source.mixer_layout, Path(after), {})
        for when, model in (("before", before), ("after", after)):
            figures[when] = {text: _read(dense, opened(trial, model), text, trial) for text in trial.evaluation}
    return figures


@torch.inference_mode()
def _read(dense: Stack, stack: Stack, text: str, trial: Trial) -> Figures:
    """Rise of perplexity, the standard error of its logarithm, and KL(dense || pruned) a token."""
    (window,), every = trial.windows, tokenize(stack.checkpoint.folder, read_text(text, "evaluation"))
    tokens = every[: trial.tokens + 1]
    wanted, found = (perplexity(model, tokens, window) for model in (dense, stack))
    windows_bl = tokens[: len(tokens) // window * window].view(-1, window)
    with stack.head() as logits:
        found_blm, dense_blm = (model.run(windows_bl).hidden_blm for model in (stack, dense))
        nats = float(summed_kl(logits, found_blm, dense_blm, stack.checkpoint.vocab_size))
    rise = math.expm1(found.nll - wanted.nll)
    return {"rise": rise, "error": wanted.error_of_change(found), "kl": nats / windows_bl.numel()}


def report(trial: Trial, figures: Figures) -> None:
    """A line for the way there, and one for each text."""
    curve = ", ".join(f"{kl:.4f}" for kl in figures["held-back KL"].values())
    print(f"{trial.model}, {trial.kept} kept, {trial.trained}, rate {trial.rate:g}, {trial.samples} windows")
    print(f"held-back KL every {CHECK_EVERY} steps of {trial.batch} windows: {curve}")
    print(f"{figures['seconds']:.0f} processor s")
    for text in figures["before"]:
        before, after = (
            f"{reading['rise']:+.2%} ± {reading['error'] or math.nan:.2%}, KL {reading['kl']:.4f}"
            for reading in (figures["before"][text], figures["after"][text])
        )
        print(f"{Path(text).name}: {before}; then {after}", flush=True)


def main() -> None:
    base, parser = Trial(), argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    for name in ("model", "calibration", "device"):
        parser.add_argument(f"--{name}", default=getattr(base, name))
    for name in ("samples", "length", "tokens", "kept", "steps", "batch", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(base, name))
    parser.add_argument("--trained", choices=("bc", "all"), default=base.trained, help="rows of B and C, or all")
    parser.add_argument("--rate", type=float, default=base.rate, help="a share of each tensor's root mean square")
    parser.add_argument("--evaluation", default="stdlib", help="texts, separated by commas")
    parser.add_argument("--out", type=Path, required=True, help="JSON file that keeps the figures")
    asked = vars(parser.parse_args())
    out, evaluation = asked.pop("out"), tuple(asked.pop("evaluation").split(","))
    trial = Trial(**asked, evaluation=evaluation)
    ((_, figures),) = measured([trial], out, measure)
    report(trial, figures)


if __name__ == "__main__":
    main()
