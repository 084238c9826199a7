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
from tasks.layers import timed
from tasks.run import Run
from tasks.task_process import TaskJob, run_tasks_apart

STAGE = "tasks"
TABLE = "evaluation/tasks.parquet"
SUMMARY = "tasks"
"""Name of the text in the table's metadata that holds the summary, as JSON."""


def task_scores(run: Run, pruned: Path, chain: str) -> tuple[dict[str, Any], dict[str, str]]:
    """`tasks` of results.json, and the sha256 of tasks.parquet by name; both empty for a run without tasks.

    Taken from the store where they are done under this chain. EvaluationError where lm-eval hangs or dies, GhostError
    with its reason where it can't run a task.
    """
    if not run.tasks.names:
        return {}, {}
    record = read_stage(run.store, run.keys, STAGE, chain)
    if record is None:
        with timed(run, STAGE):
            digest = run.store.put(run.keys.tasks, _table(run, _found(run, pruned)))
        record = write_stage(run.store, run.keys, STAGE, chain, {TABLE: digest})
    summary = metadata(decode(run.store.get(run.keys.tasks, record.files[TABLE]), EVALUATION))[SUMMARY]
    return {"tasks": json.loads(summary)}, record.files


def _found(run: Run, pruned: Path) -> dict[str, dict[str, Any]]:
    job = TaskJob(
        models={"dense": str(run.source.folder), "pruned": str(pruned)},
        tokenizer=run.tokenizer,
        tasks=run.tasks,
        limit=run.settings.limit,
        seed=run.settings.seed,
        device=str(run.backbone.device),
        dtype=str(run.backbone.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
    return run_tasks_apart(job, run.settings.evaluation_timeout)


def _table(run: Run, found: dict[str, dict[str, Any]]) -> bytes:
    """The rows of `ghost eval`; what they have no column for is in the metadata."""
    settings = {"limit": run.settings.limit, "seed": run.settings.seed, "protocol": harness.PROTOCOL}
    summary = json.dumps({"scores": rows.side_by_side(found)} | settings)
    return encode(pa.Table.from_pylist(list(rows.of_tasks(found)), EVALUATION), EVALUATION, {SUMMARY: summary})
