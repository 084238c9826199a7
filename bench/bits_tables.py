"""The figures of `bench.bits` as tables and as a picture."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from bench.curves import Panel, picture, round_up
from bench.proof_tables import DISTANCES, LANGUAGE, PAIRS, case_name
from ghost.evaluation.stored import EVERY
from ghost.significance import paired

DRAWN = ("ghost+fit", "ghost", "balanced")
"""The first of these that there is, is the method of the picture."""
SHOWN = 0.25
"""The most that perplexity rises by in the picture; what rises more leaves it."""
WHOLE = "float32"


class Point(NamedTuple):
    """One model in one precision."""

    method: str
    kept: int
    dtype: str
    figures: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        return self.figures["bytes"]

    @property
    def name(self) -> str:
        return f"{self.method} {self.kept}, {self.dtype}"


def points(found: Mapping[str, Any]) -> list[Point]:
    return [
        Point(method, int(kept), dtype, figures)
        for method, row in found.items()
        for kept, cell in row.items()
        for dtype, figures in cell.items()
    ]


def rise(point: Point, every: int, found: Mapping[str, Any]) -> tuple[float, float]:
    """Of perplexity over the dense model's with float32 states, as a share, with the standard error of its pairs of
    windows."""
    (dense,) = found["dense"].values()
    (before,), nll = dense[WHOLE]["nll"].values(), point.figures["nll"]
    after = nll.get(str(every)) or next(iter(nll.values()))  # what is not rounded is the same after any number of steps
    nats, error = paired(before, after)
    return math.expm1(nats), math.nan if error is None else error


def accuracies(point: Point) -> list[float]:
    """At the most pairs, by distance."""
    return [point.figures[f"{case_name(max(PAIRS), distance)}: accuracy"] for distance in DISTANCES]


def tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """By model: every state size in every precision, and those that nothing smaller is as good as."""
    for name, found in figures.items():
        every = sorted(points(found), key=lambda point: -point.bytes)
        spoken = name in LANGUAGE
        title = f"{LANGUAGE[name]}: perplexity over dense" if spoken else f"recall: accuracy of {max(PAIRS)} pairs"
        yield _table(title, every, found, spoken=spoken)
        yield _table(f"{title}, best for its bytes", best(every, found, spoken=spoken), found, spoken=spoken)


def best(every: Sequence[Point], found: Mapping[str, Any], *, spoken: bool) -> list[Point]:
    """Those that nothing of as many bytes or fewer is better than, from the largest to the smallest."""
    chosen: list[Point] = []
    for point in sorted(every, key=lambda p: (p.bytes, _loss(p, found, spoken=spoken))):
        if not chosen or _loss(point, found, spoken=spoken) < _loss(chosen[-1], found, spoken=spoken):
            chosen.append(point)
    return chosen[::-1]


def _loss(point: Point, found: Mapping[str, Any], *, spoken: bool) -> float:
    """In decoding."""
    return rise(point, 1, found)[0] if spoken else -statistics.fmean(accuracies(point))


def _table(title: str, shown: Sequence[Point], found: Mapping[str, Any], *, spoken: bool) -> Table:
    table = Table(title=title, title_justify="left")
    heard = any("LAMBADA: acc" in point.figures for point in shown)
    headings = [f"every {every} steps" if every > 1 else "every step" for every in EVERY]
    measured = [*headings, *(["LAMBADA"] if heard else [])] if spoken else [f"distance {d}" for d in DISTANCES]
    for heading in ("KiB", "method, N", "precision", *measured):
        table.add_column(heading, justify="left" if heading in ("method, N", "precision") else "right")
    for point in shown:
        cells = _cells(point, found) if spoken else [f"{accuracy:.3f}" for accuracy in accuracies(point)]
        table.add_row(f"{point.bytes / 1024:,.1f}", f"{point.method} {point.kept}", point.dtype, *cells)
    return table


def _cells(point: Point, found: Mapping[str, Any]) -> list[str]:
    cells = ["{:+.2%} ± {:.2%}".format(*rise(point, every, found)) for every in EVERY]
    return [*cells, *(f"{value:.1%}" for metric, value in point.figures.items() if metric == "LAMBADA: acc")]


def draw(figures: Mapping[str, Any]) -> str:
    """A line a precision over the state's bytes, as decoding rounds them; channels are pruned along a line."""
    return picture("Bits or channels: what a state of so many bytes costs", [
        _panel(name, found, spoken=name in LANGUAGE) for name, found in figures.items()
    ])  # fmt: skip


def _panel(name: str, found: Mapping[str, Any], *, spoken: bool) -> Panel:
    method = next((method for method in DRAWN if method in found), "dense")
    lines: dict[str, dict[int, float]] = {}
    for point in points(found):
        if point.method in ("dense", method):
            value = rise(point, 1, found)[0] if spoken else statistics.fmean(accuracies(point))
            lines.setdefault(point.dtype, {})[point.bytes] = value
    highest = max(value for line in lines.values() for value in line.values())
    (dense,) = found["dense"].values()
    whole = dense[WHOLE]["bytes"]
    least = min(size for line in lines.values() for size in line)
    return Panel(
        title=f"Perplexity over dense, {LANGUAGE[name]}" if spoken else f"Recall of {max(PAIRS)} pairs, accuracy",
        lines=lines,
        top=round_up(max(0.01, min(SHOWN, highest))) if spoken else 1.0,
        form="{:+.1%}" if spoken else "{:.0%}",
        axis="{:.2%}" if spoken else "{:.0%}",
        ticks=[whole >> i for i in range(round(math.log2(whole / least)) + 1)],
        tick="{:,.4g}",
        unit=1024,
        across=f"state of a sequence, KiB ({method}, decoding)",
    )
