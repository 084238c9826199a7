"""Every method side by side: rise of perplexity over the dense model by state size, seconds and peak memory.

    python -m bench.methods --model demo --kept 64,32,16,8 --seeds 0,1,2 --out methods.json

The table of docs/methods.md. Every layer is scored as `ghost run` scores it (sequentially, where the method can), every
figure is of an exported checkpoint that was opened again, and every cell is a process of its own. Calibration:
`--samples` windows of `--length` tokens, drawn anew for each seed; methods that no seed changes are run once. The same
command goes on from its `--out`; a cell that fails is told in one line, and left out.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import open_checkpoint
from ghost.config import resolve_device, resolve_dtype
from ghost.errors import GhostError
from ghost.evaluation.perplexity import perplexity
from ghost.export import export
from ghost.saliency import METHODS, find_method
from ghost.selection import Selection
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import Walk
from tasks.run.cost import forget_peak, peak_bytes

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One pruned model: what it is made from and with, and what it is read on."""

    model: str = "demo"
    calibration: str = "stdlib"
    evaluation: str = "stdlib"
    samples: int = 128
    length: int = 128
    tokens: int = 1 << 30
    """Tokens at the start of the evaluation text, at most."""
    window: int = 2048
    device: str = "auto"
    method: str = ""
    """Empty for the dense model."""
    kept: int = 0
    """Channels of a group that stay; for methods that don't cut channels, the sparsity that comes to."""
    seed: int = 0

    @property
    def key(self) -> str:
        """Everything that the figures depend on."""
        return json.dumps(asdict(self), sort_keys=True)

    def __str__(self) -> str:
        return f"{self.method}, {self.kept} kept, seed {self.seed}" if self.method else "dense"


def cells(base: Cell, methods: Sequence[str], kept: Sequence[int], seeds: Sequence[int]) -> Iterator[Cell]:
    """The dense model, then every method at every size with every seed that changes it."""
    yield base
    for name in methods:
        for size in kept:
            for seed in seeds if find_method(name).seeded else seeds[:1]:
                yield replace(base, method=name, kept=size, seed=seed)


def measure(cell: Cell, texts: Path) -> Figures:
    """Nats per token, the share of the state that is read, the walk's seconds, and its peak memory in bytes."""
    stack, tokens = _open(cell, cell.model), torch.load(texts)
    if not cell.method:
        return {"nll": perplexity(stack, tokens["evaluation"], cell.window).nll}
    calibration_bl = sample_windows(tokens["calibration"], cell.samples, cell.length, cell.seed)
    with tempfile.TemporaryDirectory() as folder:
        forget_peak()
        started, processor = time.perf_counter(), time.process_time()
        state = _prune(stack, cell, calibration_bl, Path(folder))
        spent = {"seconds": time.perf_counter() - started, "processor seconds": time.process_time() - processor}
        peak = peak_bytes(stack.device)
        nll = perplexity(_open(cell, f"{folder}/pruned"), tokens["evaluation"], cell.window).nll
    return {"nll": nll, "state": state, "peak": peak} | spent


def _open(cell: Cell, model: str) -> Stack:
    device = resolve_device(cell.device)
    return Stack(open_checkpoint(model), device, resolve_dtype("auto", device))


def _prune(stack: Stack, cell: Cell, calibration_bl: Tensor, folder: Path) -> float:
    """The pruned checkpoint to `folder`/pruned, one layer in memory at a time as in a run; the share of its channels
    that is kept."""
    source = stack.checkpoint
    sparsity = 1 - cell.kept / source.mixer_layout.d_state
    settings = RunSettings.make(method=cell.method, sparsity=sparsity, round_to=1, seed=cell.seed)
    steps, selections = Walk(stack, calibration_bl, settings), list[Selection]()
    stored = {i: folder / f"{i}.safetensors" for i in source.mixers}
    for i, path in stored.items():
        statistics = steps.statistics(i)
        selections.append(selection := steps.select(i, statistics))
        mixer = steps.reduce(i, statistics, selection)
        save_file({name: tensor.contiguous() for name, tensor in mixer.items()}, path)
        steps.restore(i, selection, partial(load_file, path) if steps.changes else None)
    layout, target = steps.form.layout(source.mixer_layout, selections, settings.round_to), folder / "pruned"
    target.mkdir()
    export(source, lambda i: load_file(stored[i]), layout, target, {})
    return fmean(float(selection.kept_gn.double().mean()) for selection in selections)


def table(base: Cell, chosen: Sequence[Cell], out: Path | None = None) -> Iterator[tuple[Cell, Figures | None]]:
    """Each cell with its figures, None where it failed; cells that `out` has already are not measured again."""
    known: dict[str, Figures] = json.loads(out.read_text()) if out and out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "tokens.pt"
        torch.save(_tokens(base), texts)
        for cell in chosen:
            if cell.key not in known and (figures := _apart(cell, texts)) is not None:
                known[cell.key] = figures
                if out:
                    out.write_text(json.dumps(known, indent=2) + "\n")
            yield cell, known.get(cell.key)


def _tokens(base: Cell) -> dict[str, Tensor]:
    """Made once: a cell's peak memory is not to be a tokenizer's."""
    folder = open_checkpoint(base.model).folder
    calibration = tokenize(folder, read_text(base.calibration, "calibration"))
    return {
        "calibration": calibration,
        "evaluation": tokenize(folder, read_text(base.evaluation, "evaluation"))[: base.tokens + 1],
    }


def _apart(cell: Cell, texts: Path) -> Figures | None:
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(measure, cell, texts).result()
    except (GhostError, BrokenProcessPool) as error:
        print(f"{cell}: failed, {error}", file=sys.stderr, flush=True)
        return None


def report(measured: Iterator[tuple[Cell, Figures | None]]) -> None:
    """One line per cell as soon as it is known, then the whole table in Markdown."""
    _, dense = next(measured)
    if dense is None:
        return
    print(f"dense: perplexity {math.exp(dense['nll']):.3f}", flush=True)
    found: dict[str, dict[int, list[Figures]]] = {}
    for cell, figures in measured:
        if figures is None:
            continue
        figures = figures | {"rise": math.expm1(figures["nll"] - dense["nll"])}
        found.setdefault(cell.method, {}).setdefault(cell.kept, []).append(figures)
        print(f"{cell}: {figures['rise']:+.1%}, {figures['state']:.0%} of the channels, {_cost([figures])}", flush=True)
    print("\n" + "\n".join(_markdown(found)), flush=True)


def _markdown(found: dict[str, dict[int, list[Figures]]]) -> Iterator[str]:
    """A row per method: mean rise over seeds and its range by size, and what a run of it costs."""
    sizes = list(dict.fromkeys(kept for by_kept in found.values() for kept in by_kept))
    yield f"| method | {' | '.join(f'{kept} kept' for kept in sizes)} | state left | seconds, MiB |"
    yield "|---" * (len(sizes) + 3) + "|"
    for name, by_kept in found.items():
        rises = [_rise([figures["rise"] for figures in by_kept.get(kept, [])]) for kept in sizes]
        every = [figures for of_kept in by_kept.values() for figures in of_kept]
        yield f"| {name} | {' | '.join(rises)} | {_state_left(name, by_kept)} | {_cost(every)} |"


def _rise(rises: Sequence[float]) -> str:
    if not rises:
        return "failed"
    spread = f" ({100 * min(rises):+.1f} to {100 * max(rises):+.1f})" if len(rises) > 1 else ""
    return f"{fmean(rises):+.1%}{spread}"


def _state_left(name: str, by_kept: dict[int, list[Figures]]) -> str:
    """What a runtime has to hold."""
    shares = (f"{fmean(figures['state'] for figures in of_kept):.0%}" for of_kept in by_kept.values())
    return find_method(name).form.words.state_left.format(shares=", ".join(shares))


def _cost(figures: Sequence[Figures]) -> str:
    seconds, peak = (fmean(cell[name] for cell in figures) for name in ("seconds", "peak"))
    return f"{seconds:.1f} s, {peak / 2**20:.0f} MiB"


def main() -> None:
    base = Cell()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "evaluation", "device"):
        parser.add_argument(f"--{name}", default=getattr(base, name))
    for name in ("samples", "length", "tokens", "window"):
        parser.add_argument(f"--{name}", type=int, default=getattr(base, name))
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--kept", default="64,32,16,8", help="state sizes, separated by commas")
    parser.add_argument("--seeds", default="0,1,2", help="of the calibration sample, separated by commas")
    parser.add_argument("--out", type=Path, help="JSON file that keeps the cells")
    fields = vars(parser.parse_args())
    methods, kept, seeds = (fields.pop(name).split(",") for name in ("methods", "kept", "seeds"))
    out, base = fields.pop("out"), Cell(**fields)
    try:
        report(table(base, list(cells(base, methods, [int(n) for n in kept], [int(n) for n in seeds])), out))
    except GhostError as error:
        raise SystemExit(f"bench.methods: error: {error}") from None


if __name__ == "__main__":
    main()
