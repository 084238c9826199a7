"""Bits or channels: what a smaller state costs where it has fewer channels, fewer bits, and both.

    python -m bench.bits --model demo --prose english valid.txt test.txt --recall recall --lambada lambada_test.jsonl \\
        --out bits.json --picture bits.svg

Models, texts, prompts and calibration are those of `bench.proof`; every pruned model is an exported checkpoint that was
opened again. Its state is then kept in each of `--dtypes` (`ghost.stored_state`): perplexity where it is written after
every 256 and every 64 steps, as in prefill, and after every step, as in decoding; recall and LAMBADA in decoding alone.
The same command goes on from its `--out`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench import lambada, proof
from bench.bits_tables import draw, tables
from bench.proof import DENSE, Subject, asked_subjects, kept_figures, pruned
from bench.proof_tables import PAIRS
from ghost.evaluation.contexts import PREDICTED, segments
from ghost.evaluation.recall import METRICS, recall
from ghost.evaluation.stack_module import BATCH, StackModule
from ghost.evaluation.stored import UNROUNDED, mean_nll, state_bytes, ways
from ghost.stack import Stack
from ghost.stored_state import DTYPES, parse_dtypes

METHODS, KEPT = "ghost,ghost+fit,balanced", "128,64,32,16,8"
WINDOW, TOKENS = 2048, 100_000
"""Of the evaluation text: a window, and those that windows are spread over."""
ASKED = ("model", "prose", "recall", "lambada", "passages", "samples", "windows", "prompts", "dtypes")


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Of every model: precisions, windows of its text, and a file of passages with how many of them count."""

    dtypes: Sequence[torch.dtype]
    windows: int = 4
    lambada: str = ""
    passages: int = 250


def measure(measures: Measures, subject: Subject, stack: Stack) -> dict[str, Any]:
    """{precision: {bytes, nll: {steps: [by window]}, recall and LAMBADA's figures where there are any}}."""
    names, found = {dtype: name for name, dtype in DTYPES.items()}, {}
    for way in ways(measures.dtypes):
        figures: dict[str, Any] = found.setdefault(names[way.dtype], {"bytes": state_bytes(stack, way)})
        kept_so = stack.storing(way)
        if subject.text is not None:
            windows_bl = segments(subject.text, WINDOW - PREDICTED, measures.windows)
            figures.setdefault("nll", {})[str(way.every)] = mean_nll(kept_so, windows_bl).tolist()
        if way.every == 1 or way == UNROUNDED:
            figures |= _recalled(subject, kept_so) | _passages(measures, subject, kept_so)
    return found


def _recalled(subject: Subject, stack: Stack) -> dict[str, float]:
    """Mean of each metric, at the most pairs, by distance."""
    cases = {case: made for case, made in (subject.prompts or {}).items() if made.values_bn.shape[1] == max(PAIRS)}
    scores = {case: recall(stack, made) for case, made in cases.items()}
    return {f"{case}: {metric}": scores[case][metric].mean().item() for case in cases for metric in METRICS}


def _passages(measures: Measures, subject: Subject, stack: Stack) -> dict[str, float]:
    if not measures.lambada or subject.text is None:
        return {}
    folder = subject.stack.checkpoint.folder
    found = lambada.metrics(StackModule(stack), folder, measures.lambada, limit=measures.passages, batch=BATCH)
    return {f"LAMBADA: {metric}": figure["value"] for metric, figure in found.items()}


def run(
    subjects: dict[str, Subject],
    measures: Measures,
    methods: list[str],
    kept: list[int],
    out: Path | None,
    figures: dict[str, Any],
) -> dict[str, Any]:
    """As `bench.proof.run`, of these measures."""
    measured = partial(measure, measures)

    def of_cell(subject: Subject, method: str, n: int) -> dict[str, Any]:
        return measured(subject, subject.stack) if method == DENSE else pruned(subject, method, n, 0, figures=measured)

    return proof.run(subjects, methods, kept, out, figures, of_cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="demo", help="model whose perplexity is measured on stdlib; none for no model"
    )
    parser.add_argument("--prose", nargs=3, metavar=("FOLDER", "CALIBRATION", "EVALUATION"), help="a second model")
    parser.add_argument("--recall", help="folder of the recall model")
    parser.add_argument("--lambada", default="", help="JSON lines with `text`, for the models with a text")
    parser.add_argument("--passages", type=int, default=250, help="passages of it that count")
    parser.add_argument("--methods", default=METHODS, help="separated by commas; +lstsq, +fit or +local for recovery")
    parser.add_argument("--kept", default=KEPT, help="state sizes, separated by commas")
    parser.add_argument("--dtypes", default="bfloat16,int8,float8_e4m3fn", help="precisions beside float32")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows")
    parser.add_argument("--windows", type=int, default=4, help=f"evaluation windows of {WINDOW} tokens")
    parser.add_argument("--prompts", type=int, default=128, help="prompts of each recall case")
    parser.add_argument("--out", type=Path, help="JSON file of all figures; what is in it is not measured again")
    parser.add_argument("--picture", type=Path, help="SVG file of the curves")
    args = parser.parse_args()
    figures = kept_figures(args.out, {name: getattr(args, name) for name in ASKED})
    dtypes = parse_dtypes(args.dtypes)
    measures = Measures(dtypes=dtypes, windows=args.windows, lambada=args.lambada, passages=args.passages)
    kept = [int(n) for n in args.kept.split(",")]
    run(asked_subjects(args, TOKENS), measures, args.methods.split(","), kept, args.out, figures)
    found = {name: figures[name] for name in ("model", "prose", "recall") if name in figures}
    for table in tables(found):
        Console(width=120).print(table)
    if args.picture:
        args.picture.write_text(draw(found), encoding="utf-8")


if __name__ == "__main__":
    main()
