"""Axes, colours and words of the plots that draw.py's script fills with a point per channel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ghost.report.channels import has_gap, pack
from ghost.report.layers import FLOOR, LayerView
from ghost.report.plot import BLUE, DEPTH_SCALE, GREY, LEGEND, ORANGE, PINK, axis, depth_colours, figure, layout

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
    """What the script needs beside the page's other figures."""
    foot = _foot(layers)
    looks = {"spectrum": _spectrum(layers, unit, foot), "channels": _channels(unit)}
    return {
        "channels": pack(layers),
        "unit": unit,
        "names": NAMES,
        "floor": FLOOR,
        "foot": foot,
        "colours": depth_colours(layers),
        "fates": {"kept": BLUE, "dropped": ORANGE},
        "quadrants": QUADRANTS,
        "looks": looks | ({"gap": _gap()} if has_gap(layers) else {}),
    }


def _foot(layers: Sequence[LayerView]) -> float:
    """Height of the crosses: half of the smallest share that a line shows."""
    shares = [view.saliency_gn[~view.below_floor_gn] / view.largest for view in layers if view.largest > 0]
    return min((float(share.min()) for share in shares), default=1.0) / 2


def _spectrum(layers: Sequence[LayerView], unit: str, foot: float) -> dict[str, Any]:
    channels = max(view.saliency_gn.size for view in layers)
    low = float(np.log10(foot))
    look = layout(
        460, **_cut(layers),
        xaxis=axis(f"{unit}s of a layer by saliency", range=[0, channels + 1], showgrid=False),
        yaxis=axis("share of the largest", type="log", range=[low - 0.15, 0.15], dtick=1, tickformat="~%"),
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


def _cut(layers: Sequence[LayerView]) -> dict[str, Any]:
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
    look = layout(
        380, showlegend=True, legend=LEGEND,
        xaxis=axis(f"{unit}s by saliency", showgrid=False),
        yaxis=axis("saliency", type="log", tickformat="~g"),
    )  # fmt: skip
    look["margin"] |= {"t": 40}
    return figure([], look)


def _gap() -> dict[str, Any]:
    look = layout(
        440, showlegend=True, legend=LEGEND,
        xaxis=axis(NAMES["norm"], type="log", dtick=1, tickformat="~g"),
        yaxis=axis("energy", type="log", dtick=1, exponentformat="power"),
    )  # fmt: skip
    look["margin"] |= {"t": 70}
    return figure([], look)
