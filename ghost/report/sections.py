"""The sections of a run's page that are about its layers and channels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ghost.report.channels import whole_gap
from ghost.report.figures import in_form, percent, plural, signed_percent
from ghost.report.layers import FLOOR, LayerView
from ghost.report.looks import NAMES
from ghost.report.plot import layer_bars
from ghost.report.shell import plot, section, select, text
from ghost.report.table import BLANK, Cell, sortable

ENERGY_BARS, KEPT_BARS = "energy-bars", "kept-bars"


def spectrum(layers: Sequence[LayerView], unit: str) -> str:
    """Saliency of every channel, a line for each layer."""
    words = (
        f"One line for each layer: its {unit}s from most to least salient, as shares of the layer's largest. Strong "
        "lines are kept, faint ones dropped. Click a line to see its layer below."
    )
    if any(len(view.saliency_gn) > 1 for view in layers):
        words += f" A dropped {unit} of one group may lie above a kept one of another."
    shown = plot("spectrum", f"Line plot: saliency of each {unit} by rank, a line for each layer")
    return section(f"Saliency of every {unit}", text(words), shown, text(_floor_note(layers, unit), "note"))


def _floor_note(layers: Sequence[LayerView], unit: str) -> str:
    dead = sum(int((view.saliency_gn <= 0).sum()) for view in layers)
    below = sum(int(view.below_floor_gn.sum()) for view in layers)
    if not below:
        return ""
    return (
        f"{plural(below, unit)} below {percent(FLOOR)} of the largest in the layer, {dead:,} dead (saliency 0). "
        "A log scale has no place for them: they are the crosses at the foot of the plot."
    )


def one_layer(layers: Sequence[LayerView], unit: str) -> str:
    """Every figure of every channel of a layer that the reader picks."""
    names = {name: words for name, words in NAMES.items() if all(_has(view, name) for view in layers)}
    picks = select("pick-layer", "Layer", {str(at): str(view.layer) for at, view in enumerate(layers)})
    words = f"Point at or tap a {unit} to see all that was measured of it."
    return section(
        "One layer", text(words), f'<p class="picks">{picks} {select("pick-figure", "Show", names)}</p>',
        plot("channels", f"Scatter plot: the chosen figure of each {unit} of the chosen layer by rank of saliency"),
    )  # fmt: skip


def _has(view: LayerView, name: str) -> bool:
    return name == "saliency" or name in view.measured or (name == "norm" and view.norm_gn is not None)


def gap(layers: Sequence[LayerView]) -> str:
    """Static norms against dynamic energy; nothing where the method measures no energy."""
    found = whole_gap(layers)
    if found is None:
        return ""
    correlation = "not defined" if found.pearson is None else f"{found.pearson:.2f}".replace("-", "−")
    words = (
        "The norms of a channel's weights (B row times C row) are what a method without data goes by; the energy is "
        f"what the channel did on the calibration text. Over all channels their correlation is {correlation}. Had the "
        f"norms chosen, {percent(found.phantom)} of all channels would have stayed in place of as many of more energy "
        f"(phantom), and those would have gone ({percent(found.corporeal)}, corporeal): norms and energy disagree on "
        f"{percent(found.disagreement)}. GHOST's paper reports −0.19 and 41.3% for half of Mamba2-1.3B's channels."
    )
    options = {"all": "all layers"} | {str(at): f"layer {view.layer}" for at, view in enumerate(layers)}
    pick = f'<p class="picks">{select("pick-gap", "Show", options)}</p>'
    shown = plot("gap", "Scatter plot: norm of each channel's weights against its energy")
    return section("Static norm against dynamic energy", text(words), pick, shown)


def bars(layers: Sequence[LayerView], unit: str) -> str:
    """What went with each layer."""
    parts = [plot(name, f"Bar chart by layer: {label}") for name, (label, _) in _bar_values(layers, unit).items()]
    return section("What went, by layer", f'<div class="pair">{"".join(parts)}</div>')


def bar_figures(layers: Sequence[LayerView], unit: str) -> dict[str, Any]:
    """The plots of `bars`, by name."""
    return {
        name: layer_bars(layers, values, label, f"%{{y:.3%}} of its {label}")
        for name, (label, values) in _bar_values(layers, unit).items()
    }


def _bar_values(layers: Sequence[LayerView], unit: str) -> dict[str, tuple[str, list[float]]]:
    energies = [view.energy_dropped for view in layers]
    kept = [float(view.kept_gn.mean()) for view in layers]
    measured = [energy for energy in energies if energy is not None]
    energy = {ENERGY_BARS: ("energy dropped", measured)} if len(measured) == len(layers) else {}
    return energy | {KEPT_BARS: (f"{unit}s kept", kept)}


def layer_table(layers: Sequence[LayerView], unit: str) -> str:
    """One row per layer."""
    headings = ["Layer", "Kept", "Energy dropped", "Smallest kept", "Largest dropped"]
    recovered = any(view.recovery for view in layers)
    rows = [[*_row(view), *([Cell(text=view.recovery or BLANK)] if recovered else [])] for view in layers]
    note = (
        f"Energy dropped: share of the layer's energy that went with the dropped {unit}s, {BLANK} where the method "
        "measures no energy. Smallest kept and largest dropped: saliency on either side of the cut."
    )
    if recovered:
        note += " Recovery: what was chosen on calibration windows held back, by its loss in nats per token."
    table = sortable("Layers; the headings sort", headings + ["Recovery"] * recovered, rows)
    return section("Layers", table, text(note, "note"))


def _row(view: LayerView) -> list[Cell]:
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


def task_table(tasks: Mapping[str, Any] | None) -> str:
    """What lm-eval found, where the run evaluated tasks; `tasks` as in evaluation/results.json."""
    if not tasks:
        return ""
    headings = ["Task", "Metric", "Documents", "Dense", "Pruned", "Loss"]
    rows = [_task_row(score) for score in tasks["scores"]]
    note = (
        "Loss: the fall of a metric that should be high, or the rise of one that should be low as a share of the dense "
        f"value. By {tasks['protocol']}; seed {tasks['seed']}."
    )
    return section("Tasks", sortable("Tasks; the headings sort", headings, rows), text(note, "note"))


def _task_row(score: Mapping[str, Any]) -> list[Cell]:
    figures = [score["value"][name] for name in ("dense", "pruned")]
    errors = [score["stderr"][name] for name in ("dense", "pruned")]
    return [
        Cell(text=score["task"]),
        Cell(text=score["metric"]),
        Cell(text=str(score["samples"]), value=score["samples"]),
        *(
            Cell(text=in_form(value, "{:.4g}") + (f" ± {error:.2g}" if error is not None else ""), value=value)
            for value, error in zip(figures, errors, strict=True)
        ),
        Cell(text=signed_percent(score["loss"]), value=score["loss"]),
    ]
