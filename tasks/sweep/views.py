"""The channels of each model as its most telling run saw them, for the page."""

from collections.abc import Iterator, Sequence
from typing import Any

from artifacts.store import Store
from ghost.report.sweep_view import Channels, ModelView
from ghost.saliency import form_of
from tasks.sweep.outcome import Outcome

CHOSEN_SPARSITY = 0.5
"""The paper gives its proxy gap at half of the channels; the nearest sparsity of the sweep is shown."""
FIRST = "ghost"


def model_views(store: Store, outcomes: Sequence[Outcome], rows: Sequence[dict[str, Any]]) -> list[ModelView]:
    """A view for each model that a run has measured the energies of, in the order of the sweep.

    Taken from the run nearest to CHOSEN_SPARSITY, of `ghost` if it is there; the other methods' selections are those
    of the same sparsity and settings.
    """
    done = [outcome for outcome, row in zip(outcomes, rows, strict=True) if row["error"] is None]
    views = []
    for label in dict.fromkeys(outcome.cell.label for outcome in done):
        of_model = [outcome for outcome in done if outcome.cell.label == label and _ranks(outcome)]
        for outcome in sorted(of_model, key=_preference):
            if (view := _view(store, outcome, _companions(outcome, of_model))) is not None:
                views.append(view)
                break
    return views


def _preference(outcome: Outcome) -> tuple[float, bool]:
    settings = outcome.cell.settings
    return abs(settings.sparsity - CHOSEN_SPARSITY), settings.method != FIRST


def _companions(outcome: Outcome, others: Sequence[Outcome]) -> list[Outcome]:
    """The runs that differ from this one in their method alone, itself among them."""
    method = {"method": outcome.cell.settings.method}
    return [o for o in others if o.cell.settings.model_copy(update=method) == outcome.cell.settings and _ranks(o)]


def _ranks(outcome: Outcome) -> bool:
    """Its selection is about channels of the dense model, not about directions, whole layers or single weights."""
    settings = outcome.cell.settings
    return form_of(settings.method, soft=settings.soft).ranks_channels


def _view(store: Store, outcome: Outcome, companions: Sequence[Outcome]) -> ModelView | None:
    """None where the run's method measures no energy."""
    settings, layers = outcome.cell.settings, list(_layers(store, outcome, companions))
    if not layers:
        return None
    kept_gn = [view.kept_gn[settings.method] for view in layers]
    return ModelView(
        model=outcome.cell.label,
        method=settings.method,
        sparsity=settings.sparsity,
        sequential=settings.sequential,
        kept=round(sum(k.sum() for k in kept_gn) / sum(len(k) for k in kept_gn)),
        layers=tuple(layers),
    )


def _layers(store: Store, outcome: Outcome, companions: Sequence[Outcome]) -> Iterator[Channels]:
    run = outcome.run(store)
    others = {other.cell.settings.method: other.run(store) for other in companions}
    for layer in run.layers:
        statistics = run.statistics(layer)
        if statistics.energy_gn is None:
            return
        yield Channels(
            layer=layer,
            norm_gn=(statistics.norm_b_gn * statistics.norm_c_gn).numpy(),
            energy_gn=statistics.energy_gn.numpy(),
            kept_gn={method: other.selection(layer).kept_gn.numpy() for method, other in others.items()},
        )
