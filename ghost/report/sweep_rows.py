"""Rows of a sweep as lines for plots: what is drawn against what, and over what is averaged."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
HALF = 0.5
"""Where one sparsity stands for all, the nearest to this: the paper's own choice."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Mean of a figure over the rows that share x and have it; `low` and `high` are its smallest and largest."""

    name: str
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def finished(rows: Iterable[Row]) -> list[Row]:
    """The cells that did not fail."""
    return [row for row in rows if row["error"] is None]


def values(rows: Iterable[Row], name: str) -> list[Any]:
    """What a column holds, each once, in the order of the sweep."""
    return list(dict.fromkeys(row[name] for row in rows))


def nearest_half(rows: Iterable[Row]) -> float:
    """The sparsity of these rows that is nearest to HALF."""
    return min(values(rows, "sparsity"), key=lambda sparsity: abs(sparsity - HALF))


def fixed(rows: Sequence[Row], *free: str) -> list[Row]:
    """The rows at the first window and the first calibration length, and at the sparsity nearest to HALF; all values of
    the columns in `free`. Rows of other columns, seeds among them, are all there."""
    chosen = {name: values(rows, name)[0] for name in ("window", "calibration_length") if name not in free}
    if "sparsity" not in free:
        chosen["sparsity"] = nearest_half(rows)
    return [row for row in rows if all(row[name] == value for name, value in chosen.items())]


def finite_first(row: Row) -> float:
    """The rise to sort by: one that is not finite comes last."""
    return math.inf if row["rise"] is None else row["rise"]


def lines(rows: Sequence[Row], x: str, y: str) -> list[Line]:
    """One line for each method and recovery, and for each model where there are several. A row that has no finite y is
    on none of them."""
    several = len(values(rows, "model")) > 1 and x != "parameters"
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row[y] is None:
            continue
        name = f"{row['model']}: {method_name(row)}" if several else method_name(row)
        groups.setdefault(name, []).append(row)
    return [_line(name, group, x, y) for name, group in groups.items()]


def method_name(row: Row) -> str:
    """`ghost`, `ghost + lstsq`."""
    return row["method"] if row["recovery"] == "none" else f"{row['method']} + {row['recovery']}"


def _line(name: str, rows: Sequence[Row], x: str, y: str) -> Line:
    known = [row for row in rows if row[y] is not None]
    places = sorted(set(values(known, x)))
    at = [[row[y] for row in known if row[x] == place] for place in places]
    return Line(
        name=name,
        x=places,
        mean=[sum(found) / len(found) for found in at],
        low=[min(found) for found in at],
        high=[max(found) for found in at],
    )
