"""The tables of a sweep's page: its cells, the gap between norms and energies by model, and each model's layers."""

from collections.abc import Sequence

from ghost.report.figures import megabytes, percent, percent_change, perplexity, signed
from ghost.report.sweep_rows import Row, method_name, values
from ghost.report.sweep_view import Channels, ModelView
from ghost.report.table import BLANK, Cell, Table, figure_cell

VARIED = ("model", "sparsity", "window", "calibration_length", "seed")
"""Columns that are shown only where they differ from cell to cell."""
PAPER = ("paper: Mamba2-1.3B, 50%", -0.19, None, None, 0.2066, 0.2064, 0.413)
"""GHOST, arXiv:2602.11408. Which pairs its correlation is over, the figures known to us do not say."""
GAP_HEADINGS = (
    "model", "Pearson, all", "Pearson of logs, all", "Pearson, in a layer", "phantom", "corporeal", "disagree",
)  # fmt: skip
MB = 1e6


def cell_table(rows: Sequence[Row]) -> Table:
    """A row for each finished cell."""
    same = {name for name in VARIED if len(values(rows, name)) == 1}
    shown = [{name: cell for name, cell in _cell_row(row).items() if name not in same} for row in rows]
    headings = [name.replace("calibration_length", "calibration") for name in shown[0]]
    return Table(caption="every cell of the sweep", headings=headings, rows=[list(row.values()) for row in shown])


def _cell_row(row: Row) -> dict[str, Cell]:
    """Cells by heading."""
    peak = row["peak_memory_bytes"]
    counts = ("window", "calibration_length", "seed", "kept", "d_state")
    return {
        "method": Cell(text=method_name(row)),
        "model": Cell(text=row["model"]),
        "sparsity": Cell(text=percent(row["sparsity"]), value=row["sparsity"]),
        **{name: Cell(text=f"{row[name]:,}", value=row[name]) for name in counts},
        "perplexity": figure_cell(row["perplexity"], perplexity(row["perplexity"])),
        "rise": figure_cell(row["rise"], percent_change(row["rise"], row["rise_stderr"])),
        "over the best": _over_best(row),
        "state, MB": Cell(text=megabytes(row["state_bytes"]), value=row["state_bytes"]),
        "seconds": Cell(text=f"{row['seconds']:,.1f}", value=row["seconds"]),
        "peak, MB": figure_cell(peak, BLANK if peak is None else f"{peak / MB:,.0f}"),
        "run": Cell(text=row["run_id"][:8]),
    }


def _over_best(row: Row) -> Cell:
    share = row["over_best"]
    return figure_cell(share, BLANK if share is None else percent_change(share, row["over_best_stderr"]))


def gap_table(views: Sequence[ModelView]) -> Table:
    """A row for each model, and the paper's."""
    rows = [*map(_gap_row, views), _correlations_and_shares(*PAPER)]
    return Table(caption="norms against energies, by model", headings=GAP_HEADINGS, rows=rows)


def _gap_row(view: ModelView) -> list[Cell]:
    gap = view.gap
    name, shares = f"{view.model}, {percent(view.sparsity)}", (gap.phantom, gap.corporeal, gap.disagreement)
    return _correlations_and_shares(name, gap.pearson, view.log_pearson, view.layer_pearson, *shares)


def _correlations_and_shares(name: str, *numbers: float | None) -> list[Cell]:
    return [Cell(text=name), *map(_correlation, numbers[:3]), *map(_share, numbers[3:])]


def layer_table(view: ModelView) -> Table:
    """A row for each layer, a column for each method that chose among its channels."""
    methods = list(view.layers[0].kept_gn)
    headings = ("layer", "kept", *(f"dropped by {method}" for method in methods), "phantom", "Pearson")
    rows = [_layer_row(view, channels, methods) for channels in view.layers]
    return Table(caption=f"layers of {view.model}", headings=headings, rows=rows)


def _layer_row(view: ModelView, channels: Channels, methods: Sequence[str]) -> list[Cell]:
    kept_gn, gap = channels.kept_gn[view.method], channels.gap(view.kept)
    return [
        Cell(text=str(channels.layer), value=channels.layer),
        Cell(text=f"{int(kept_gn.sum()):,} / {kept_gn.size:,}", value=int(kept_gn.sum())),
        *(_share(channels.dropped_energy(method)) for method in methods),
        _share(gap.phantom),
        _correlation(gap.pearson),
    ]


def _correlation(value: float | None) -> Cell:
    return figure_cell(value, BLANK if value is None else signed(value, "+.2f"))


def _share(value: float | None) -> Cell:
    return figure_cell(value, BLANK if value is None else f"{value:.2%}")
