"""The summary page of a run: one HTML file that needs nothing else, the same bytes for the same input."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ghost.report.draw import DRAW
from ghost.report.figures import change, megabytes, millions, perplexity, plural, setting_rows, what_went
from ghost.report.layers import LayerView
from ghost.report.looks import channel_plots
from ghost.report.methods import unit
from ghost.report.sections import bar_figures, bars, gap, layer_table, one_layer, spectrum, task_table
from ghost.report.shell import document, section, text, tile
from ghost.report.verdict import headline, verdict


def render(summary: Mapping[str, Any], layers: Sequence[LayerView]) -> str:
    """The page as text, below 6 MB (4.8 of them plotly's own JavaScript), to be written as UTF-8.

    `summary` is plain data: run_id, model, method, sparsity, policy, soft, sequential, calibration {corpus, samples,
    length, seed}, evaluation {corpus, window, tokens, protocol}, layers, kept_channels, channels, and as {dense,
    pruned}: perplexity, state_bytes per sequence, d_state, parameters. It may have `recovery`, `tasks` as in
    evaluation/results.json, and `rows` of recall as `ghost eval` makes them. `layers` is in the order of the model and
    not empty.
    """
    what = unit(summary)
    about_layers = [spectrum(layers, what), one_layer(layers, what), gap(layers), bars(layers, what)]
    top = [_header(summary), _verdict(summary), _tiles(summary)]
    content = [*top, *about_layers, layer_table(layers, what), task_table(summary.get("tasks")), _settings(summary)]
    data = {"figures": bar_figures(layers, what)} | channel_plots(layers, what)
    return document(f"ghost: {summary['model']}", "\n".join(filter(None, content)), data, [DRAW])


def _header(summary: Mapping[str, Any]) -> str:
    what = what_went(summary)
    where = f"{plural(summary['layers'], 'Mamba2 layer')}, run {summary['run_id']}"
    return f"<header>\n<h1>{escape(summary['model'])}</h1>\n{text(f'{what}; {where}')}\n</header>"


def _verdict(summary: Mapping[str, Any]) -> str:
    reasons = " ".join(verdict(summary))
    return f'<div class="verdict">\n{text(f"{headline(summary)}.", "lead")}\n{text(reasons, "reasons")}\n</div>'


def _tiles(summary: Mapping[str, Any]) -> str:
    ppl, state, size = summary["perplexity"], summary["state_bytes"], summary["parameters"]
    kept = f"state size {summary['d_state']['dense']} → {summary['d_state']['pruned']}"
    tiles = [
        tile("Perplexity", perplexity(ppl["dense"]), perplexity(ppl["pruned"]), change(ppl)),
        tile("State per sequence, MB", megabytes(state["dense"]), megabytes(state["pruned"]), change(state)),
        tile(f"Kept {unit(summary)}s", f"{summary['channels']:,}", f"{summary['kept_channels']:,}", kept),
        tile("Parameters", millions(size["dense"]), millions(size["pruned"]), change(size)),
    ]
    return '<ul class="tiles">\n' + "\n".join(tiles) + "\n</ul>"


def _settings(summary: Mapping[str, Any]) -> str:
    rows = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in setting_rows(summary))
    return section("Settings", f"<dl>\n{rows}\n</dl>")
