"""Several finished runs of a store beside each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ghost.errors import SettingsError
from ghost.report import ComparedRun, overlaps, render_comparison
from ghost.report.figures import rise
from tasks.stored_run import StoredRun, find_run, open_existing

SETTINGS = ("run_id", "model", "method", "sparsity", "recovery", "calibration", "evaluation")
FIGURES = ("perplexity", "state_bytes", "d_state", "parameters")


def compare_runs(store: str, run_ids: Sequence[str]) -> list[ComparedRun]:
    """The runs whose ids start so, in this order. MissingArtifact for an unknown or unfinished one, SettingsError for
    fewer than two different ones."""
    opened = open_existing(store)
    found = list(dict.fromkeys(find_run(opened, run_id) for run_id in run_ids))
    if len(found) < 2:
        raise SettingsError(f"{found[0].keys.run_id} is one run; give two or more different ones to compare")
    return [_read(run) for run in found]


def _read(run: StoredRun) -> ComparedRun:
    made = run.provenance()
    determinants, summary = made["ghost"]["determinants"], made["figures"]
    kept = {layer: run.selection(layer).kept_gn.numpy() for layer in run.layers}
    recovery = {"recovery": determinants["recovery"]}
    return ComparedRun(summary=summary | recovery, source=determinants["checkpoint"], kept=kept)


def machine_readable(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """The figures of the page as plain values."""
    figures = [{name: run.summary[name] for name in (*SETTINGS, *FIGURES)} for run in runs]
    for summary in figures:
        summary["perplexity_rise"] = rise(summary["perplexity"])
    pairs = [
        {
            "runs": [runs[i].summary["run_id"] for i in overlap.pair],
            "mean": overlap.mean,
            "layers": overlap.layers,
            "numbers": overlap.numbers,
        }
        for overlap in overlaps(runs)
    ]
    return {"runs": figures, "overlap": pairs}


def write_page(runs: Sequence[ComparedRun], out: Path) -> Path:
    """The page at `out`, whose folder is made; its absolute path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render_comparison(runs), encoding="utf-8")
    return out.resolve()
