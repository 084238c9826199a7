"""The plots of a sweep's page, as plain data for Plotly.newPlot."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ghost.report.plot import BLUE, COLOURS, DEPTH_SCALE, GREY, ORANGE, PINK, axis, figure, layout
from ghost.report.proxy_gap import highest
from ghost.report.sweep_rows import Line, Row, finished, fixed, lines, method_name, values
from ghost.report.sweep_view import ModelView

LOG_FROM = 3.0
"""A perplexity axis is logarithmic where the largest value is more than this many times the smallest."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
MOST_POINTS = 3000
"""Channels of a model that its scatter plot shows, evenly spread: a page stays small with many models."""
FLOOR = 1e-4
"""A log scale has no zero: energies and saliencies end at this share of the largest."""
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemclick": False, "itemdoubleclick": False}


def by_sparsity(rows: Sequence[Row]) -> dict[str, Any]:
    """Perplexity of one model by sparsity, a line for each method; the dense model dashed."""
    chosen = fixed(finished(rows), "sparsity")
    dense = chosen[0]["perplexity_dense"]
    drawn = lines(chosen, "sparsity", "perplexity")
    means = [value for line in drawn for value in line.mean]
    wide = dense is not None and max(means, default=0) > LOG_FROM * dense
    log = {"type": "log", "nticks": 8} if wide else {"tickformat": "~g"}
    places = sorted(values(chosen, "sparsity"))
    flat = go.Scatter(
        x=[places[0], places[-1]], y=[dense, dense], mode="lines", name="dense", hoverinfo="skip",
        line={"color": GREY, "dash": "dash", "width": 1.2},
    )  # fmt: skip
    hover = "%{fullData.name}<br>%{x:.0%} dropped: perplexity %{y:.4g}<extra></extra>"
    look = _look(axis("share of the state dropped", tickformat=".0%", tickvals=places), axis("perplexity", **log))
    return figure([flat, *_traces(drawn, hover)], look)


def by_size(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Rise of perplexity by the size of the model; None for a single one."""
    return _rises(fixed(finished(rows)), "parameters", "parameters of the dense model", tickformat=".3~s")


def by_calibration_length(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Rise of perplexity by tokens of a calibration window; None for a single length."""
    return _rises(fixed(finished(rows), "calibration_length"), "calibration_length", "tokens of a calibration window")


def by_window(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Rise of perplexity by tokens of an evaluation window; None for a single one."""
    return _rises(fixed(finished(rows), "window"), "window", "tokens of an evaluation window")


def _rises(rows: Sequence[Row], x: str, title: str, tickformat: str = ",d") -> dict[str, Any] | None:
    places = sorted(values(rows, x))
    if len(places) < 2:
        return None
    hover = f"%{{fullData.name}}<br>%{{x:{tickformat}}}: %{{y:+.1%}}<extra></extra>"
    bottom = axis(title, type="log", tickvals=places, tickformat=tickformat)
    return figure(
        _traces(lines(rows, x, "rise"), hover),
        _look(bottom, axis("rise of perplexity", tickformat="+~p")),
    )


def costs(rows: Sequence[Row], column: str, title: str, scale: float, unit: str) -> dict[str, Any] | None:
    """Mean of a cost over a method's cells, a bar each, side by side for several models; None where none was noted."""
    known = [row for row in finished(rows) if row[column] is not None]
    if not known:
        return None
    methods = list(dict.fromkeys(map(method_name, known)))
    traces = [
        go.Bar(
            y=methods, x=[_mean(known, model, method, column, scale) for method in methods], name=model,
            orientation="h", marker={"color": colour},
            hovertemplate=f"%{{fullData.name}}, %{{y}}: %{{x:.4g}} {unit}<extra></extra>",
        )
        for model, colour in zip(values(known, "model"), COLOURS * len(known), strict=False)
    ]  # fmt: skip
    look = layout(
        90 + 26 * len(methods) * max(1, len(traces) // 2), xaxis=axis(title, rangemode="tozero"),
        yaxis=axis("", autorange="reversed", showgrid=False), showlegend=len(traces) > 1, legend=LEGEND, bargap=0.3,
    )  # fmt: skip
    return figure(traces, look)


def _mean(rows: Sequence[Row], model: str, method: str, column: str, scale: float) -> float | None:
    found = [row[column] / scale for row in rows if row["model"] == model and method_name(row) == method]
    return sum(found) / len(found) if found else None


def gap_scatter(view: ModelView) -> dict[str, Any]:
    """Norm against energy, a point for each channel, by what norms and energy would keep."""
    norm, energy = view.rows("norm_gn"), view.rows("energy_gn")
    by_norm, by_energy = highest(norm, view.kept), highest(energy, view.kept)
    fates = (
        ("kept by both", by_norm & by_energy, BLUE, "circle"),
        ("phantom: kept by norm alone", by_norm & ~by_energy, ORANGE, "triangle-up"),
        ("corporeal: kept by energy alone", by_energy & ~by_norm, PINK, "diamond"),
        ("dropped by both", ~by_norm & ~by_energy, GREY, "circle"),
    )
    shown = np.zeros(norm.size, dtype=bool)
    shown[:: math.ceil(norm.size / MOST_POINTS)] = True
    floor = FLOOR**2 * float(energy.max())
    traces = [
        go.Scatter(
            x=norm[chosen].astype(np.float32), y=np.maximum(energy[chosen], floor).astype(np.float32), name=name,
            mode="markers", marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.7},
            hovertemplate="norm %{x:.3g}, energy %{y:.3g}<extra>%{fullData.name}</extra>",
        )
        for name, which, colour, symbol in fates
        if (chosen := which & shown.reshape(norm.shape)).any()
    ]  # fmt: skip
    bottom = axis("norm of the B row × norm of the C row", type="log", nticks=6)
    return figure(traces, _look(bottom, axis("energy", type="log", dtick=1, tickformat=".0e"), 420))


def spectra(view: ModelView) -> dict[str, Any]:
    """Saliency of each layer's channels from most to least salient, as shares of the layer's largest."""
    depth = [i / max(1, len(view.layers) - 1) for i in range(len(view.layers))]
    traces = []
    for channels, colour in zip(view.layers, sample_colorscale(DEPTH_SCALE, depth), strict=True):
        saliency = np.sqrt(np.sort(channels.energy_gn.ravel())[::-1].clip(min=0))
        share = np.maximum(saliency / (saliency[0] or 1.0), FLOOR)
        step = math.ceil(len(share) / 256)
        traces.append(
            go.Scatter(
                x0=1, dx=step, y=share[::step].astype(np.float32), mode="lines", name=f"layer {channels.layer}",
                line={"color": colour, "width": 1.4}, showlegend=False,
                hovertemplate="%{fullData.name}, rank %{x}: %{y:.2~%} of the largest<extra></extra>",
            )
        )  # fmt: skip
    kept = view.kept * len(view.layers[0].energy_gn)
    look = _look(
        axis("channels of a layer by saliency", showgrid=False),
        axis("saliency", type="log", dtick=1, tickformat="~%", range=[math.log10(FLOOR) - 0.1, 0.1]),
    )
    cut = {"type": "line", "x0": kept + 0.5, "x1": kept + 0.5, "yref": "paper", "y0": 0, "y1": 1,
           "line": {"color": GREY, "width": 1, "dash": "dash"}}  # fmt: skip
    word = {"text": "kept", "x": kept + 0.5, "xanchor": "right", "xshift": -4, "y": 1, "yref": "paper",
            "yanchor": "top", "showarrow": False}  # fmt: skip
    return figure(traces, look | {"shapes": [cut], "annotations": [word]})


def dropped_energy(view: ModelView) -> dict[str, Any]:
    """Share of each layer's energy that each method dropped."""
    places = [float(channels.layer) for channels in view.layers]
    drawn = [
        Line(name=method, x=places, mean=shares, low=shares, high=shares)
        for method in view.layers[0].kept_gn
        for shares in [[channels.dropped_energy(method) for channels in view.layers]]
    ]
    hover = "%{fullData.name}, layer %{x}: %{y:.2%} of the energy dropped<extra></extra>"
    bottom = axis("layer", tickformat="d", dtick=math.ceil(len(places) / 12), showgrid=False)
    return figure(_traces(drawn, hover), _look(bottom, axis("energy dropped", tickformat="~%", rangemode="tozero")))


def _traces(drawn: Sequence[Line], hover: str) -> list[go.Scatter]:
    """With bars from the smallest to the largest where several seeds were averaged."""
    traces = []
    for number, line in enumerate(drawn):
        colour, spread = COLOURS[number % len(COLOURS)], line.low != line.high
        bars = {
            "array": [high - mean for high, mean in zip(line.high, line.mean, strict=True)],
            "arrayminus": [mean - low for low, mean in zip(line.low, line.mean, strict=True)],
            "symmetric": False, "visible": spread, "thickness": 1.2, "width": 4,
        }  # fmt: skip
        marker = {"color": colour, "size": 7, "symbol": SYMBOLS[number % len(SYMBOLS)]}
        traces.append(
            go.Scatter(
                x=line.x, y=line.mean, name=line.name, mode="lines+markers", marker=marker, error_y=bars,
                line={"color": colour, "width": 1.8}, hovertemplate=hover,
            )
        )  # fmt: skip
    return traces


def _look(bottom: dict[str, Any], side: dict[str, Any], height: int = 360) -> dict[str, Any]:
    return layout(height, xaxis=bottom, yaxis=side, showlegend=True, legend=LEGEND)
