"""What all plots share: colours, axes, layout, and the way to plain data."""

import json
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.io import to_json

from ghost.report.layers import LayerView

GREY = "#858b96"
GRID = "rgba(133, 139, 150, 0.22)"
BLUE, ORANGE, PINK = "#2f86d8", "#e8743b", "#cc4f9c"
# Of middle lightness from end to end, so that the first layer and the last read on white and on black.
DEPTH_SCALE = [BLUE, "#8468dc", PINK, ORANGE]
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
MOST_LAYERS = 12
COLOURS = [BLUE, ORANGE, "#3f9e6b", PINK, "#8468dc", "#b08a2e", GREY]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis that a reader can't move: dragging must scroll the page on a phone."""
    common = {"gridcolor": GRID, "linecolor": GREY, "zeroline": False, "fixedrange": True, "automargin": True}
    return common | {"title": {"text": title, "standoff": 8}} | more


def layer_axis(layers: Sequence[int]) -> dict[str, Any]:
    """Numbers of layers across, at most twelve labelled; none that has nothing to show, as others of a hybrid."""
    labelled = layers[:: math.ceil(len(layers) / MOST_LAYERS)]
    return axis("layer", showgrid=False, tickformat="d", tickvals=list(labelled))


def layout(height: int, **more: Any) -> dict[str, Any]:
    """What all plots share; nothing in it is only for a light page or only for a dark one."""
    common = {
        "height": height,
        "margin": {"l": 56, "r": 8, "t": 16, "b": 48},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 12},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "dragmode": False,
    }
    return common | more


def figure(traces: Sequence[go.Scatter | go.Bar | go.Heatmap], look: dict[str, Any]) -> dict[str, Any]:
    """Traces and layout as plain data for Plotly.newPlot, checked by plotly's own classes."""
    built = go.Figure(data=traces, layout=go.Layout(template="none", **look))
    return json.loads(str(to_json(built)))


def depth_colours(layers: Sequence[LayerView]) -> list[str]:
    """A colour for each layer, from the first to the last."""
    first, last = layers[0].layer, layers[-1].layer
    depths = [(view.layer - first) / max(1, last - first) for view in layers]
    return [str(colour) for colour in sample_colorscale(DEPTH_SCALE, depths)]


def plain(name: str) -> str:
    """Plotly reads some HTML in names and texts; this one is to be read as it is."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
