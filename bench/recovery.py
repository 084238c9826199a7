"""What recovery is worth, and what it costs: rise of perplexity, processor seconds and peak memory by level.

    python -m bench.recovery --model demo --kept 32,16,8 --levels none,lstsq,fit,local --out recovery.json

Every figure is of an exported checkpoint that was opened again; every cell is a process of its own, whose peak memory
is its own too. Calibration: `--samples` windows of `--length` tokens. `--evaluation` takes several texts (one of
another domain, say) and `--windows` several lengths. The same command goes on from its `--out`.
"""

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from bench.pruned import write_pruned
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import open_checkpoint
from ghost.config import resolve_device, resolve_dtype
from ghost.evaluation.perplexity import perplexity
from ghost.likelihood import nlls
from ghost.recovery.judge import Judge, Parts
from ghost.saliency import form_of
from ghost.settings import RunSettings
from ghost.stack import Head, Keeping, Stack
from ghost.walk import walk

LEVELS = ("none", "lstsq", "fit", "local")
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One pruned model: what it is made from and with, and what it is read on."""

    model: str = "demo"
    calibration: str = "stdlib"
    samples: int = 32
    length: int = 512
    evaluation: tuple[str, ...] = ("stdlib",)
    tokens: int = 24_576
    """Tokens at the start of each evaluation text."""
    windows: tuple[int, ...] = (512, 2048)
    """Evaluation windows: as long as a calibration window, and four times as long."""
    seed: int = 0
    """Which windows are drawn for calibration, and what steps draw."""
    device: str = "auto"
    method: str = "ghost"
    kept: int = 0
    """Channels of a group that stay; 0 for the dense model."""
    level: str = "none"
    judge: str = "kl"
    """By what candidates are compared: KL(dense || pruned), as ghost does, or `nll`, as it did before."""

    @property
    def key(self) -> str:
        """Everything that the figures depend on."""
        return json.dumps(asdict(self), sort_keys=True)


class LikelihoodJudge(Judge):
    """Compares candidates by the negative log-likelihood of held-back tokens, as ghost did before."""

    def __init__(self, stack: Stack, tokens_bl: Tensor, *others: Any) -> None:
        super().__init__(stack, tokens_bl, *others)
        self.tokens_bl = tokens_bl

    def _divergence(self, logits: Head, parts: Parts) -> float:
        vocab = self.stack.checkpoint.vocab_size
        totals = [
            nlls(logits, part.hidden_blm[:, :-1], self.tokens_bl[rows, 1:], vocab).sum()
            for part, rows in zip(parts, self.parts, strict=True)
        ]
        return float(sum(totals)) / sum(map(len, self.parts))


JUDGES = {"kl": Judge, "nll": LikelihoodJudge}


def measure(cell: Cell) -> Figures:
    """By text and window nats per token, and the score with those of each window; the walk's processor seconds, and the
    process's peak memory in bytes."""
    stack = opened(cell, cell.model)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        if cell.kept:
            prune(stack, cell, Path(folder))
        figures: Figures = {"seconds": time.process_time() - started, "peak_rss": peak_rss()}
        subject = opened(cell, folder) if cell.kept else stack
        scores = {text: _scores(subject, text, cell) for text in cell.evaluation}
        nll = {text: {window: score["nll"] for window, score in found.items()} for text, found in scores.items()}
        return figures | {"nll": nll, "scores": scores}


def opened(cell: Cell, model: str | Path, keeping: Keeping | None = None) -> Stack:
    """A model, on the cell's device."""
    device = resolve_device(cell.device)
    return Stack(open_checkpoint(model), device, resolve_dtype("auto", device), keeping)


def prune(stack: Stack, cell: Cell, folder: Path) -> None:
    """Write the pruned model that `cell` asks for."""
    source = stack.checkpoint
    tokens = tokenize(source.folder, read_text(cell.calibration, "calibration"))
    sparsity = 1 - cell.kept / source.mixer_layout.d_state
    settings = RunSettings.make(method=cell.method, recovery=cell.level, sparsity=sparsity, round_to=1, seed=cell.seed)
    # `walk` is the function; its module has the judge
    with patch.object(sys.modules[walk.__module__], "Judge", JUDGES[cell.judge]):
        results = list(walk(stack, sample_windows(tokens, cell.samples, cell.length, cell.seed), settings))
    write_pruned(source, results, form_of(cell.method, soft=False), folder)


def _scores(stack: Stack, text: str, cell: Cell) -> dict[str, Figures]:
    tokens = tokenize(stack.checkpoint.folder, read_text(text, "evaluation"))[: cell.tokens + 1]
    return {str(window): perplexity(stack, tokens, window).as_dict() for window in cell.windows}


def peak_rss() -> int:
    """Bytes of this process; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(base: Cell, kept: list[int], levels: list[str], out: Path | None = None) -> Iterator[tuple[Cell, Figures]]:
    """Each cell with its figures, dense first."""
    return measured([base, *(replace(base, kept=n, level=level) for n in kept for level in levels)], out)


def measured(
    cells: Iterable[Cell], out: Path | None = None, of_cell: Callable[[Any], Figures] = measure
) -> Iterator[tuple[Cell, Figures]]:
    """Each cell with its figures; those that `out` has already are not measured again."""
    known: dict[str, Figures] = json.loads(out.read_text()) if out and out.exists() else {}
    for cell in cells:
        if cell.key not in known:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                known[cell.key] = process.submit(of_cell, cell).result()
            if out:
                out.write_text(json.dumps(known, indent=2) + "\n")
        yield cell, known[cell.key]


def rises(figures: Figures, dense: Figures) -> dict[str, float]:
    """Rise of perplexity over the dense model, as a share, by text and window."""
    return {
        f"{text}, windows of {window}": math.exp(nll - dense["nll"][text][window]) - 1
        for text, by_window in figures["nll"].items()
        for window, nll in by_window.items()
    }


def run(device: str) -> Figures:
    """The demo model on corpus stdlib at 32, 16 and 8 channels, every level."""
    (_, dense), *cells = table(Cell(device=device), [32, 16, 8], list(LEVELS))
    return {
        f"{cell.kept} kept, {cell.level}": rises(figures, dense)
        | {"processor seconds": figures["seconds"], "peak MiB": figures["peak_rss"] / 2**20}
        for cell, figures in cells
    }


def report(cells: Iterator[tuple[Cell, Figures]]) -> None:
    """One line per figure, as soon as it is known; beside each rise, what share it is of the rise without recovery."""
    _, dense = next(cells)
    plain: dict[tuple[int, str], float] = {}
    for text, by_window in dense["nll"].items():
        for window, nll in by_window.items():
            print(f"dense, {text}, windows of {window}: perplexity {math.exp(nll):.2f}", flush=True)
    for cell, figures in cells:
        name = f"{cell.method}, {cell.level}, {cell.kept} kept"
        for where, rise in rises(figures, dense).items():
            share = rise / plain.setdefault((cell.kept, where), rise)
            beside = "" if cell.level == "none" else f" ({share:.2f} of the first level's)"
            print(f"{name}, {where}: {rise:+.1%}{beside}", flush=True)
        print(f"{name}: {figures['seconds']:.0f} processor s, {figures['peak_rss'] / 2**20:.0f} MiB", flush=True)


def main() -> None:
    base, parser = Cell(), argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    for name in ("model", "calibration", "method", "device"):
        parser.add_argument(f"--{name}", default=getattr(base, name))
    for name in ("samples", "length", "tokens", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(base, name))
    parser.add_argument("--evaluation", default="stdlib", help="texts, separated by commas")
    parser.add_argument("--windows", default="512,2048", help="tokens, separated by commas")
    parser.add_argument("--kept", default="32,16,8", help="state sizes, separated by commas")
    parser.add_argument("--levels", default=",".join(LEVELS), help="what rises are compared with comes first")
    parser.add_argument("--out", type=Path, help="JSON file that keeps the cells")
    fields = vars(parser.parse_args(sys.argv[1:]))
    kept, levels, out = (fields.pop(name) for name in ("kept", "levels", "out"))
    fields["evaluation"] = tuple(fields["evaluation"].split(","))
    fields["windows"] = tuple(map(int, fields["windows"].split(",")))
    report(table(Cell(**fields), [int(n) for n in kept.split(",")], levels.split(","), out))


if __name__ == "__main__":
    main()
