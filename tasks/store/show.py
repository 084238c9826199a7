"""A run's layers, as rows for a terminal."""

from typing import Any

import torch

from artifacts.errors import MissingArtifact
from ghost.report.figures import in_form
from tasks.stored_run import StoredRun, find_run, open_existing
from tasks.tables import recovery_of
from tasks.wording import extreme


def layer_rows(store: str, run_id: str) -> tuple[str, list[dict[str, Any]]]:
    """A title, and one row per finished layer of the run whose id starts with `run_id`."""
    run = find_run(open_existing(store), run_id)
    if not run.layers:
        raise MissingArtifact(f"run {run.keys.run_id} has no finished layer yet; start it again to continue")
    state = "finished" if run.finished else "not finished"
    return f"run {run.keys.run_id}, {state}", [_row(run, layer) for layer in run.layers]


def _row(run: StoredRun, layer: int) -> dict[str, Any]:
    selection = run.selection(layer)
    saliency_gn, kept_gn = selection.saliency_gn, selection.kept_gn
    dropped = run.statistics(layer).energy_dropped(kept_gn)
    recovery, kl = recovery_of(*run.said_of(layer))
    recovered = {"recovery": recovery} if recovery else {}
    if kl is not None:
        recovered |= {"KL without": in_form(kl[0], "{:.4f}"), "KL with": in_form(kl[1], "{:.4f}")}
    return {
        "layer": layer,
        "kept": f"{int(kept_gn.sum())} of {kept_gn.numel()}",
        "energy dropped": "-" if dropped is None else f"{dropped:.3%}",
        "least kept saliency": extreme(saliency_gn[kept_gn], torch.min),
        "most dropped saliency": extreme(saliency_gn[~kept_gn], torch.max),
    } | recovered
