"""A sweep's results: a row per cell, and the page that is made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import torch

from artifacts.claims import NOT_THERE
from artifacts.digest import record_bytes
from artifacts.errors import MissingArtifact
from artifacts.keys import RunKeys, SweepKeys
from artifacts.schemas import FORMAT_VERSION
from artifacts.store import Store, open_store
from artifacts.tables import encode
from ghost.report.figures import error_of_rise, rise
from ghost.report.paired_runs import Difference, difference
from ghost.report.sweep_page import render_sweep
from tasks.run.cost import read_cost
from tasks.stored_run import StoredRun
from tasks.sweep.outcome import Outcome
from tasks.sweep.schema import CELLS
from tasks.sweep.settings import WITHOUT_EFFECT, Sweep
from tasks.sweep.views import model_views
from tasks.wording import display_name

UNLISTED = (*WITHOUT_EFFECT, "tokenizer", "allow_code")
"""Options that change no figure, or are places of this machine."""
PAIRS = ("d_state", "perplexity", "state_bytes")
"""Figures of the results that are of the dense and of the pruned model."""


def collect(sweep: Sweep, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Write cells.parquet, sweep.json and index.html to sweeps/<sweep_id>/, and return what the sweep came to.

    Plain data: sweep_id, page (where it lies), cells (the rows of cells.parquet), failed (why, by the cell's name).
    """
    store, keys = open_store(sweep.store), SweepKeys(sweep.sweep_id)
    named = sorted(outcomes, key=lambda outcome: sweep.cells.index(outcome.cell))
    ordered = [_as_computed(store, outcome) for outcome in named]
    rows = _beside_the_best([_row(store, outcome) for outcome in ordered], store)
    about = _about(sweep)
    views = model_views(store, ordered, rows)
    columns = {name: [row[name] for row in rows] for name in CELLS.names}
    store.put(keys.cells, encode(pa.table(columns, CELLS), CELLS))
    ended = [{"run_id": row["run_id"], "error": row["error"]} for row in rows]
    store.put(keys.sweep, record_bytes(about | {"cells": ended}))
    store.put(keys.page, render_sweep(about, rows, views).encode())
    failures = {o.cell.name: row["error"] for o, row in zip(named, rows, strict=True) if row["error"] is not None}
    return {"sweep_id": sweep.sweep_id, "page": store.locate(keys.page), "cells": rows, "failed": failures}


def _as_computed(store: Store, outcome: Outcome) -> Outcome:
    """With the sparsity that its run came to, where its cell says what to keep."""
    if outcome.run_id is None or outcome.cell.settings.keep is None:
        return outcome
    try:
        d_state = outcome.run(store).results()["d_state"]["dense"]
    except NOT_THERE:
        return outcome
    return replace(outcome, cell=replace(outcome.cell, settings=outcome.cell.settings.resolved(d_state)))


def _row(store: Store, outcome: Outcome) -> dict[str, Any]:
    s = outcome.cell.settings
    asked = {
        "model": outcome.cell.label, "method": s.method, "sparsity": None if s.keep else s.sparsity,
        "recovery": s.recovery, "calibration_length": s.length, "window": s.window, "seed": s.seed,
    }  # fmt: skip
    if outcome.run_id is None:
        return dict.fromkeys(CELLS.names) | asked | {"error": outcome.error}
    try:
        return asked | {"run_id": outcome.run_id, "error": None} | _figures(outcome.run(store))
    except NOT_THERE as error:
        return dict.fromkeys(CELLS.names) | asked | {"error": str(error)}


def _figures(run: StoredRun) -> dict[str, Any]:
    if not run.finished:
        raise MissingArtifact(
            f"run {run.keys.run_id} is not in the store {run.store.url}; its worker may use another kind of device: "
            "name one in the options"
        )
    results = run.results()
    seconds, peak = read_cost(run.store, run.pruning)
    pairs = {name: results[name] for name in PAIRS}
    return (
        {"kept": results["kept_channels"], "channels": results["channels"], "seconds": seconds}
        | {"parameters": results["parameters"]["dense"], "peak_memory_bytes": peak}
        | {f"{name}_dense": pair["dense"] for name, pair in pairs.items()}
        | {name: pair["pruned"] for name, pair in pairs.items()}
        | {"rise": rise(pairs["perplexity"]), "rise_stderr": error_of_rise(results)}
    )


def _beside_the_best(rows: Sequence[dict[str, Any]], store: Store) -> list[dict[str, Any]]:
    """With what each cell's perplexity is over that of the best one with its model, window and sparsity."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["perplexity"] is not None:
            groups.setdefault((row["model"], row["window"], row["sparsity"]), []).append(row)
    found = {row["run_id"]: over for group in groups.values() for row, over in _over_best(group, store)}
    return [row | _named(found.get(row["run_id"], Difference())) for row in rows]


def _over_best(group: Sequence[dict[str, Any]], store: Store) -> Iterator[tuple[dict[str, Any], Difference]]:
    """Cells of a sweep share their text: those of one model and window have seen the same windows of it."""
    best, *others = sorted(group, key=lambda row: row["perplexity"])
    if others:
        least = StoredRun(store, RunKeys(best["run_id"])).samples()
        for row in others:
            yield row, difference(least, StoredRun(store, RunKeys(row["run_id"])).samples())


def _named(over: Difference) -> dict[str, Any]:
    return {"over_best": over.value, "over_best_stderr": over.error}


def _about(sweep: Sweep) -> dict[str, Any]:
    """What was asked for, without the paths of this machine."""
    places = {name: display_name(str(sweep.options[name])) for name in ("calibration", "evaluation")}
    options = {k: v for k, v in sweep.options.items() if k not in UNLISTED and v not in (None, "")}
    axes = {name: list(values) for name, values in sweep.axes.items()}
    return {
        "sweep_id": sweep.sweep_id,
        "format": FORMAT_VERSION,
        "axes": axes | {"models": list(dict.fromkeys(cell.label for cell in sweep.cells))},
        "options": options | places,
        "versions": {"ghost": version("ghost-ssm"), "torch": torch.__version__},
    }
