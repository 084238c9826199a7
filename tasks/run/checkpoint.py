"""Export, evaluation and report: the tasks after the last layer. The first two have records, as layers have; a report
is made anew unless the whole run was finished."""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.client.schemas.objects import State
from safetensors import safe_open
from safetensors.torch import load

from artifacts.stages import read_stage, stage_key, write_stage
from ghost.calibration.tokens import load_tokenizer
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import EvaluationError
from ghost.evaluation.perplexity import PROTOCOL, Perplexity
from ghost.export import PROVENANCE, export
from ghost.library.build import pruned_layout
from ghost.mixer import Weights
from ghost.report.card import model_card
from ghost.report.layers import ENERGIES, NORMS, LayerView
from ghost.report.methods import unit
from ghost.report.page import render
from ghost.selection import Selection
from tasks import progress
from tasks.run.benchmarks import task_scores
from tasks.run.cost import note_peak
from tasks.run.dense_score import find_dense, keep_dense
from tasks.run.evaluation_process import Job
from tasks.run.layers import OPTIONS, energy_dropped, reference, timed
from tasks.run.open import Run, corpus_record, display_name
from tasks.tables import read_selection, read_statistics

STATE_ELEMENT_BYTES = 4
"""Runtimes keep the recurrent state in fp32, whatever the weights are."""
EXPORT, EVALUATION = "export", "evaluation"
RESULTS = "evaluation/results.json"
CARD = "README.md"
OF_THE_REPORT = (CARD, PROVENANCE)
"""Files of the checkpoint that hold figures, and so are written with the report."""


@task(name="export_checkpoint", task_run_name="export checkpoint", **OPTIONS)
def export_checkpoint(run: Run) -> State[Any]:
    """The pruned model as a transformers folder, to checkpoint/."""
    config = f"{run.keys.checkpoint}/config.json"
    chain = run.chain(run.source.layers)
    if run.was_finished or read_stage(run.store, run.keys, EXPORT, chain) is not None:
        return reference(config, run.store.sha256(config), cached=True)
    with timed(run, "export"):
        files = _export(run)
    write_stage(run.store, run.keys, EXPORT, chain, files)
    return reference(config, run.store.sha256(config))


def _export(run: Run) -> dict[str, str]:
    """Write the checkpoint to the store; the sha256 of each file, by its name in the run's folder."""
    digests, layout = {}, pruned_layout(run.source, _selections(run), run.settings)
    projected = layout.projected_from is not None
    with tempfile.TemporaryDirectory() as folder:
        stored = partial(_stored, run)
        export(run.source, stored, layout.d_state, Path(folder), provenance(run), projected=projected)
        if run.settings.tokenizer:
            load_tokenizer(run.tokenizer).save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            if path.name not in OF_THE_REPORT:
                digests[f"checkpoint/{path.name}"] = run.store.put_file(f"{run.keys.checkpoint}/{path.name}", path)
    return digests


def _stored(run: Run, layer: int) -> Weights:
    return load(run.store.get(run.keys.weights(layer)))


def _selections(run: Run) -> list[Selection]:
    return [read_selection(run.store, run.keys, layer) for layer in range(run.source.layers)]


def provenance(run: Run) -> dict[str, Any]:
    """What made this checkpoint, and which channels of the source it keeps; `ghost verify` reads it."""
    kept = [[group.nonzero().flatten().tolist() for group in selection.kept_gn] for selection in _selections(run)]
    made_from = {"model": display_name(run.settings.model), "run_id": run.keys.run_id}
    return {"ghost": made_from | {"determinants": run.determinants, "soft": run.settings.soft}, "kept_channels": kept}


@task(name="evaluate", task_run_name="evaluate dense and pruned", **OPTIONS)
def evaluate(run: Run) -> State[Any]:
    """Perplexity of the dense and the pruned model by the same code, sizes and tasks beside it, to
    evaluation/results.json."""
    key = run.keys.evaluation
    if run.was_finished:
        return reference(key, run.store.sha256(key), cached=True)
    chain = run.store.sha256(stage_key(run.keys, EXPORT))
    if (record := read_stage(run.store, run.keys, EVALUATION, chain)) is not None:
        progress.current().evaluated(2 * (len(run.evaluation_tokens) - 1))
        return reference(key, record.files[RESULTS], cached=True)
    with timed(run, "evaluate"):
        folder = checkpoint_folder(run)
        tasks, files = task_scores(run, folder, chain)
        results = json.dumps(_results(run, folder) | tasks, indent=2, ensure_ascii=False)
        digest = run.store.put(key, results.encode() + b"\n")
    note_peak(run)
    write_stage(run.store, run.keys, EVALUATION, chain, {RESULTS: digest} | files)
    return reference(key, digest)


def _results(run: Run, folder: Path) -> dict[str, Any]:
    pruned = open_checkpoint(folder)
    scores = _scores(run, pruned)
    layouts = {"dense": run.source.mixer_layout, "pruned": pruned.mixer_layout}
    layers, selections = run.source.layers, _selections(run)
    corpus = {"corpus": display_name(run.settings.evaluation), "window": run.settings.window}
    return {
        "perplexity": {name: score.perplexity for name, score in scores.items()},
        "nll": {name: score.nll for name, score in scores.items()},
        "state_bytes": {name: layers * layout.state_elements * STATE_ELEMENT_BYTES for name, layout in layouts.items()},
        "d_state": {name: layout.d_state for name, layout in layouts.items()},
        "parameters": {"dense": run.source.parameters, "pruned": pruned.parameters},
        "layers": layers,
        "channels": sum(s.kept_gn.numel() for s in selections),
        "kept_channels": sum(int(s.kept_gn.sum()) for s in selections),
        "evaluation": corpus | {"tokens": scores["dense"].tokens, "protocol": PROTOCOL},
    }


def _scores(run: Run, pruned: Checkpoint) -> dict[str, Perplexity]:
    """Of both; the dense one from the store, where another run on this text has left it."""
    if (dense := find_dense(run)) is not None:
        progress.current().evaluated(len(run.evaluation_tokens) - 1)
        return {"dense": dense} | _evaluated(run, {"pruned": pruned})
    scores = _evaluated(run, {"dense": run.source, "pruned": pruned})
    keep_dense(run, scores["dense"])
    return scores


def _evaluated(run: Run, models: dict[str, Checkpoint]) -> dict[str, Perplexity]:
    job = Job(
        models={name: str(model.folder) for name, model in models.items()},
        window=run.settings.window,
        device=str(run.backbone.device),
        dtype=str(run.backbone.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
    if run.backbone.device.type == "cuda":
        torch.cuda.empty_cache()  # the walk has let its memory go, but only this process could use it
    try:
        return run.evaluator(job, run.evaluation_tokens, run.settings.evaluation_timeout, progress.current().evaluated)
    except EvaluationError as error:
        raise EvaluationError(
            f"{error}; the pruned checkpoint is stored already, in {run.store.locate(run.keys.checkpoint)}: started "
            "again, the run takes it and the layers from there"
        ) from None


def checkpoint_folder(run: Run) -> Path:
    """The stored checkpoint as a local folder."""
    keys = run.store.list(f"{run.keys.checkpoint}/")
    return [run.store.fetch(key).parent for key in keys][-1]


def summarise(run: Run) -> dict[str, Any]:
    """Settings and results in one object of plain values, the same for the same inputs."""
    settings = run.settings
    fields = ("method", "sparsity", "policy", "soft", "sequential", "recovery", "energy")
    named = {"run_id": run.keys.run_id, "model": display_name(settings.model)}
    chosen = {name: getattr(settings, name) for name in fields} | {"calibration": corpus_record(run)}
    return named | chosen | json.loads(run.store.get(run.keys.evaluation))


@task(name="report", task_run_name="report", **OPTIONS)
def report(run: Run) -> State[Any]:
    """The page of the run to report/index.html; model card and figures into the checkpoint."""
    key = run.keys.report
    if run.was_finished:
        return reference(key, run.store.sha256(key), cached=True)
    summary = summarise(run)
    run.store.put(f"{run.keys.checkpoint}/{CARD}", model_card(summary).encode())
    figures = json.dumps(provenance(run) | {"figures": summary}, ensure_ascii=False).encode() + b"\n"
    run.store.put(f"{run.keys.checkpoint}/{PROVENANCE}", figures)
    page = render(summary, [_view(run, i) for i in range(run.source.layers)]).encode()
    return reference(key, run.store.put(key, page))


def _view(run: Run, layer: int) -> LayerView:
    selection, statistics = read_selection(run.store, run.keys, layer), read_statistics(run.store, run.keys, layer)
    of_channels = () if unit(run.settings.method) == "direction" else (*ENERGIES, *NORMS)
    found = {name: getattr(statistics, f"{name}_gn") for name in of_channels}
    return LayerView(
        layer=layer,
        saliency_gn=selection.saliency_gn.numpy(),
        kept_gn=selection.kept_gn.numpy(),
        energy_dropped=energy_dropped(statistics, selection),
        measured={name: tensor.numpy() for name, tensor in found.items() if tensor is not None},
        recovery=None if run.settings.recovery == "none" else _recovery(run, layer),
    )


def _recovery(run: Run, layer: int) -> str | None:
    """What recovery came to, as the pruned mixer's own file says."""
    with safe_open(run.store.fetch(run.keys.weights(layer)), "pt") as mixer:
        told = (mixer.metadata() or {}).get("recovery")
    return told and told.removeprefix("recovery ")
