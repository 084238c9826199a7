"""Labels of log axes: round, enough of them, and none on another, in any range and on every page."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost.report import ComparedRun, LayerView, render, render_comparison
from ghost.report.log_axis import ACROSS, PLACES, UPWARDS, log_scale, perplexity_axis, spread, ticks
from ghost.report.sweep_page import render_sweep
from tests.report_samples import ABOUT, layer_view, page_data, summary, view
from tests.sweeps import row

Axis = dict[str, Any]
FILLED_BY_THE_SCRIPT = {("channels", "yaxis"), ("gap", "xaxis"), ("gap", "yaxis")}


@given(low=st.floats(1e-30, 1e12), decades=st.floats(math.log10(1.1), 40), most=st.sampled_from([ACROSS, UPWARDS]))
def test_two_labels_at_least_and_none_too_near_another(low: float, decades: float, most: int) -> None:
    high = low * 10**decades
    chosen = ticks(low, high, most)
    assert len(chosen) >= 2 and chosen == sorted(set(chosen))
    assert low <= chosen[0] and chosen[-1] <= high
    assert np.diff(np.log10(chosen)).min() >= 0.999 * math.log10(high / low) / most


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        (14, 28, [14, 16, 18, 20, 22, 24, 26, 28]),
        (24.3, 26.8, [24.5, 25, 25.5, 26, 26.5]),
        (10, 330, [10, 20, 50, 100, 200]),
        (1e-5, 1, [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1]),
        (12, 3.2e7, [100, 1e3, 1e4, 1e5, 1e6, 1e7]),
        (1e-40, 1, [1e-40, 1e-35, 1e-30, 1e-25, 1e-20, 1e-15, 1e-10, 1e-5, 1]),
    ],
)
def test_labels_of_narrow_and_of_wide_ranges(low: float, high: float, values: list[float]) -> None:
    assert ticks(low, high, UPWARDS) == values


@pytest.mark.parametrize("values", [[], [0.0, -1.0], [3.0], [7.0, 7.0 * (1 + 1e-15)]])
def test_an_axis_with_next_to_nothing_on_it_still_has_labels(values: list[float]) -> None:
    scale = log_scale(values)
    assert len(scale["tickvals"]) >= 2 and scale["range"][0] < scale["range"][1]


def test_perplexities_far_apart_are_drawn_on_a_log_axis_and_others_are_not() -> None:
    assert perplexity_axis([10.0, 30.1])["type"] == "log"
    assert "type" not in perplexity_axis([10.0, 30.0]) and "type" not in perplexity_axis([])


def test_places_are_labelled_where_their_labels_fit() -> None:
    assert spread([32, 128, 512, 2048], math.log10) == [32, 128, 512, 2048]
    assert spread([32, 33, 64, 65, 1024], math.log10) == [32, 64, 1024]
    assert spread([0.5, 0.51, 0.75, 0.9], float) == [0.5, 0.75, 0.9]
    assert spread([0.5], float) == [0.5]


def narrow(layer: int) -> LayerView:
    """All figures within a factor of two."""
    wide = layer_view(layer)
    measured = {name: 14 + 14 * values / values.max() for name, values in wide.measured.items()}
    return LayerView(
        layer=layer, saliency_gn=measured["energy"], kept_gn=wide.kept_gn, energy_dropped=0.3, measured=measured
    )


def pages() -> Iterator[str]:
    dead = layer_view(2)
    dead.saliency_gn[:] = 0
    yield render(summary(), [layer_view(0), layer_view(1), dead])
    yield render(summary(), [narrow(0), narrow(1)])
    for worst in (28.0, 900.0, 1e30):
        pair = {"dense": 14.0, "pruned": worst}
        compared = ComparedRun(summary=summary(perplexity=pair), source="a", kept={0: np.ones((1, 4), dtype=bool)})
        yield render_comparison([compared, compared])
        rows = [row(sparsity=s, perplexity=10 + s * worst, rise=s * worst) for s in (0.25, 0.5, 0.51, 0.75)]
        rows += [row(calibration_length=length) for length in (32, 33, 64, 2048)]
        yield render_sweep(ABOUT, rows, [view()])


def log_axes(data: dict[str, Any]) -> Iterator[tuple[int, Axis]]:
    """Of every figure, and those that the script puts into the others; with the labels that each may have."""
    for name, figure in {**data["figures"], **data.get("layouts", {})}.items():
        for side, most in (("xaxis", ACROSS), ("yaxis", UPWARDS)):
            if figure["layout"][side].get("type") == "log" and (name, side) not in FILLED_BY_THE_SCRIPT:
                axis = figure["layout"][side]
                yield most if "range" in axis else PLACES, axis
    for name, scales in data.get("scales", {}).items():
        yield from ((ACROSS if name == "norm" else UPWARDS, scale) for scale in scales)


def test_on_every_log_axis_of_every_page_labels_are_apart() -> None:
    axes = [axis for page in pages() for axis in log_axes(page_data(page))]
    assert len(axes) > 50
    for most, axis in axes:
        places = np.log10(axis["tickvals"])
        length = np.ptp(axis.get("range") or places)
        assert len(places) >= 2 and np.diff(places).min() >= 0.999 * length / most, axis
