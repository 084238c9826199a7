"""Logarithmic axes: the range that they show, and which values in it get a label, so that no label lies on another."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ghost.report.plot import axis

FORMAT = ",~g"
"""`0.05`, `2,000`, `3e-7`."""
ACROSS, PLACES, UPWARDS = 5, 7, 10
"""Labels that fit beside each other in the 280 pixels that a phone leaves to an axis, of up to eight characters and of
up to five; and labels that fit above each other."""
EXACT = 1 - 1e-9
"""Room for rounding where labels lie just far enough apart."""
LEAST = 0.05
"""Decades that an axis shows: rounding errors are not to fill a plot."""
MARGIN = 0.04
"""Of the axis, beyond the first and the last value."""
LOG_FROM = 3.0
"""Values are drawn on a log scale where the largest is more than this many times the smallest."""


def perplexity_axis(values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic where the values are far apart."""
    if values and max(values) > LOG_FROM * min(values):
        return log_axis("perplexity", values)
    return axis("perplexity", nticks=8, tickformat="~g")


def log_axis(title: str, values: Iterable[float], most: int = UPWARDS, tickformat: str = FORMAT) -> dict[str, Any]:
    """A log axis that shows all of `values` above 0."""
    return axis(title, type="log", tickformat=tickformat, **log_scale(values, most))


def log_scale(values: Iterable[float], most: int = UPWARDS) -> dict[str, Any]:
    """range and tickvals of plotly's axis for the values above 0, with `most` labels at most."""
    first, last = _ends(np.fromiter(values, dtype=np.float64))
    return {"range": [round(first, 4), round(last, 4)], "tickvals": ticks(10**first, 10**last, most)}


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Of the axis, in decades."""
    positive = values[values > 0]
    first, last = (math.log10(end) for end in (positive.min(), positive.max())) if positive.size else (0.0, 0.0)
    margin = max(MARGIN * (last - first), (LEAST - (last - first)) / 2)
    return first - margin, last + margin


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from `low` to `high`, as many as can lie a `most`-th of the axis apart on a log scale."""
    least = math.log10(high / low) / most * EXACT
    return max((values for values in _round_values(low, high) if _gap(values) >= least), key=len)


def spread(places: Sequence[float], scale: Callable[[float], float]) -> list[float]:
    """Those of the rising `places` that can be labelled on an axis across, the first of them and so on."""
    least = (scale(places[-1]) - scale(places[0])) / PLACES * EXACT
    chosen = [places[0]]
    for place in places[1:]:
        if scale(place) - scale(chosen[-1]) >= least:
            chosen.append(place)
    return chosen


def _gap(values: Sequence[float]) -> float:
    """The smallest distance between neighbours, in decades."""
    return min((math.log10(after / before) for before, after in pairwise(values)), default=math.inf)


def _round_values(low: float, high: float) -> Iterator[list[float]]:
    """Ways to choose values in the range: whole decades or some of them, parts of decades, multiples of a step."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for step in (1, 2, 3, 5, 10, 20, 50, 100):
        yield _inside((_times_power(1, n) for n in decades if n % step == 0), low, high)
    for digits in ((1, 3), (1, 2, 5)):
        yield _inside((_times_power(digit, n) for n in decades for digit in digits), low, high)
    finest = math.floor(math.log10(high - low)) - 1
    for digit, power in ((digit, power) for power in range(finest, finest + 3) for digit in (1, 2, 5)):
        step = _times_power(digit, power)
        multiples = range(math.floor(low / step), math.ceil(high / step) + 1)
        yield _inside((_times_power(digit * multiple, power) for multiple in multiples), low, high)


def _inside(values: Iterable[float], low: float, high: float) -> list[float]:
    return [value for value in values if low <= value <= high]


def _times_power(digits: int, power: int) -> float:
    """The float nearest to digits times 10 to the power."""
    return float(f"{digits}e{power}")
