"""Between ghost's tensors and the artifact tables of a layer."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from ghost.recovery.recover import NONE
from ghost.report.paired_runs import Figure, Sampled
from ghost.saliency import LayerStatistics
from ghost.selection import Selection

MEASURED = ("controllability", "observability", "energy", "gradient", "fisher", "rank")
FIGURE = ("part", "case", "metric")
MATRICES = ("coupling", "controllability_gramian", "observability_gramian")


def statistics_columns(layer: int, statistics: LayerStatistics) -> dict[str, Any]:
    """Columns of stats.parquet, one row per channel; null where the method does not measure them."""
    rows = statistics.norm_b_gn.numel()
    measured = {name: getattr(statistics, f"{name}_gn") for name in MEASURED}
    return (
        _positions(layer, statistics.norm_b_gn)
        | {name: pa.nulls(rows, pa.float64()) if t is None else t.flatten().numpy() for name, t in measured.items()}
        | {name: _lists(getattr(statistics, f"{name}_gnn"), rows) for name in MATRICES}
        | {"norm_b": statistics.norm_b_gn.flatten().numpy(), "norm_c": statistics.norm_c_gn.flatten().numpy()}
        | {"tokens": [statistics.tokens] * rows}
    )


def statistics_from(table: pa.Table) -> LayerStatistics:
    """What `statistics_columns` was given."""
    norms = LayerStatistics(_grid(table, "norm_b"), _grid(table, "norm_c"))
    measured = {f"{name}_gn": None if table[name].null_count else _grid(table, name) for name in MEASURED}
    matrices = {f"{name}_gnn": _matrices(table, name) for name in MATRICES}
    return replace(norms, **measured, **matrices, tokens=table["tokens"][0].as_py())


def _lists(matrices_gnn: Tensor | None, rows: int) -> pa.Array:
    """One row of a matrix per channel."""
    if matrices_gnn is None:
        return pa.nulls(rows, pa.list_(pa.float64()))
    offsets = range(0, matrices_gnn.numel() + 1, matrices_gnn.shape[-1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), matrices_gnn.flatten().numpy())


def _matrices(table: pa.Table, column: str) -> Tensor | None:
    if table[column].null_count:
        return None
    groups = table["group"][-1].as_py() + 1
    values = table[column].combine_chunks().flatten().to_numpy()
    return torch.from_numpy(values.copy()).reshape(groups, table.num_rows // groups, -1)


def selection_columns(layer: int, selection: Selection) -> dict[str, Any]:
    """Columns of selection.parquet, one row per channel."""
    scored = {"saliency": selection.saliency_gn.flatten().numpy(), "kept": selection.kept_gn.flatten().numpy()}
    return _positions(layer, selection.saliency_gn) | scored


def selection_from(table: pa.Table) -> Selection:
    """What `selection_columns` was given."""
    return Selection(_grid(table, "saliency"), _grid(table, "kept"))


def samples_from(table: pa.Table, seen: Mapping[str, Mapping[str, Any]]) -> dict[Figure, Sampled]:
    """The pruned model's samples by figure; `seen` says by part what another run must have been given to have the
    same."""
    values = table["pruned"].to_numpy(zero_copy_only=False)  # null where it is not finite: nan
    sizes = table["tokens"].to_numpy()
    found, start = dict[Figure, Sampled](), 0
    for figure, group in groupby(zip(*(table[name].to_pylist() for name in FIGURE), strict=True)):
        rows = slice(start, start := start + sum(1 for _ in group))
        found[figure] = Sampled(values=values[rows], sizes=sizes[rows], seen=seen.get(figure[0], {}))
    return found


def recovery_of(
    note: str | None, figures: Mapping[str, Any] | None
) -> tuple[str | None, tuple[float | None, float | None] | None]:
    """What recovery chose for a layer, and the held-back KL without it and with it, by the layer's record; both None
    where there was none, and a line in place of the figures in records of before they were kept."""
    if figures is None:
        return note and note.removeprefix("recovery "), None
    chosen, kl = figures["recovery"], figures["kl"]
    return chosen, (kl[NONE], kl[chosen])


def token_columns(tokens_bl: Tensor) -> dict[str, Any]:
    """Columns of tokens.parquet, one row per calibration window."""
    return {"sample": range(len(tokens_bl)), "tokens": list(tokens_bl.numpy())}


def _positions(layer: int, like_gn: Tensor) -> dict[str, Any]:
    groups, channels = like_gn.shape
    return {
        "layer": [layer] * (groups * channels),
        "group": torch.arange(groups).repeat_interleave(channels).numpy(),
        "channel": torch.arange(channels).repeat(groups).numpy(),
    }


def _grid(table: pa.Table, column: str) -> Tensor:
    groups = table["group"][-1].as_py() + 1
    return torch.from_numpy(table[column].to_numpy().copy()).reshape(groups, -1)
