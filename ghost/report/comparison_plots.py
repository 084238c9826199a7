"""The plots of the page that compares runs."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ghost.report.figures import change_of_perplexity, is_finite, megabytes, perplexity
from ghost.report.log_axis import perplexity_axis
from ghost.report.overlap import ComparedRun, Overlap
from ghost.report.plot import BLUE, COLOURS, GREY, LEGEND, axis, figure, layer_axis, layout, plain

ROW_HEIGHT = 36


def quality(runs: Sequence[ComparedRun], labels: Sequence[str]) -> dict[str, Any]:
    """Perplexity by size of the state: a colour for each method, a grey diamond for each dense model.

    What is not finite has no place in it.
    """
    found = [run.summary["perplexity"][name] for run in runs for name in ("dense", "pruned")]
    methods = list(dict.fromkeys(run.summary["method"] for run in runs))
    traces = [_method(method, COLOURS[i % len(COLOURS)], runs, labels) for i, method in enumerate(methods)]
    look = layout(
        440, showlegend=True, legend=LEGEND,
        xaxis=axis("state per sequence, MB", rangemode="tozero", showgrid=False),
        yaxis=perplexity_axis([value for value in found if is_finite(value)]),
    )  # fmt: skip
    look["margin"] |= {"t": 70}
    return figure([*traces, _dense(runs)], look)


def _method(method: str, colour: str, runs: Sequence[ComparedRun], labels: Sequence[str]) -> go.Scatter:
    mine = [
        (run.summary, label)
        for run, label in zip(runs, labels, strict=True)
        if run.summary["method"] == method and is_finite(run.summary["perplexity"]["pruned"])
    ]
    return go.Scatter(
        name=plain(method), mode="markers", marker={"color": colour, "size": 10},
        x=[summary["state_bytes"]["pruned"] / 1e6 for summary, _ in mine],
        y=[summary["perplexity"]["pruned"] for summary, _ in mine],
        text=[_hover(summary, label) for summary, label in mine],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _hover(summary: Any, label: str) -> str:
    ppl, state = summary["perplexity"], summary["state_bytes"]["pruned"]
    figures = f"perplexity {perplexity(ppl['pruned'])}, {change_of_perplexity(summary)}<br>state {megabytes(state)} MB"
    return f"{plain(label)}<br>{figures}<br>run {plain(summary['run_id'])}"


def _dense(runs: Sequence[ComparedRun]) -> go.Scatter:
    """Each dense model once for each protocol that it was evaluated by."""
    found = {
        (run.source, run.summary["perplexity"]["dense"]): (
            run.summary["state_bytes"]["dense"] / 1e6, run.summary["perplexity"]["dense"], run.summary["model"],
        )
        for run in runs
        if is_finite(run.summary["perplexity"]["dense"])
    }  # fmt: skip
    return go.Scatter(
        name="dense", mode="markers", marker={"color": GREY, "size": 11, "symbol": "diamond"},
        x=[x for x, _, _ in found.values()],
        y=[y for _, y, _ in found.values()],
        text=[plain(model) for _, _, model in found.values()],
        hovertemplate="%{text}, dense<br>perplexity %{y:.2f}<extra></extra>",
    )  # fmt: skip


def heat_map(found: Sequence[Overlap], labels: Sequence[str]) -> dict[str, Any]:
    """Jaccard index by pair of runs and layer, the first pair on top."""
    pairs = [f"{plain(labels[overlap.pair[0]])}<br>{plain(labels[overlap.pair[1]])}" for overlap in found]
    trace = go.Heatmap(
        x=found[0].numbers, y=pairs, z=[overlap.layers for overlap in found],
        customdata=[overlap.chance for overlap in found], zmin=0, zmax=1, xgap=1, ygap=1,
        colorscale=[[0, "rgba(133, 139, 150, 0.12)"], [1, BLUE]],
        colorbar={"thickness": 10, "outlinewidth": 0, "tickformat": ".0%"},
        hovertemplate="layer %{x}: %{z:.1%} in common<br>%{y}<br>by chance %{customdata:.1%}<extra></extra>",
    )  # fmt: skip
    look = layout(
        110 + ROW_HEIGHT * len(found),
        xaxis=layer_axis(found[0].numbers),
        yaxis=axis("", autorange="reversed", type="category", showgrid=False),
    )  # fmt: skip
    return figure([trace], look)
