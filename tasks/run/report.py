"""The report: the page of the run; model card and figures into the checkpoint. Made anew unless the manifest lists it
beside the very figures and layers that it is made from."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from artifacts.claims import holds
from artifacts.manifest import read_manifest
from ghost.export import PROVENANCE
from ghost.pruning import Pruning
from ghost.report.card import SIZES, model_card
from ghost.report.layers import ENERGIES, NORMS, LayerView
from ghost.report.page import render
from tasks.run.evaluation import Evaluated
from tasks.run.export import CARD, provenance
from tasks.run.layers import OPTIONS, PrunedLayer, ended
from tasks.run.open import Run, corpus_record
from tasks.run.serving import served_family
from tasks.tables import recovery_of
from tasks.wording import display_name


@task(name="report", task_run_name="report", **OPTIONS)
def report(run: Run, layers: Sequence[PrunedLayer], evaluated: Evaluated) -> State[Mapping[str, str]]:
    """The page to report/index.html, model card and ghost.json into checkpoint/. Their digests by key."""
    key = run.keys.report
    keys = (key, f"{run.keys.checkpoint}/{CARD}", f"{run.keys.checkpoint}/{PROVENANCE}")
    if (made := _made_before(run, keys, layers, evaluated)) is not None:
        return ended(made, key, cached=True)
    summary = summarise(run, evaluated)
    page = render(summary, [_view(run, layer) for layer in layers])
    figures = json.dumps(provenance(run, layers) | {"figures": summary}, ensure_ascii=False) + "\n"
    texts = zip(keys, (page, model_card(summary), figures), strict=True)
    return ended({key: run.store.put(key, text.encode()) for key, text in texts}, key)


def _made_before(
    run: Run, keys: Sequence[str], layers: Sequence[PrunedLayer], evaluated: Evaluated
) -> Mapping[str, str] | None:
    """The digests of what the manifest lists under these keys, if all of it is there and made from these inputs."""
    listed = read_manifest(run.store, run.keys) or {}
    inputs = {run.pruning.layer(layer.record.layer): layer.record.digest for layer in layers}
    inputs[run.keys.stage("evaluation")] = evaluated.record.digest
    made = {key: listed.get(key, "") for key in keys}
    current = all(listed.get(key) == digest for key, digest in inputs.items())
    return made if current and all(holds(run.store, key, digest) for key, digest in made.items()) else None


def summarise(run: Run, evaluated: Evaluated) -> dict[str, Any]:
    """Settings and results in one object of plain values, the same for the same inputs."""
    named = {"run_id": run.keys.run_id, "model": display_name(run.settings.model), "format": run.settings.format}
    shared = {"calibration": corpus_record(run), "mixer": _mixer(run)}
    return named | run.settings.part(Pruning).digested() | shared | evaluated.results


def _mixer(run: Run) -> dict[str, Any]:
    """What the card needs of a mixer's shape, to say which runtimes take the pruned one."""
    sizes = {name: getattr(run.source.mixer_layout, name) for name in SIZES}
    positions = getattr(run.source.config, "max_position_embeddings", None)
    return {"family": served_family(run), "positions": positions} | sizes


def _view(run: Run, layer: PrunedLayer) -> LayerView:
    of_channels = () if run.walk.form.turns else (*ENERGIES, *NORMS)
    recovery, kl = recovery_of(layer.record.note, layer.record.figures)
    found = {name: getattr(layer.statistics, f"{name}_gn") for name in of_channels}
    return LayerView(
        layer=layer.record.layer,
        saliency_gn=layer.selection.saliency_gn.numpy(),
        kept_gn=layer.selection.kept_gn.numpy(),
        energy_dropped=layer.statistics.energy_dropped(layer.selection.kept_gn),
        measured={name: tensor.numpy() for name, tensor in found.items() if tensor is not None},
        recovery=recovery,
        kl=kl,
    )
