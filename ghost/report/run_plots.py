"""The plots of a run's page. Those with a point per channel are axes and colours here; channels.js fills them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ghost.report.channels import channel_figures, has_gap, pack
from ghost.report.layers import FLOOR, LayerView
from ghost.report.log_axis import ACROSS, FORMAT, UPWARDS, log_axis, log_scale
from ghost.report.plot import (
    BLUE,
    DEPTH_SCALE,
    GREY,
    LEGEND,
    ORANGE,
    PINK,
    axis,
    depth_colours,
    figure,
    layer_axis,
    layout,
)

NAMES = {
    "saliency": "saliency",
    "energy": "energy",
    "controllability": "controllability",
    "observability": "observability",
    "norm": "norm of the B row × norm of the C row",
    "norm_b": "norm of the B row",
    "norm_c": "norm of the C row",
}
QUADRANTS = (
    {"name": "kept by both", "by_norm": 1, "by_energy": 1, "colour": BLUE},
    {"name": "phantom: kept by norm only", "by_norm": 1, "by_energy": 0, "colour": ORANGE},
    {"name": "corporeal: kept by energy only", "by_norm": 0, "by_energy": 1, "colour": PINK},
    {"name": "dropped by both", "by_norm": 0, "by_energy": 0, "colour": GREY},
)


def channel_plots(layers: Sequence[LayerView], unit: str) -> dict[str, Any]:
    """What channels.js needs beside the page's other figures."""
    foot, scales = _foot(layers), _scales(layers)
    layouts = {"spectrum": _spectrum(layers, unit, foot), "channels": _channels(unit)}
    return {
        "channels": pack(layers),
        "unit": unit,
        "names": {name: words for name, words in NAMES.items() if name in scales},
        "scales": scales,
        "floor": FLOOR,
        "foot": foot,
        "colours": depth_colours(layers),
        "fates": {"kept": BLUE, "dropped": ORANGE},
        "quadrants": QUADRANTS,
        "layouts": layouts | ({"gap": _gap()} if has_gap(layers) else {}),
    }


def layer_bars(layers: Sequence[LayerView], values: Sequence[float], title: str) -> dict[str, Any]:
    """One bar a layer in its colour; `values` are shares."""
    trace = go.Bar(
        x=[view.layer for view in layers], y=list(values), marker={"color": depth_colours(layers)},
        hovertemplate=f"layer %{{x}}: %{{y:.3%}} of its {title}<extra></extra>",
    )  # fmt: skip
    look = layout(
        240, bargap=0.25,
        xaxis=layer_axis([view.layer for view in layers]),
        yaxis=axis(title, rangemode="tozero", tickformat="~%"),
    )  # fmt: skip
    return figure([trace], look)


def kl_bars(layers: Sequence[LayerView]) -> dict[str, Any]:
    """KL to the dense model without recovery and with it, two bars a layer, by the plot's name; none where there was no
    recovery."""
    known = [(view.layer, view.kl) for view in layers if view.kl is not None]
    if not known:
        return {}
    traces = [
        go.Bar(
            x=[layer for layer, _ in known], y=[kl[at] for _, kl in known], name=name, marker={"color": colour},
            hovertemplate="layer %{x}: %{y:.4f} nats a token<extra>%{fullData.name}</extra>",
        )
        for at, (name, colour) in enumerate((("without recovery", GREY), ("with recovery", BLUE)))
    ]  # fmt: skip
    look = layout(
        280, bargap=0.25, barmode="group", showlegend=True, legend=LEGEND,
        xaxis=layer_axis([layer for layer, _ in known]),
        yaxis=axis("KL to dense, nats a token", rangemode="tozero"),
    )  # fmt: skip
    look["margin"] |= {"t": 40}
    return {"kl-bars": figure(traces, look)}


def _scales(layers: Sequence[LayerView]) -> dict[str, list[dict[str, Any]]]:
    """Log scales of every figure that the run has: one for each layer, then one for all of them."""
    figures: dict[str, np.ndarray] = dict(channel_figures(layers))
    if {"norm_b", "norm_c"} <= set(figures):
        figures["norm"] = figures["norm_b"] * figures["norm_c"]
    parts = {name: [*values.reshape(len(layers), -1), values.ravel()] for name, values in figures.items()}
    labels = dict.fromkeys(parts, UPWARDS) | {"norm": ACROSS}  # which lies across in the plot of the gap
    return {name: [_scale(values, labels[name]) for values in parts[name]] for name in NAMES if name in parts}


def _scale(values: np.ndarray, most: int) -> dict[str, Any]:
    """With a place for the crosses, which stand for zeros: half of the smallest figure above."""
    above = values[values > 0]
    foot = [float(above.min()) / 2] if 0 < above.size < values.size else []
    return log_scale([*above.tolist(), *foot], most)


def _foot(layers: Sequence[LayerView]) -> float:
    """Height of the crosses: half of the smallest share that a line shows."""
    shares = [view.saliency_gn[~view.below_floor_gn] / view.largest for view in layers if view.largest > 0]
    return min((float(share.min()) for share in shares), default=1.0) / 2


def _spectrum(layers: Sequence[LayerView], unit: str, foot: float) -> dict[str, Any]:
    channels = max(view.saliency_gn.size for view in layers)
    lowest = foot if any(view.below_floor_gn.any() for view in layers) else 2 * foot
    look = layout(
        460, **_cut(layers),
        xaxis=axis(f"{unit}s of a layer by saliency", range=[0, channels + 1], showgrid=False),
        yaxis=log_axis("share of the largest", [lowest, 1.0], tickformat="~%"),
    )  # fmt: skip
    look["margin"] |= {"t": 64 if len(layers) > 1 else 16}
    return figure([_colour_bar(layers)] if len(layers) > 1 else [], look)


def _colour_bar(layers: Sequence[LayerView]) -> go.Scatter:
    """An invisible point that carries the colour bar; a legend of 81 entries would bury the plot."""
    first, last = layers[0].layer, layers[-1].layer
    bar = {
        "title": {"text": "layer", "side": "top"}, "orientation": "h", "thickness": 8, "len": 0.5,
        "x": 0, "xanchor": "left", "xpad": 0, "y": 1.02, "yanchor": "bottom", "outlinewidth": 0,
        "tickvals": np.unique(np.linspace(first, last, 5).round().astype(int)).tolist(),
    }  # fmt: skip
    marker = {"color": [first], "colorscale": DEPTH_SCALE, "cmin": first, "cmax": last, "colorbar": bar}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, hoverinfo="skip")


def _cut(layers: Sequence[LayerView]) -> Mapping[str, Any]:
    """A vertical line at the cut, where all layers share it; else the gap in each line has to do."""
    cuts = {int(view.kept_gn.sum()) for view in layers}
    if len(cuts) > 1 or cuts == {layers[0].kept_gn.size}:
        return {}
    x = cuts.pop() + 0.5
    line = {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1}
    at = {"x": x, "y": 1, "yref": "paper", "yanchor": "top", "showarrow": False}
    return {
        "shapes": [line | {"line": {"color": GREY, "width": 1, "dash": "dash"}}],
        "annotations": [
            at | {"text": "kept", "xanchor": "right", "xshift": -4},
            at | {"text": "dropped", "xanchor": "left", "xshift": 4},
        ],
    }


def _channels(unit: str) -> dict[str, Any]:
    bottom, side = axis(f"{unit}s by saliency", showgrid=False), axis("saliency", type="log", tickformat=FORMAT)
    look = layout(380, showlegend=True, legend=LEGEND, xaxis=bottom, yaxis=side)
    look["margin"] |= {"t": 40}
    return figure([], look)


def _gap() -> dict[str, Any]:
    bottom, side = (axis(title, type="log", tickformat=FORMAT) for title in (NAMES["norm"], "energy"))
    look = layout(440, showlegend=True, legend=LEGEND, xaxis=bottom, yaxis=side)
    look["margin"] |= {"t": 70}
    return figure([], look)
