"""Several finished runs of a store beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ghost.errors import SettingsError
from ghost.report import ComparedRun, overlaps, render_comparison
from ghost.report.figures import error_of_rise, rise
from ghost.report.paired_runs import difference, figures_of
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
    samples = run.samples(_seen(determinants, summary))
    return ComparedRun(summary=summary | recovery, source=determinants["checkpoint"], kept=kept, samples=samples)


def _seen(determinants: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By part, what makes the windows, prompts and documents of an evaluation what they are."""
    text, seed = determinants["evaluation"], summary["calibration"]["seed"]
    tasks = determinants.get("tasks") or {}
    return {
        "perplexity": {"text": text, "window": determinants["window"]},
        "recall": {"text": text, "seed": seed, "model": determinants["checkpoint"]},
        "task": {"files": tasks.get("files"), "limit": tasks.get("limit"), "seed": seed},
    }


def machine_readable(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """The figures of the page as plain values; `changes` has what every figure changes by between every two runs."""
    figures = [{name: run.summary[name] for name in (*SETTINGS, *FIGURES)} for run in runs]
    for summary, run in zip(figures, runs, strict=True):
        summary["perplexity_rise"] = rise(summary["perplexity"])
        summary["perplexity_rise_stderr"] = error_of_rise(run.summary)
    pairs = [
        {
            "runs": [runs[i].summary["run_id"] for i in overlap.pair],
            "mean": overlap.mean,
            "layers": overlap.layers,
            "numbers": overlap.numbers,
        }
        for overlap in overlaps(runs)
    ]
    return {"runs": figures, "changes": list(_changes(runs)), "overlap": pairs}


def _changes(runs: Sequence[ComparedRun]) -> Iterator[dict[str, Any]]:
    """Of every two runs, from the one that is named first."""
    for first, second in combinations(runs, 2):
        for figure in figures_of([first, second]):
            found = difference(first.samples, second.samples, figure)
            named = dict(zip(("part", "case", "metric"), figure, strict=True))
            yield (
                {"runs": [run.summary["run_id"] for run in (first, second)]}
                | named
                | {
                    "change": found.value,
                    "stderr": found.error,
                    "beyond_noise": None if found.error is None else not found.is_noise,
                    "why_not": found.why_not,
                }
            )


def write_page(runs: Sequence[ComparedRun], out: Path) -> Path:
    """The page at `out`, whose folder is made; its absolute path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render_comparison(runs), encoding="utf-8")
    return out.resolve()
