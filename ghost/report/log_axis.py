"""Logarithmic axes: the range that they show, and which values in it get a label, so that no label lies on another."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ghost.report.plot import axis

MOST_LABELS = 6
"""Labels that fit beside each other in the 280 pixels that a phone leaves to an axis."""
LEAST_RATIO = 1.1
"""Of the ends of an axis: rounding errors are not to fill a plot."""
MARGIN = 0.04
"""Of the axis, beyond the first and the last value."""
LOG_FROM = 3.0
"""Values are drawn on a log scale where the largest is more than this many times the smallest."""
PLAIN = (1e-3, 1e5)
"""From here to there a label needs no exponent."""


def log_axis(
    title: str, values: Iterable[float], label: Callable[[float], str] | None = None, **more: Any
) -> dict[str, Any]:
    """A log axis that shows all of `values` above 0; `label` writes one of them."""
    return axis(title, type="log", **log_scale(values, label or power_label), **more)


def perplexity_axis(values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic where the values are far apart."""
    if values and max(values) > LOG_FROM * min(values):
        return log_axis("perplexity", values)
    return axis("perplexity", nticks=8, tickformat="~g")


def log_scale(values: Iterable[float], label: Callable[[float], str]) -> dict[str, Any]:
    """range, tickvals and ticktext of plotly's axis for the values above 0."""
    low, high = _ends(np.fromiter(values, dtype=np.float64))
    first, last = math.log10(low), math.log10(high)
    margin = MARGIN * (last - first)
    chosen = ticks(low, high)
    return {
        "range": [round(first - margin, 4), round(last + margin, 4)],
        "tickvals": chosen,
        "ticktext": [label(value) for value in chosen],
    }


def _ends(values: np.ndarray) -> tuple[float, float]:
    positive = values[values > 0]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (1.0, 1.0)
    wider = max(1.0, math.sqrt(LEAST_RATIO * low / high))
    return low / wider, high * wider


def ticks(low: float, high: float, most: int = MOST_LABELS) -> list[float]:
    """Round values from `low` to `high`, as many as can lie a `most`-th of the axis apart on a log scale."""
    least = math.log10(high / low) / most
    found = [list(values) for values in _round_values(low, high) if _gap(values) >= least]
    return max(found, key=len)


def spread(places: Sequence[float], scale: Callable[[float], float], most: int = MOST_LABELS) -> list[float]:
    """Those of the rising `places` that can be labelled on an axis of this scale, the first of them and so on."""
    least = (scale(places[-1]) - scale(places[0])) / most
    chosen = [places[0]]
    for place in places[1:]:
        if scale(place) - scale(chosen[-1]) >= least:
            chosen.append(place)
    return chosen


def _gap(values: Sequence[float]) -> float:
    """The smallest distance between neighbours, in decades."""
    return float(np.diff(np.log10(values)).min(initial=math.inf))


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


def power_label(value: float) -> str:
    """`0.05`, `2,000`, and `3·10⁻⁷` in plotly's markup."""
    if PLAIN[0] <= value < PLAIN[1]:
        return f"{value:,.6g}"
    digits, power = f"{value:.3e}".split("e")
    raised = f"10<sup>{int(power)}</sup>".replace("-", "−")
    return raised if float(digits) == 1 else f"{float(digits):g}·{raised}"


def percent_label(share: float) -> str:
    """`0.001%`."""
    return f"{share * 100:.6g}%"
