"""The figures of `bench.proof` as tables and as a picture."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

from rich.table import Table

from bench.curves import Panel, picture, round_up
from bench.lambada import LEARNED, NEW
from ghost.evaluation.recall import METRICS
from ghost.report.figures import with_noise
from ghost.significance import paired

Shown = TypeVar("Shown", float, str)

LANGUAGE = {"model": "code", "prose": "prose"}
PAIRS, DISTANCES = (4, 8, 16), (0, 16, 64)


def case_name(pairs: int, distance: int) -> str:
    return f"{pairs} pairs, distance {distance}"


def rises(found: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Rise of perplexity over dense, as a share, by method and kept size."""
    (dense,) = found["dense"].values()
    return _by_size(found, lambda cell: math.exp(cell["nll"] - dense["nll"]) - 1)


def accuracies(found: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Accuracy at the most pairs, mean over the distances, by method and kept size."""
    cases = [f"{case_name(max(PAIRS), distance)}: accuracy" for distance in DISTANCES]
    return _by_size(found, lambda cell: sum(cell[case] for case in cases) / len(cases))


def _by_size(found: dict[str, Any], figure: Callable[[dict[str, Any]], Shown]) -> dict[str, dict[int, Shown]]:
    """Every method begins with the dense model."""
    dense = {int(n): figure(cell) for n, cell in found["dense"].items()}
    return {
        method: dense | {int(n): figure(cell) for n, cell in row.items()}
        for method, row in found.items()
        if method != "dense"
    }


def tables(figures: dict[str, Any]) -> Iterator[Table]:
    """Kept sizes as columns: perplexity, recall by metric and case, and what a sequence's state takes."""
    for name in [name for name in LANGUAGE if name in figures]:
        yield _table(f"Rise of perplexity over dense, {LANGUAGE[name]}", {"": rises(figures[name])}, "{:+.2%}")
    for name, found in figures.items():
        if any(f"{NEW}: said" in cell for cell in found["dense"].values()):
            yield from _last_words(name, found)
    for metric in METRICS if "recall" in figures else ():
        cases = (case_name(pairs, distance) for pairs in PAIRS for distance in DISTANCES)
        by_case = {case: _by_size(figures["recall"], itemgetter(f"{case}: {metric}")) for case in cases}
        yield _table(f"Recall: {metric}", by_case, "{:.3f}")
    for name, found in figures.items():
        yield _table(f"State of the {name}, fp32 KiB per sequence", {"": _by_size(found, _kib)}, "{:,.1f}")


def _last_words(name: str, found: dict[str, Any]) -> Iterator[Table]:
    """LAMBADA: accuracy with what it changes by from dense in points, over passages in pairs; perplexity."""
    (dense,) = found["dense"].values()

    def said(cell: dict[str, Any], part: str) -> str:
        here, before = cell[f"{part}: said"], dense[f"{part}: said"]
        change = "" if cell is dense else f" ({with_noise(*paired(before, here), '{:+.1%}')})"
        return f"{cell[f'{part}: accuracy']:.1%}{change}"

    parts = {part: f"{part} ({len(dense[f'{part}: said'])})" for part in (LEARNED, NEW)}
    accuracy = {words: _by_size(found, partial(said, part=part)) for part, words in parts.items()}
    yield _table(f"LAMBADA, {LANGUAGE[name]}: last words said, change from dense in points", accuracy, "{}")
    perplexity = {words: _by_size(found, itemgetter(f"{part}: perplexity")) for part, words in parts.items()}
    yield _table(f"LAMBADA, {LANGUAGE[name]}: perplexity of the last word", perplexity, "{:,.1f}")


def _kib(cell: dict[str, Any]) -> float:
    """Recurrent state and convolution's; the latter keeps its size in a projected model."""
    return (cell["ssm_bytes"] + cell["conv_bytes"]) / 1024


def _table(title: str, by_case: Mapping[str, Mapping[str, Mapping[int, float | str]]], form: str) -> Table:
    table = Table(title=title, title_justify="left")
    sizes = sorted({n for lines in by_case.values() for line in lines.values() for n in line}, reverse=True)
    for heading in ("case, method", *map(str, sizes)):
        table.add_column(heading, justify="left" if heading == "case, method" else "right")
    for case, lines in by_case.items():
        for method, line in lines.items():
            cells = (form.format(line[n]) if n in line else "" for n in sizes)
            table.add_row(f"{case}, {method}" if case else method, *cells)
    return table


def draw(figures: dict[str, Any]) -> str:
    """Both curves; what rises more than the structured methods do leaves the chart at its top."""
    panels = []
    for name in [name for name in LANGUAGE if name in figures]:
        lines = rises(figures[name])
        shown = [line for method, line in lines.items() if not method.startswith("random")] or list(lines.values())
        top = round_up(max(0.01, *(value for line in shown for value in line.values())))
        panels.append(Panel(title=f"Perplexity over dense, {LANGUAGE[name]}", lines=lines, top=top, form="{:+.1%}"))
    if "recall" in figures:
        title = f"Recall of {max(PAIRS)} pairs, accuracy"
        panels.append(Panel(title=title, lines=accuracies(figures["recall"]), top=1.0, form="{:.0%}"))
    return picture("What is left of a model at every state size", panels)
