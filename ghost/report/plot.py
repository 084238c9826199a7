"""The one plot of the summary page: the saliency of every channel, a line for each layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.io import to_html

from ghost.report.layers import LayerView

DIV_ID = "saliency-plot"
GREY = "#858b96"
GRID = "rgba(133, 139, 150, 0.22)"
# Of middle lightness from end to end, so that the first layer and the last read on white and on black.
DEPTH_SCALE = ["#2f86d8", "#8468dc", "#cc4f9c", "#e8743b"]


def saliency_plot(layers: Sequence[LayerView]) -> str:
    """HTML of the plot, with plotly's own JavaScript in it and nothing loaded from elsewhere."""
    foot = _foot(layers)
    figure = go.Figure(layout=_layout(layers, foot))
    for view, colour in zip(layers, _colours(layers), strict=True):
        for part in _parts(view):
            figure.add_traces(_traces(part, colour, foot))
    if len(layers) > 1:
        figure.add_trace(_colour_bar(layers))
    _mark_cut(figure, layers)
    config = {"displayModeBar": False, "responsive": True, "showTips": False}
    return to_html(figure, config=config, include_plotlyjs=True, full_html=False, div_id=DIV_ID)


def _foot(layers: Sequence[LayerView]) -> float:
    """Height of the crosses: half of the smallest share that a line shows."""
    smallest = min(float(view.relative_gn.min(initial=1, where=~view.below_floor_gn)) for view in layers)
    return smallest / 2


@dataclass(frozen=True, eq=False)
class _Part:
    """The kept or the dropped channels of a layer from most to least salient; `first` is the rank of the first."""

    view: LayerView
    ranking: np.ndarray
    first: int
    fate: str

    @cached_property
    def drawable(self) -> int:
        """How many of them a log scale can show; the rest, at the end, are crosses."""
        return int((~self.view.below_floor_gn.ravel()[self.ranking]).sum())

    @property
    def name(self) -> str:
        """The first line of the hover text."""
        return f"layer {self.view.layer}, group %{{customdata[0]}}, channel %{{customdata[1]}}: {self.fate}<br>"


def _parts(view: LayerView) -> list[_Part]:
    """Kept channels, then dropped ones: in two lines, so that a gap shows the cut wherever it falls in this layer."""
    ranking = np.lexsort((-view.saliency_gn.ravel(), ~view.kept_gn.ravel()))
    kept = int(view.kept_gn.sum())
    return [_Part(view, ranking[:kept], 1, "kept"), _Part(view, ranking[kept:], kept + 1, "dropped")]


def _traces(part: _Part, colour: str, foot: float) -> list[go.Scatter]:
    traces = []
    if part.drawable:
        traces.append(_line(part, colour))
    if part.drawable < len(part.ranking):
        traces.append(_crosses(part, colour, foot))
    return traces


def _line(part: _Part, colour: str) -> go.Scatter:
    ranking = part.ranking[: part.drawable]
    strong = part.fate == "kept"
    return go.Scatter(
        # Ranks by start and step, and single precision: a model of 64 layers in 8 groups has 65,536 points.
        x0=part.first,
        dx=1,
        y=part.view.relative_gn.ravel()[ranking].astype(np.float32),
        customdata=_group_and_channel(part.view, ranking),
        mode="lines" if len(ranking) > 1 else "markers",
        line={"color": colour, "width": 1.8 if strong else 1.1},
        marker={"color": colour},
        opacity=0.95 if strong else 0.5,
        hovertemplate=f"{part.name}saliency %{{y:.3p}} of the layer's largest, {part.view.largest:.3g}<extra></extra>",
    )


def _crosses(part: _Part, colour: str, foot: float) -> go.Scatter:
    ranking = part.ranking[part.drawable :]
    return go.Scatter(
        x0=part.first + part.drawable,
        dx=1,
        y=np.full(len(ranking), foot, dtype=np.float32),
        customdata=_group_and_channel(part.view, ranking),
        text=part.view.saliency_gn.ravel()[ranking],
        mode="markers",
        marker={"symbol": "x-thin", "size": 7, "color": colour, "line": {"color": colour, "width": 1.5}},
        hovertemplate=f"{part.name}saliency %{{text:.3g}}, too small for the scale<extra></extra>",
    )


def _group_and_channel(view: LayerView, ranking: np.ndarray) -> np.ndarray:
    return np.stack(np.unravel_index(ranking, view.saliency_gn.shape), axis=-1)


def _colours(layers: Sequence[LayerView]) -> list[str]:
    first, last = layers[0].layer, layers[-1].layer
    depths = [(view.layer - first) / max(1, last - first) for view in layers]
    return [str(colour) for colour in sample_colorscale(DEPTH_SCALE, depths)]


def _colour_bar(layers: Sequence[LayerView]) -> go.Scatter:
    """An invisible point that carries the colour bar; a legend of 81 entries would bury the plot."""
    first, last = layers[0].layer, layers[-1].layer
    ticks = np.unique(np.linspace(first, last, 5).round().astype(int)).tolist()
    bar = {
        "title": {"text": "layer", "side": "top"},
        "orientation": "h",
        "thickness": 8,
        "len": 0.5,
        "x": 0,
        "xanchor": "left",
        "xpad": 0,
        "y": 1.02,
        "yanchor": "bottom",
        "outlinewidth": 0,
        "tickvals": ticks,
    }
    marker = {"color": [first], "colorscale": DEPTH_SCALE, "cmin": first, "cmax": last, "colorbar": bar}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, hoverinfo="skip")


def _mark_cut(figure: go.Figure, layers: Sequence[LayerView]) -> None:
    """A vertical line at the cut, where all layers share it; else the gap in each line has to do."""
    cuts = {int(view.kept_gn.sum()) for view in layers}
    if len(cuts) > 1:
        return
    cut = cuts.pop()
    figure.add_vline(x=cut + 0.5, line={"color": GREY, "width": 1, "dash": "dash"})
    for text, anchor, shift in (("kept", "right", -4), ("dropped", "left", 4)):
        figure.add_annotation(
            text=text, x=cut + 0.5, xanchor=anchor, xshift=shift, y=1, yref="paper", yanchor="top", showarrow=False
        )


def _layout(layers: Sequence[LayerView], foot: float) -> go.Layout:
    axis = {"gridcolor": GRID, "linecolor": GREY, "zeroline": False, "fixedrange": True}
    channels = max(view.saliency_gn.size for view in layers)
    return go.Layout(
        template="none",
        height=460,
        margin={"l": 56, "r": 8, "t": 64 if len(layers) > 1 else 16, "b": 48},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": GREY, "family": "system-ui, sans-serif", "size": 12},
        showlegend=False,
        hovermode="closest",
        # Dragging must scroll the page on a phone.
        dragmode=False,
        xaxis=axis
        | {"title": {"text": "channels of a layer by saliency"}, "range": [0, channels + 1], "showgrid": False},
        yaxis=axis | {"type": "log", "range": [np.log10(foot) - 0.15, 0.15], "dtick": 1, "tickformat": "~%"},
    )
