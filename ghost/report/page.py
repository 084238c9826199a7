"""The summary page of a run: one HTML file that needs nothing else, the same bytes for the same input."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ghost.report.figures import change, megabytes, millions, percent, perplexity, plural, pruned_share, setting_rows
from ghost.report.layers import FLOOR, LayerView
from ghost.report.plot import saliency_plot
from ghost.report.style import CSS

# The page can't reach a network, whatever a name in it says.
CONTENT_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
BLANK = "–"


def render(summary: Mapping[str, Any], layers: Sequence[LayerView]) -> str:
    """The page as text, below 6 MB (4.8 of them plotly's own JavaScript), to be written as UTF-8.

    `summary` is plain data: run_id, model, method, sparsity, policy, soft, sequential, calibration {corpus, samples,
    length, seed}, evaluation {corpus, window, tokens, protocol}, layers, kept_channels, channels, and as {dense,
    pruned}: perplexity, state_bytes per sequence, d_state, parameters. `layers` is in the order of the model and not
    empty.
    """
    title = escape(f"ghost: {summary['model']}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{_header(summary)}
{_tiles(summary)}
{_plot_section(layers)}
{_table_section(layers)}
{_settings_section(summary)}
</main>
</body>
</html>
"""


def _header(summary: Mapping[str, Any]) -> str:
    what = f"{pruned_share(summary)} of the recurrent state pruned with {summary['method']}"
    where = f"{plural(summary['layers'], 'Mamba2 layer')}, run {summary['run_id']}"
    return (
        f'<header>\n<h1>{escape(summary["model"])}</h1>\n<p class="muted">{escape(f"{what}; {where}")}</p>\n</header>'
    )


def _tiles(summary: Mapping[str, Any]) -> str:
    ppl, state, size = summary["perplexity"], summary["state_bytes"], summary["parameters"]
    tiles = [
        _tile("Perplexity", perplexity(ppl["dense"]), perplexity(ppl["pruned"]), change(ppl)),
        _tile("State per sequence, MB", megabytes(state["dense"]), megabytes(state["pruned"]), change(state)),
        _tile(
            "Kept channels",
            f"{summary['channels']:,}",
            f"{summary['kept_channels']:,}",
            f"state size {summary['d_state']['dense']} → {summary['d_state']['pruned']}",
        ),
        _tile("Parameters", millions(size["dense"]), millions(size["pruned"]), change(size)),
    ]
    return '<ul class="tiles">\n' + "\n".join(tiles) + "\n</ul>"


def _tile(label: str, before: str, after: str, detail: str) -> str:
    figure = f'<span class="before">{escape(before)} → </span><span class="after">{escape(after)}</span>'
    return (
        f'<li><span class="label">{escape(label)}</span>'
        f'<span class="figure">{figure}</span>'
        f'<span class="detail">{escape(detail)}</span></li>'
    )


def _plot_section(layers: Sequence[LayerView]) -> str:
    return f"""<section>
<h2>Saliency of every channel</h2>
<p class="muted">One line for each layer: its channels from most to least salient, as shares of the layer's largest.
{_cut_text(layers)}</p>
{saliency_plot(layers)}
<noscript><p class="note">The plot needs JavaScript; the table below does not.</p></noscript>
{_floor_note(layers)}
</section>"""


def _cut_text(layers: Sequence[LayerView]) -> str:
    if all(len(view.saliency_gn) == 1 for view in layers):
        return "Strong lines are kept channels, faint ones dropped."
    return """Strong lines are kept channels, faint ones dropped; a dropped channel of one
group may lie above a kept one of another."""


def _floor_note(layers: Sequence[LayerView]) -> str:
    dead = sum(int((view.saliency_gn == 0).sum()) for view in layers)
    below = sum(int(view.below_floor_gn.sum()) for view in layers)
    if not below:
        return ""
    return (
        f'<p class="note">{plural(below, "channel")} below {percent(FLOOR)} of the largest in the layer, {dead:,} dead '
        "(saliency 0). A log scale has no place for them: they are the crosses at the foot of the plot.</p>"
    )


def _table_section(layers: Sequence[LayerView]) -> str:
    rows = "\n".join(_row(view) for view in layers)
    return f"""<section>
<h2>Layers</h2>
<div class="scroll">
<table>
<thead><tr><th>Layer</th><th>Kept</th><th>Energy dropped</th><th>Smallest kept</th><th>Largest dropped</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<p class="note">Energy dropped: share of the layer's squared saliency that went with the dropped channels, {BLANK} where
the method measures no energy. Smallest kept and largest dropped: saliency on either side of the cut.</p>
</section>"""


def _row(view: LayerView) -> str:
    kept, dropped = view.saliency_gn[view.kept_gn], view.saliency_gn[~view.kept_gn]
    cells = [
        str(view.layer),
        f"{kept.size:,} / {view.saliency_gn.size:,}",
        BLANK if view.energy_dropped is None else f"{view.energy_dropped * 100:.3f}%",
        _saliency(kept, np.min),
        _saliency(dropped, np.max),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _saliency(values: np.ndarray, pick: Any) -> str:
    return f"{pick(values):#.4g}".rstrip(".") if values.size else BLANK


def _settings_section(summary: Mapping[str, Any]) -> str:
    rows = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in setting_rows(summary))
    return f"<section>\n<h2>Settings</h2>\n<dl>\n{rows}\n</dl>\n</section>"
