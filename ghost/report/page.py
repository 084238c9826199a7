"""The summary page of a run: one HTML file that needs nothing else, the same bytes for the same input."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ghost.report.channels import whole_gap
from ghost.report.document import from_template
from ghost.report.figures import (
    Tile,
    change,
    change_of_perplexity,
    in_form,
    layers_with_state,
    megabytes,
    millions,
    percent_change,
    perplexity,
    setting_rows,
    what_went,
    with_error,
)
from ghost.report.layers import LayerView
from ghost.report.run_form import unit
from ghost.report.run_plots import channel_plots, kl_bars, layer_bars
from ghost.report.table import BLANK, Cell, Table, figure_cell
from ghost.report.verdict import headline, verdict

KL_HEADINGS = ("KL without recovery", "KL with it")
LAYER_HEADINGS = ("Layer", "Kept", "Energy dropped", "Smallest kept", "Largest dropped")
TASK_HEADINGS = ("Task", "Metric", "Documents", "Dense", "Pruned", "Loss")
SIDES = ("dense", "pruned")


def render(summary: Mapping[str, Any], layers: Sequence[LayerView]) -> str:
    """The page as text, below 6 MB (4.8 of them plotly's own JavaScript), to be written as UTF-8.

    `summary` is plain data: run_id, model, method, sparsity, policy, soft, sequential, calibration {corpus, samples,
    length, seed}, evaluation {corpus, window, tokens, protocol}, layers (those with a state), kept_channels, channels,
    and as {dense, pruned}: perplexity (None where it is not finite), state_bytes per sequence, d_state, parameters. It
    may have `nll_change_stderr`, the standard error of the change in nats a token, `decoder_layers`, all of them,
    `layer_kinds`, how many there are of each kind, `recovery`, `warnings` as plain sentences, `tasks` as in
    evaluation/results.json, and `rows` of recall as `ghost eval` makes them. `layers` is
    in the order of the model and not empty.
    """
    what = unit(summary)
    bars = _bars(layers, what)
    figures = {name: layer_bars(layers, values, label) for name, (label, values) in bars.items()}
    about_run = {
        "summary": summary,
        "unit": what,
        "what_went": what_went(summary),
        "layers_with_state": layers_with_state(summary),
        "warnings": summary.get("warnings", []),
        "headline": headline(summary),
        "verdict": verdict(summary),
        "tiles_shown": _tiles(summary),
        "task_table": _task_table(summary.get("tasks")),
        "setting_rows": setting_rows(summary),
        "data": {"figures": figures | kl_bars(layers)} | channel_plots(layers, what),
        "perplexities": [perplexity(summary["perplexity"][side]) for side in SIDES],
    }
    return from_template(
        "run.html.j2", bars={name: label for name, (label, _) in bars.items()}, **about_run, **_about_layers(layers)
    )


def _about_layers(layers: Sequence[LayerView]) -> dict[str, Any]:
    numbers = {str(at): view.layer for at, view in enumerate(layers)}
    return {
        "groups": max(len(view.saliency_gn) for view in layers),
        "below": sum(int(view.below_floor_gn.sum()) for view in layers),
        "dead": f"{sum(int((view.saliency_gn <= 0).sum()) for view in layers):,}",
        "gap": whole_gap(layers),
        "layer_options": numbers,
        "gap_options": {"all": "all layers"} | {at: f"layer {number}" for at, number in numbers.items()},
        "layer_table": _layer_table(layers),
        "recovered": any(view.recovery for view in layers),
    }


def _tiles(summary: Mapping[str, Any]) -> list[Tile]:
    channels = f"{summary['channels']:,}", f"{summary['kept_channels']:,}"
    state_size = f"state size {summary['d_state']['dense']} → {summary['d_state']['pruned']}"
    return [
        replace(_tile("Perplexity", summary["perplexity"], perplexity), detail=change_of_perplexity(summary)),
        _tile("State per sequence, MB", summary["state_bytes"], megabytes),
        Tile(label=f"Kept {unit(summary)}s", before=channels[0], after=channels[1], detail=state_size),
        _tile("Parameters", summary["parameters"], millions),
    ]


def _tile(label: str, pair: Mapping[str, Any], words: Callable[[Any], str]) -> Tile:
    return Tile(label=label, before=words(pair["dense"]), after=words(pair["pruned"]), detail=change(pair))


def _bars(layers: Sequence[LayerView], unit: str) -> dict[str, tuple[str, list[float]]]:
    """What went with each layer: label and shares, by the name of the plot."""
    energies = [view.energy_dropped for view in layers if view.energy_dropped is not None]
    kept = [float(view.kept_gn.mean()) for view in layers]
    energy = {"energy-bars": ("energy dropped", energies)} if len(energies) == len(layers) else {}
    return energy | {"kept-bars": (f"{unit}s kept", kept)}


def _layer_table(layers: Sequence[LayerView]) -> Table:
    """One row per layer."""
    more: dict[str, Callable[[LayerView], Cell]] = {}
    if any(view.recovery for view in layers):
        more["Recovery"] = lambda view: Cell(text=view.recovery or BLANK)
    if any(view.kl for view in layers):
        more |= {heading: partial(_kl_cell, at) for at, heading in enumerate(KL_HEADINGS)}
    rows = [[*_layer_row(view), *(cell(view) for cell in more.values())] for view in layers]
    return Table(caption="Layers; the headings sort", headings=[*LAYER_HEADINGS, *more], rows=rows)


def _kl_cell(at: int, view: LayerView) -> Cell:
    if view.kl is None:
        return Cell(text=BLANK)
    return figure_cell(view.kl[at], in_form(view.kl[at], "{:.4f}"))


def _layer_row(view: LayerView) -> list[Cell]:
    kept, dropped = view.saliency_gn[view.kept_gn], view.saliency_gn[~view.kept_gn]
    energy = view.energy_dropped
    return [
        Cell(text=str(view.layer), value=view.layer),
        Cell(text=f"{kept.size:,} / {view.saliency_gn.size:,}", value=kept.size),
        Cell(text=BLANK if energy is None else f"{energy * 100:.3f}%", value=energy),
        _extreme(kept, np.min),
        _extreme(dropped, np.max),
    ]


def _extreme(values: np.ndarray, pick: Callable[[np.ndarray], np.floating]) -> Cell:
    if not values.size:
        return Cell(text=BLANK)
    value = float(pick(values))
    return Cell(text=f"{value:#.4g}".rstrip("."), value=value)


def _task_table(tasks: Mapping[str, Any] | None) -> Table | None:
    """What lm-eval found, where the run evaluated tasks; `tasks` as in evaluation/results.json."""
    if not tasks:
        return None
    rows = [_task_row(score) for score in tasks["scores"]]
    return Table(caption="Tasks; the headings sort", headings=TASK_HEADINGS, rows=rows)


def _task_row(score: Mapping[str, Any]) -> list[Cell]:
    return [
        Cell(text=score["task"]),
        Cell(text=score["metric"]),
        Cell(text=str(score["samples"]), value=score["samples"]),
        *(figure_cell(score["value"][side], with_error(score["value"][side], score["stderr"][side])) for side in SIDES),
        figure_cell(score["loss"], percent_change(score["loss"], score.get("loss_stderr"))),
    ]
