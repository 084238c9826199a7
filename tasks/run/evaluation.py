"""Evaluation: perplexity of the dense and the pruned model by the same code, sizes and benchmarks beside it."""

import json
from collections.abc import Mapping, Sequence
from itertools import chain as joined
from typing import Any

import torch
from prefect import task
from prefect.client.schemas.objects import State

from artifacts.stages import StageRecord, read_stage, write_stage
from ghost.checkpoint.families import layer_kinds
from ghost.checkpoint.sizes import state_bytes
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import EvaluationError
from ghost.evaluation.perplexity import PROTOCOL
from ghost.evaluation.recall import recall_rows
from tasks.run.benchmarks import benchmark_scores
from tasks.run.cost import note_peak
from tasks.run.dense_score import find_dense, keep_dense
from tasks.run.evaluation_process import Job, Measured
from tasks.run.export import Exported
from tasks.run.layers import OPTIONS, PrunedLayer, ended, timed
from tasks.run.open import Run
from tasks.run.samples import prompt_rows, samples_table, window_rows
from tasks.wording import display_name

STAGE = "evaluation"
RESULTS, SAMPLES = "evaluation/results.json", "evaluation/samples.parquet"


class Evaluated:
    """The figures of a run, and the record that vouches for them. Prefect must not look inside."""

    def __init__(self, record: StageRecord, results: dict[str, Any]) -> None:
        self.record, self.results = record, results


@task(name="evaluate", task_run_name="evaluate dense and pruned", **OPTIONS)
def evaluate(run: Run, layers: Sequence[PrunedLayer], exported: Exported) -> State[Evaluated]:
    """Both models' figures to evaluation/results.json, and what they are means of beside it."""
    key, chain = run.keys.evaluation, exported.record.digest
    if (record := read_stage(run.store, run.keys, STAGE, chain)) is not None:
        results = json.loads(run.store.get(key, record.files[RESULTS]))
        return ended(Evaluated(record, results), key, cached=True)
    note_peak(run)
    with timed(run, run.keys.timings, STAGE):
        folder = exported.folder(run)
        benchmarks, files = benchmark_scores(run, folder, chain)
        pruned = open_checkpoint(folder)
        measured = _measured(run, pruned)
        results = _results(run, layers, pruned, measured) | benchmarks
        text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
        samples = samples_table(joined(window_rows(measured.perplexities), prompt_rows(measured.recall)))
        files = files | {
            RESULTS: run.store.put(key, text.encode() + b"\n"),
            SAMPLES: run.store.put(run.keys.samples, samples),
        }
    record = write_stage(run.store, run.keys, STAGE, chain, files)
    return ended(Evaluated(record, results), key)


def _results(run: Run, layers: Sequence[PrunedLayer], pruned: Checkpoint, measured: Measured) -> dict[str, Any]:
    scores = measured.perplexities
    plain = {name: score.as_dict() for name, score in scores.items()}
    layouts = {"dense": run.source.mixer_layout, "pruned": pruned.mixer_layout}
    corpus = {"corpus": display_name(run.settings.evaluation), "window": run.settings.window}
    return {
        **{figure: {name: values[figure] for name, values in plain.items()} for figure in ("perplexity", "nll")},
        "nll_change_stderr": scores["dense"].error_of_change(scores["pruned"]),
        "state_bytes": {name: state_bytes(layout, len(layers)) for name, layout in layouts.items()},
        "d_state": {name: layout.d_state for name, layout in layouts.items()},
        "parameters": {"dense": run.source.parameters, "pruned": pruned.parameters},
        "layers": len(layers),
        "decoder_layers": run.source.layers,
        "layer_kinds": layer_kinds(run.source.config),
        "channels": sum(layer.selection.kept_gn.numel() for layer in layers),
        "kept_channels": sum(int(layer.selection.kept_gn.sum()) for layer in layers),
        "evaluation": corpus | {"tokens": scores["dense"].tokens, "protocol": PROTOCOL},
        "warnings": run.warnings,
        "rows": list(recall_rows(measured.recall)),
    }


def _measured(run: Run, pruned: Checkpoint) -> Measured:
    """Of both; the dense perplexity from the store, where another run on this text has left it."""
    both = {"dense": run.source, "pruned": pruned}
    if (dense := find_dense(run)) is not None:
        found = _evaluated(run, {"pruned": pruned}, both)
        return found._replace(perplexities={"dense": dense} | found.perplexities)
    found = _evaluated(run, both, both)
    keep_dense(run, found.perplexities["dense"])
    return found


def _evaluated(run: Run, models: Mapping[str, Checkpoint], recalled: Mapping[str, Checkpoint]) -> Measured:
    job = Job(
        models=_folders(models),
        recalled=_folders(recalled),
        tokenizer=run.tokenizer,
        seed=run.settings.seed,
        window=run.settings.window,
        device=str(run.stack.device),
        dtype=str(run.stack.dtype).removeprefix("torch."),
        batch_tokens=run.stack.batch_tokens,
        threads=run.computing.threads,
        processes=run.computing.processes,
    )
    if run.stack.device.type == "cuda":
        torch.cuda.empty_cache()  # the walk has let its memory go, but only this process could use it
    run.progress.evaluation(len(models) * (len(run.evaluation_tokens) - 1))
    try:
        return run.evaluator(job, run.evaluation_tokens, run.settings.evaluation_timeout, run.progress.evaluated)
    except EvaluationError as error:
        raise EvaluationError(
            f"{error}; the pruned checkpoint is stored already, in {run.store.locate(run.keys.checkpoint)}: started "
            "again, the run takes it and the layers from there"
        ) from None


def _folders(models: Mapping[str, Checkpoint]) -> dict[str, str]:
    return {name: str(model.folder) for name, model in models.items()}
