"""The page of a sweep: perplexity by method and sparsity, what it cost, and how norms and energies disagree."""

from collections.abc import Mapping, Sequence
from typing import Any

from ghost.report import sweep_plots as plots
from ghost.report.document import from_template
from ghost.report.figures import NO_DIFFERENCE, Tile, percent, percent_change, perplexity
from ghost.report.sweep_rows import Row, finished, finite_first, fixed, method_name, nearest_half, values
from ghost.report.sweep_tables import cell_table, gap_table, layer_table
from ghost.report.sweep_view import ModelView
from ghost.significance import is_noise

MOST_TILES = 4
MB = 1e6
RISES = {
    "size": ("By model size", plots.by_size),
    "lengths": ("By calibration length", plots.by_calibration_length),
    "windows": ("By evaluation window", plots.by_window),
}
"""Heading and plot of what a sweep may have varied, by the name of the plot."""
COSTS = {
    "seconds": ("seconds", "seconds a cell", 1.0, "s"),
    "memory": ("peak_memory_bytes", "peak memory, MB", MB, "MB"),
}
"""Column of cells.parquet, title, scale and unit, by the name of the plot."""


def render_sweep(about: Mapping[str, Any], rows: Sequence[Row], views: Sequence[ModelView]) -> str:
    """The page as text, below 6 MB, to be written as UTF-8.

    `about` is plain data: sweep_id, axes (values by name), options, versions. `rows` are those of cells.parquet, in
    the order of the sweep; perplexity and rise are None where they are not finite. `views` are the models whose
    energies were measured.
    """
    done = finished(rows)
    results = _results(done, views) if done else {"cell_table": None, "data": {"figures": {}}}
    return from_template(
        "sweep.html.j2",
        title=", ".join(about["axes"]["models"]),
        about=about,
        cells=len(rows),
        failures=[_failure(row) for row in rows if row["error"] is not None],
        setting_rows=_settings(about),
        **results,
    )


def _results(rows: Sequence[Row], views: Sequence[ModelView]) -> dict[str, Any]:
    """What the finished cells found."""
    by_model = {f"sparsity-{number}": model for number, model in enumerate(values(rows, "model"))}
    perplexities = {name: plots.by_sparsity(_of_model(rows, model)) for name, model in by_model.items()}
    rises = {name: made for name, (_, draw) in RISES.items() if (made := draw(rows)) is not None}
    costs = {name: made for name, how in COSTS.items() if (made := plots.costs(rows, *how)) is not None}
    return {
        "tiles_shown": _tiles(rows),
        "first": fixed(rows)[0],
        "seeds": len(values(rows, "seed")),
        "as_large": list(dict.fromkeys(method_name(row) for row in rows if not _shrank(row))),
        "shown_sparsity": nearest_half(rows),
        "perplexity_plots": by_model,
        "rise_plots": {name: RISES[name][0] for name in rises},
        "cost_plots": list(costs),
        "models": views,
        "most_points": plots.MOST_POINTS,
        "gap_table": gap_table(views),
        "layer_tables": [layer_table(view) for view in views],
        "cell_table": cell_table(rows),
        "data": {"figures": perplexities | rises | costs | _channel_figures(views)},
    }


def _channel_figures(views: Sequence[ModelView]) -> dict[str, Any]:
    drawn = {"gap": plots.gap_scatter, "spectra": plots.spectra, "dropped": plots.dropped_energy}
    return {f"{name}-{number}": draw(view) for number, view in enumerate(views) for name, draw in drawn.items()}


def _of_model(rows: Sequence[Row], model: str) -> list[Row]:
    return [row for row in rows if row["model"] == model]


def _shrank(row: Row) -> bool:
    """Methods whose state stays as large as it was are no rivals in memory."""
    return row["state_bytes"] != row["state_bytes_dense"]


def _tiles(rows: Sequence[Row]) -> list[Tile]:
    """Dense and pruned perplexity of the best methods of each model, at the sparsity nearest to a half."""
    models = values(rows, "model")
    best = sorted(fixed(rows), key=lambda row: (models.index(row["model"]), finite_first(row)))
    first: dict[tuple[str, str], Row] = {}
    for row in best:
        first.setdefault((row["model"], method_name(row)), row)
    return [_tile(row, several=len(models) > 1) for row in list(first.values())[:MOST_TILES]]


def _tile(row: Row, *, several: bool) -> Tile:
    return Tile(
        label=f"{row['model']}: {method_name(row)}" if several else method_name(row),
        before=perplexity(row["perplexity_dense"]),
        after=perplexity(row["perplexity"]),
        detail=f"{percent_change(row['rise'], row['rise_stderr'])} at {percent(row['sparsity'])} sparsity{_but(row)}",
    )


def _but(row: Row) -> str:
    """What the figures of two tiles don't say: that they may as well be the same."""
    return f"; {NO_DIFFERENCE} from the best" if is_noise(row["over_best"], row["over_best_stderr"]) else ""


def _failure(row: Row) -> str:
    share = "" if row["sparsity"] is None else f" at {percent(row['sparsity'])}"
    return f"{row['model']}, {method_name(row)}{share}: {row['error']}"


def _settings(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    axes = {name.replace("_", " "): ", ".join(map(str, found)) for name, found in about["axes"].items()}
    options = {name.replace("_", " "): str(value) for name, value in about["options"].items()}
    return list((axes | options | {f"{name} version": found for name, found in about["versions"].items()}).items())
