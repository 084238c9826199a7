"""The two judges of recovery, by calibration windows: rise of perplexity with `--recovery fit`, and without.

    python -m bench.judges --model demo --kept 16 --samples 16,32,48 --seeds 0,1,2 --out judges.json

Calibration windows are of 128 tokens. `nll` judges by the likelihood of held-back tokens, as ghost did before, `kl` by
KL(dense || pruned). Every cell is one of `bench.recovery`; the same command goes on from its `--out`.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.recovery import JUDGES, Cell, Figures, measured, rises
from ghost.evaluation.perplexity import Perplexity
from ghost.report.figures import NOISE_NOTE, with_noise

LENGTH = 128
PLAIN = "none"


def cells(base: Cell, samples: Sequence[int], seeds: Sequence[int], judges: Sequence[str]) -> Iterator[Cell]:
    """The dense model, then every number of windows and seed: without recovery, and `fit` by each judge."""
    yield replace(base, kept=0)
    for count in samples:
        for seed in seeds:
            drawn = replace(base, samples=count, seed=seed)
            yield drawn
            yield from (replace(drawn, level="fit", judge=judge) for judge in judges)


def tables(found: dict[Cell, Figures]) -> Iterator[Table]:
    """One per text and window: a row for every number of windows and judge, a column for every seed."""
    dense, *pruned = found
    seeds = list(dict.fromkeys(cell.seed for cell in pruned))
    rows: dict[str, dict[tuple[int, str], dict[int, float]]] = {}
    for cell in pruned:
        judge = cell.judge if cell.level != PLAIN else PLAIN
        for where, rise in rises(found[cell], found[dense]).items():
            rows.setdefault(where, {}).setdefault((cell.samples, judge), {})[cell.seed] = rise
    for where, by_row in rows.items():
        told = {row: [f"{by_seed[seed]:+.2%}" for seed in seeds] for row, by_seed in by_row.items()}
        yield _table(f"Rise of perplexity, {dense.model}, {pruned[0].kept} kept, {where}", seeds, told)


def _table(title: str, seeds: Sequence[int], rows: Mapping[tuple[int, str], Sequence[str]]) -> Table:
    """A row for every number of windows and judge, a column for every seed."""
    table = Table(title=title, title_justify="left")
    for name in ("windows", "judged by", *(f"seed {seed}" for seed in seeds)):
        table.add_column(name, justify="right")
    for (samples, judge), by_seed in rows.items():
        table.add_row(str(samples), judge, *by_seed)
    return table


def differences(found: dict[Cell, Figures]) -> Iterator[Table]:
    """One per text and window: the rise with recovery less the rise without it, of the same calibration; standard
    errors are over the windows of the text in pairs. None of figures of before those were kept."""
    dense = next(iter(found))
    if not all("scores" in figures for figures in found.values()):
        return
    for text in dense.evaluation:
        for window in map(str, dense.windows):
            scores = {cell: Perplexity.from_dict(figures["scores"][text][window]) for cell, figures in found.items()}
            yield _beside_plain(f"{dense.model}, {text}, windows of {window}", scores)


def _beside_plain(where: str, scores: dict[Cell, Perplexity]) -> Table:
    dense, *pruned = scores
    rows: dict[tuple[int, str], list[str]] = {}
    for cell in pruned:
        if cell.level != PLAIN:
            plain = scores[replace(cell, level=PLAIN, judge=dense.judge)]
            rows.setdefault((cell.samples, cell.judge), []).append(_difference(scores[cell], plain, scores[dense]))
    seeds = list(dict.fromkeys(cell.seed for cell in pruned))
    return _table(f"Rise less the rise without recovery, {where}", seeds, rows)


def _difference(recovered: Perplexity, plain: Perplexity, dense: Perplexity) -> str:
    """As shares of the dense model's perplexity."""
    error, share = plain.error_of_change(recovered), recovered.perplexity / dense.perplexity
    change = share - plain.perplexity / dense.perplexity
    return with_noise(change, None if error is None else share * error, "{:+.2%}")


def main() -> None:
    base, parser = Cell(length=LENGTH, kept=16), argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    for name in ("model", "calibration"):
        parser.add_argument(f"--{name}", default=getattr(base, name))
    for name in ("kept", "tokens"):
        parser.add_argument(f"--{name}", type=int, default=getattr(base, name))
    parser.add_argument("--evaluation", default="stdlib", help="texts, separated by commas")
    parser.add_argument("--window", type=int, default=512, help="evaluation window in tokens")
    parser.add_argument("--samples", default="16,32,48,128,512", help="calibration windows, separated by commas")
    parser.add_argument("--seeds", default="0,1,2", help="which windows are drawn, separated by commas")
    parser.add_argument("--judges", default="nll,kl", help=f"of {', '.join(JUDGES)}, separated by commas")
    parser.add_argument("--out", type=Path, help="JSON file that keeps the cells")
    fields = vars(parser.parse_args(sys.argv[1:]))
    out, judges = fields.pop("out"), fields.pop("judges").split(",")
    samples, seeds = ([int(n) for n in fields.pop(name).split(",")] for name in ("samples", "seeds"))
    evaluation, windows = tuple(fields.pop("evaluation").split(",")), (fields.pop("window"),)
    base = replace(base, **fields, evaluation=evaluation, windows=windows)
    found = dict(measured(cells(base, samples, seeds, judges), out))
    for table in (*tables(found), *differences(found)):
        Console(width=120).print(table)
    Console(width=120).print(NOISE_NOTE)


if __name__ == "__main__":
    main()
