"""What is left at every state size: perplexity on a text, recall of a small model, by method.

    python -m bench.proof --model demo --prose english valid.txt test.txt --recall recall --out proof.json \\
        --picture proof.svg

`--prose` takes the folder that `bench.train_text` or `bench.train_hybrid prose` leaves, and texts; `--recall` the one
of `bench.train_recall`. `--lambada` has the prose model say the last words of a LAMBADA file that it was trained on: of
passages that it learned from, and of the last twentieth, which was held out, each for itself. Every figure is of an
exported checkpoint that was opened again. Calibration: `--samples` windows of 128 tokens of corpus stdlib for the
model, of its own text for the prose model, as many sequences of its training form, newly drawn, for the recall model.
The same command goes on from its `--out`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bench import lambada
from bench.proof_tables import DISTANCES, PAIRS, case_name, draw, tables
from bench.pruned import write_pruned
from bench.train_recall import Setting, questions
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import load_tokenizer, sample_windows, tokenize
from ghost.checkpoint.source import open_checkpoint
from ghost.config import resolve_device, resolve_dtype
from ghost.errors import SettingsError
from ghost.evaluation.perplexity import perplexity
from ghost.evaluation.recall import METRICS, Prompts, make_prompts, make_words, recall
from ghost.saliency import form_of
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk

METHODS = "ghost,ghost+lstsq,ghost+fit,balanced,random"
KEPT = "128,64,32,16,8,4,2"
DENSE = "dense"
LENGTH, WINDOW = 128, 2048
SEEDS = {"random": (0, 1, 2)}
"""Seeds of a method, whose figures are averaged; one for the others."""
FRESH = 1 << 40
"""Seed of the recall model's calibration; training counts its seeds from 0."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, its calibration tokens (samples, length), and what is measured of it: a text's perplexity, the last
    words of passages in files, or prompts by case."""

    stack: Stack
    calibration_bl: Tensor
    text: Tensor | None = None
    lambada: dict[str, Path] = field(default_factory=dict)
    prompts: dict[str, Prompts] | None = None


def language_subject(
    model: str, samples: int, tokens: int, calibrated_on: str = "stdlib", evaluated_on: str = "stdlib"
) -> Subject:
    """Perplexity on the first `tokens` tokens of the evaluation text."""
    stack = _open(model)
    folder = stack.checkpoint.folder
    calibration = tokenize(folder, read_text(calibrated_on, "calibration"))
    text = tokenize(folder, read_text(evaluated_on, "evaluation"))[: tokens + 1]
    return Subject(stack=stack, calibration_bl=sample_windows(calibration, samples, LENGTH, 0), text=text)


def recall_subject(model: str, samples: int, prompts: int) -> Subject:
    """The recall probe at PAIRS and DISTANCES; its text and the calibration's are of different parts of stdlib."""
    stack = _open(model)
    folder, vocabulary = stack.checkpoint.folder, stack.checkpoint.vocab_size
    tokenizer = load_tokenizer(folder)
    seen, unseen = (
        make_words(tokenizer, tokenize(folder, read_text("stdlib", split)), vocabulary)
        for split in ("calibration", "evaluation")
    )
    form, random = Setting(), torch.Generator().manual_seed(FRESH)
    asked = questions(seen, form.pairs, form.distance, samples, form.length, random)
    cases = {case_name(n, d): make_prompts(unseen, n, d, prompts, seed=0) for n in PAIRS for d in DISTANCES}
    return Subject(stack=stack, calibration_bl=asked.tokens_bl, prompts=cases)


def _open(model: str | Path) -> Stack:
    device = resolve_device("auto")
    return Stack(open_checkpoint(model), device, resolve_dtype("float32", device))


def measure(subject: Subject, stack: Stack) -> dict[str, Any]:
    """The subject's figures for this model, which is its own or a smaller one."""
    layout, mixers = stack.checkpoint.mixer_layout, len(stack.mixers)
    figures: dict[str, Any] = {
        "ssm_bytes": 4 * mixers * layout.state_elements,
        "conv_bytes": 4 * mixers * layout.conv_state_elements,
    }
    if subject.text is not None:
        figures["nll"] = perplexity(stack, subject.text, WINDOW).nll
    if subject.lambada:
        figures |= lambada.measure(stack, subject.lambada)
    for case, prompts in (subject.prompts or {}).items():
        scores = recall(stack, prompts)
        figures |= {f"{case}: {metric}": scores[metric].mean().item() for metric in METRICS}
    return figures


def pruned(
    subject: Subject, method: str, kept: int, seed: int, figures: Callable[[Subject, Stack], dict[str, Any]] = measure
) -> dict[str, Any]:
    """The figures of the subject's model cut to `kept`, exported and opened again."""
    source, (name, _, recovery) = subject.stack.checkpoint, method.partition("+")
    settings = RunSettings.make(
        method=name, recovery=recovery or "none", sparsity=1 - kept / source.mixer_layout.d_state, round_to=1, seed=seed
    )
    results = list(walk(subject.stack, subject.calibration_bl, settings))
    with tempfile.TemporaryDirectory() as folder:
        write_pruned(source, results, form_of(name, soft=False), Path(folder))
        return figures(subject, _open(Path(folder)))


def averaged(subject: Subject, method: str, kept: int) -> dict[str, Any]:
    """Means over the method's seeds; of perplexity the geometric one, since nll is what is averaged."""
    every = [pruned(subject, method, kept, seed) for seed in SEEDS.get(method, (0,))]
    return {name: np.mean([figures[name] for figures in every], axis=0).tolist() for name in every[0]}


def of_cell(subject: Subject, method: str, kept: int) -> dict[str, Any]:
    """The figures of the dense model, or of one that is cut to `kept`."""
    return measure(subject, subject.stack) if method == DENSE else averaged(subject, method, kept)


def run(
    subjects: dict[str, Subject],
    methods: list[str],
    kept: list[int],
    out: Path | None,
    figures: dict[str, Any],
    of_cell: Callable[[Subject, str, int], dict[str, Any]] = of_cell,
) -> dict[str, Any]:
    """Fill in what is not in `figures` yet: {subject: {method: {kept: figures}}}, dense under its own size."""
    for name, subject in subjects.items():
        found, whole = figures.setdefault(name, {}), subject.stack.checkpoint.mixer_layout.d_state
        cells = [(DENSE, whole), *((method, n) for n in kept if n != whole for method in methods)]
        for method, n in track(cells, name):
            if str(n) not in (row := found.setdefault(method, {})):
                row[str(n)] = of_cell(subject, method, n)
                if out:
                    out.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="model whose perplexity is measured; none for no model")
    parser.add_argument("--prose", nargs=3, metavar=("FOLDER", "CALIBRATION", "EVALUATION"), help="a second model")
    parser.add_argument("--lambada", type=Path, help="JSON lines that the prose model was trained on")
    parser.add_argument("--recall", help="folder of the recall model")
    parser.add_argument("--methods", default=METHODS, help="separated by commas; +lstsq, +fit or +local for recovery")
    parser.add_argument("--kept", default=KEPT, help="state sizes, separated by commas")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows")
    parser.add_argument("--tokens", type=int, default=100_000, help="tokens of the evaluation text")
    parser.add_argument("--prompts", type=int, default=256, help="prompts of each recall case")
    parser.add_argument("--out", type=Path, help="JSON file of all figures; what is in it is not measured again")
    parser.add_argument("--picture", type=Path, help="SVG file of the two curves")
    args = parser.parse_args()
    asked = {name: getattr(args, name) for name in ("model", "prose", "recall", "samples", "tokens", "prompts")}
    asked |= {"lambada": str(args.lambada)} if args.lambada else {}
    figures = kept_figures(args.out, asked)
    with tempfile.TemporaryDirectory() as folder:
        last_words = lambada.write(args.lambada, Path(folder)) if args.lambada else {}
        subjects = asked_subjects(args, args.tokens, last_words)
        run(subjects, args.methods.split(","), [int(n) for n in args.kept.split(",")], args.out, figures)
    found = {name: figures[name] for name in ("model", "prose", "recall") if name in figures}
    for table in tables(found):
        Console(width=120).print(table)
    if args.picture:
        args.picture.write_text(draw(found), encoding="utf-8")


def asked_subjects(
    args: argparse.Namespace, tokens: int, last_words: dict[str, Path] | None = None
) -> dict[str, Subject]:
    """Those of --model, --prose and --recall; the prose model says the `last_words` of files."""
    subjects = {}
    if args.model != "none":
        subjects["model"] = language_subject(args.model, args.samples, tokens)
    if args.prose:
        model, calibration, evaluation = args.prose
        prose = language_subject(model, args.samples, tokens, calibration, evaluation)
        subjects["prose"] = replace(prose, lambada=last_words or {})
    if args.recall:
        subjects["recall"] = recall_subject(args.recall, args.samples, args.prompts)
    return subjects


def kept_figures(out: Path | None, asked: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run with the same options left."""
    if out is None or not out.exists():
        return {"asked": asked}
    figures = json.loads(out.read_text())
    if figures["asked"] != asked:
        raise SettingsError(f"--out {out} holds figures of other options, {figures['asked']}; name another file")
    return figures


if __name__ == "__main__":
    main()
