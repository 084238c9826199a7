"""What lm-eval finds for the dense and the pruned model of a run: a stage of its own, hours apart from the rest."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from artifacts.schemas import EVALUATION
from artifacts.stages import read_stage, write_stage
from artifacts.tables import decode, encode, metadata
from ghost.evaluation import harness, rows
from tasks.run.benchmark_process import BenchmarkJob, run_benchmarks_apart
from tasks.run.layers import timed
from tasks.run.open import Run
from tasks.run.samples import document_rows, samples_table

STAGE = "tasks"
TABLE, DOCUMENTS = "evaluation/tasks.parquet", "evaluation/documents.parquet"
SUMMARY = "tasks"
"""Name of the text in the table's metadata that holds the summary, as JSON."""


def benchmark_scores(run: Run, pruned: Path, chain: str) -> tuple[dict[str, Any], dict[str, str]]:
    """`tasks` of results.json, and the sha256 of what is stored by name; both empty for a run without tasks.

    Taken from the store where they are done under this chain. EvaluationError where lm-eval hangs or dies, GhostError
    with its reason where it can't run a task.
    """
    if not run.benchmarks.names:
        return {}, {}
    if (record := read_stage(run.store, run.keys, STAGE, chain)) is not None:
        table = decode(run.store.get(run.keys.benchmarks, record.files[TABLE]), EVALUATION)
        return {"tasks": json.loads(metadata(table)[SUMMARY])}, record.files
    with timed(run, run.keys.timings, STAGE):
        found = _found(run, pruned)
    summary = _summary(run, found)
    files = {
        TABLE: run.store.put(run.keys.benchmarks, _table(found, summary)),
        DOCUMENTS: run.store.put(run.keys.documents, samples_table(document_rows(found))),
    }
    return {"tasks": summary}, write_stage(run.store, run.keys, STAGE, chain, files).files


def _found(run: Run, pruned: Path) -> dict[str, dict[str, Any]]:
    job = BenchmarkJob(
        models={"dense": str(run.source.folder), "pruned": str(pruned)},
        tokenizer=run.tokenizer,
        tasks=run.benchmarks,
        limit=run.settings.limit,
        seed=run.settings.seed,
        device=str(run.stack.device),
        dtype=str(run.stack.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
    return run_benchmarks_apart(job, run.settings.evaluation_timeout)


def _summary(run: Run, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`tasks` of results.json."""
    settings = {"limit": run.settings.limit, "seed": run.settings.seed, "protocol": harness.PROTOCOL}
    return {"scores": rows.side_by_side(found)} | settings


def _table(found: dict[str, dict[str, Any]], summary: dict[str, Any]) -> bytes:
    """The rows of `ghost eval`; what they have no column for is in the metadata."""
    table = pa.Table.from_pylist(list(rows.of_benchmarks(found)), EVALUATION)
    return encode(table, EVALUATION, {SUMMARY: json.dumps(summary)})
