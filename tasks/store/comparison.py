"""Several finished runs of a store beside each other."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artifacts.errors import MissingArtifact
from artifacts.keys import RunKeys
from artifacts.store import Store
from ghost.errors import SettingsError
from ghost.export import PROVENANCE
from ghost.report import ComparedRun, overlaps, render_comparison
from ghost.report.figures import rise
from tasks.store.show import find_run, open_existing
from tasks.tables import read_selection

SETTINGS = ("run_id", "model", "method", "sparsity", "recovery", "calibration", "evaluation")
FIGURES = ("perplexity", "state_bytes", "d_state", "parameters")


def compare_runs(store: str, run_ids: Sequence[str]) -> list[ComparedRun]:
    """The runs whose ids start so, in this order. MissingArtifact for an unknown or unfinished one, SettingsError for
    fewer than two different ones."""
    opened = open_existing(store)
    keys = list(dict.fromkeys(find_run(opened, run_id) for run_id in run_ids))
    if len(keys) < 2:
        raise SettingsError(f"{keys[0].run_id} is one run; give two or more different ones to compare")
    return [_read(opened, key) for key in keys]


def _read(store: Store, keys: RunKeys) -> ComparedRun:
    if not store.exists(keys.manifest):
        raise MissingArtifact(f"run {keys.run_id} is not finished; start it again to continue, then compare")
    key = f"{keys.checkpoint}/{PROVENANCE}"
    told = json.loads(store.get(key, store.sha256(key)))
    determinants, summary = told["ghost"]["determinants"], told["figures"]
    kept = [read_selection(store, keys, layer).kept_gn.numpy() for layer in range(summary["layers"])]
    recovery = {"recovery": determinants["recovery"]}
    return ComparedRun(summary=summary | recovery, source=determinants["checkpoint"], kept=kept)


def machine_readable(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """The figures of the page as plain values."""
    told = [{name: run.summary[name] for name in (*SETTINGS, *FIGURES)} for run in runs]
    for summary in told:
        summary["perplexity_rise"] = rise(summary["perplexity"])
    pairs = [
        {"runs": [runs[i].summary["run_id"] for i in overlap.pair], "mean": overlap.mean, "layers": overlap.layers}
        for overlap in overlaps(runs)
    ]
    return {"runs": told, "overlap": pairs}


def write_page(runs: Sequence[ComparedRun], out: Path) -> Path:
    """The page at `out`, whose folder is made; its absolute path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render_comparison(runs), encoding="utf-8")
    return out.resolve()
