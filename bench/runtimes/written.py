"""What ghost writes, in transformers 4.57 as in 5.23: `python -m bench.runtimes.written`.

Folders by every way that ghost has of writing one (a run's export, the library's `save`, `ghost convert`), from every
kind of source, are made in the project's own venv and asked in one of transformers 4.57.6: its tokenizer, greedy
continuations, log-probabilities. Ends with 1 where one of them does not load there, or answers otherwise.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

import ghost
from bench.pruned import write_pruned
from bench.runtimes.__main__ import VENVS, compare
from bench.runtimes.checkpoints import LENGTH, Sample, Source
from bench.runtimes.runtime import runtimes
from bench.runtimes.tables import remarks, table
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import DEMO, open_checkpoint
from ghost.convert import convert
from ghost.saliency import form_of
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk

OLDER = "transformers-4.57"
SAMPLES = 8
"""Calibration windows: what is written of a model doesn't depend on how well it is pruned."""


def folders(scratch: Path) -> Iterator[tuple[str, Path]]:
    """What wrote a folder of what, and where it is."""
    convert(open_checkpoint(DEMO), native := scratch / "native", "native")
    for name, source in {"demo": DEMO, "native": native}.items():
        yield f"export of {name}", _exported(source, scratch / f"export-{name}")
        pruned = ghost.prune(str(source), sparsity=0.5, samples=SAMPLES, length=LENGTH)
        yield f"save of {name}", pruned.save(scratch / f"save-{name}")
    convert(open_checkpoint(native), converted := scratch / "converted", "hf")
    yield "convert of native", converted


def _exported(source: Path, folder: Path) -> Path:
    """As a run exports it."""
    folder.mkdir()
    stack = Stack(open_checkpoint(source), torch.device("cpu"), torch.float32)
    tokens_bl = sample_windows(tokenize(source, read_text("stdlib", "calibration")), SAMPLES, LENGTH, 0)
    results = list(walk(stack, tokens_bl, RunSettings.make(sparsity=0.5)))
    write_pruned(stack.checkpoint, results, form_of("ghost", soft=False), folder)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser("python -m bench.runtimes.written", description=__doc__)
    parser.add_argument("--venvs", type=Path, default=VENVS, help="where venvs are kept")
    (older,) = runtimes([OLDER])
    python = older.install(parser.parse_args().venvs)
    with tempfile.TemporaryDirectory() as scratch:
        source = Source(name="demo", model="demo", windows=2)
        made = [Sample(source, form, 0, folder, Path(scratch)) for form, folder in folders(Path(scratch))]
        rows = {OLDER: [compare(older, python, sample) for sample in made]}
    Console(width=120).print(table(rows), *remarks(rows), sep="\n")
    return 0 if all(row["passed"] for row in rows[OLDER]) else 1


if __name__ == "__main__":
    sys.exit(main())
