"""The parts of a sweep's page about channels: the gap between norms and energies, and the layers one by one."""

from collections.abc import Sequence
from typing import Any

from ghost.report import sweep_plots as plots
from ghost.report.figures import percent
from ghost.report.shell import plot, section, text
from ghost.report.sweep_view import Channels, ModelView
from ghost.report.table import BLANK, Cell, sortable

PAPER = ("paper: Mamba2-1.3B, 50%", -0.19, None, None, 0.2066, 0.2064, 0.413)
"""GHOST, arXiv:2602.11408. Which pairs its correlation is over, the figures known to us do not say."""
HEADINGS = ("model", "Pearson, all", "Pearson of logs, all", "Pearson, in a layer", "phantom", "corporeal", "disagree")
WHAT = (
    "Each point is a state channel: what its weights promise (norm of its B row of in_proj times norm of its C row) "
    "against what it does on the calibration text (energy: mean over tokens of C² |H|²). Phantom channels would be "
    "kept by norm and dropped by energy, corporeal ones the reverse; both are shares of all channels, and equal by "
    "construction here, since in each group of each layer as many stay by either ranking."
)
CORRELATED = (
    "Pearson, all: correlation of norm product and energy over all channels of all layers. Of logs: of their decimal "
    "logarithms. In a layer: mean of the correlations within the layers, which a difference in scale between layers "
    "cannot move."
)
SPECTRA = (
    "Saliency (root of the energy) of each layer's channels from most to least salient, from the first layer (blue) to "
    "the last (orange)."
)
ONLY_SOME = f"The plots show at most {plots.MOST_POINTS:,} channels of a model, evenly spread; the figures are of all."


def gap_section(figures: dict[str, Any], views: Sequence[ModelView]) -> str:
    """Empty where no run measured energies."""
    if not views:
        return ""
    parts = []
    for number, view in enumerate(views):
        figures[f"gap-{number}"] = plots.gap_scatter(view)
        parts += [
            text(_where(view), "note"),
            plot(f"gap-{number}", f"norm against energy of the channels of {view.model}"),
        ]
    table = sortable("norms against energies, by model", HEADINGS, [*map(_gap_row, views), _row(*PAPER)])
    return section(
        "The proxy gap: norm against energy", text(WHAT), *parts, table, text(f"{CORRELATED} {ONLY_SOME}", "note")
    )


def _where(view: ModelView) -> str:
    order = "each layer behind the pruned layers before it" if view.sequential else "each layer in the dense model"
    return (
        f"{view.model}: energies as the run of {view.method} at {percent(view.sparsity)} sparsity measured them, "
        f"{order}; {view.kept} channels of a group stay."
    )


def _gap_row(view: ModelView) -> list[Cell]:
    gap = view.gap
    shares = gap.phantom, gap.corporeal, gap.disagreement
    return _row(f"{view.model}, {percent(view.sparsity)}", gap.pearson, view.log_pearson, view.layer_pearson, *shares)


def _row(name: str, *numbers: float | None) -> list[Cell]:
    correlations, shares = numbers[:3], numbers[3:]
    return [Cell(text=name), *(_cell(c, "{:+.2f}") for c in correlations), *(_cell(s, "{:.2%}") for s in shares)]


def _cell(value: float | None, form: str) -> Cell:
    return Cell(text=BLANK) if value is None else Cell(text=form.format(value).replace("-", "−"), value=value)


def layer_section(figures: dict[str, Any], number: int, view: ModelView) -> str:
    """One model's layers: spectra, dropped energy, kept channels."""
    figures[f"spectra-{number}"] = plots.spectra(view)
    figures[f"dropped-{number}"] = plots.dropped_energy(view)
    methods = list(view.layers[0].kept_gn)
    headings = ("layer", "kept", *(f"dropped by {method}" for method in methods), "phantom", "Pearson")
    rows = [_layer_row(view, channels, methods) for channels in view.layers]
    note = (
        f"Kept: channels that {view.method} keeps. Dropped: share of the layer's energy in the channels that a method "
        f"drops; energies are always those that {view.method} measured. A method whose selection is no list of "
        "channels is not here."
    )
    return section(
        f"{view.model}, layer by layer, at {percent(view.sparsity)} sparsity",
        text(SPECTRA),
        plot(f"spectra-{number}", f"saliency spectrum of each layer of {view.model}"),
        plot(f"dropped-{number}", f"share of energy dropped in each layer of {view.model}, by method"),
        sortable(f"layers of {view.model}", headings, rows), text(note, "note"),
    )  # fmt: skip


def _layer_row(view: ModelView, channels: Channels, methods: Sequence[str]) -> list[Cell]:
    kept_gn, gap = channels.kept_gn[view.method], channels.gap(view.kept)
    return [
        Cell(text=str(channels.layer), value=channels.layer),
        Cell(text=f"{int(kept_gn.sum()):,} / {kept_gn.size:,}", value=int(kept_gn.sum())),
        *(_cell(channels.dropped_energy(method), "{:.2%}") for method in methods),
        _cell(gap.phantom, "{:.2%}"),
        _cell(gap.pearson, "{:+.2f}"),
    ]
