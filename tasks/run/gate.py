"""The quality gate: whether a pruned model is good enough to be published."""

from collections.abc import Mapping, Sequence
from typing import Any

from ghost.errors import QualityGateError
from ghost.report.figures import in_form, rise
from ghost.settings import Gate
from tasks.run.events import gate_failed
from tasks.run.open import Run


def check_gate(run: Run, results: Mapping[str, Any]) -> None:
    """QualityGateError where the evaluation's results exceed a limit of the settings."""
    failed = failed_limits(run.settings, **results["perplexity"])
    if run.settings.max_task_loss is not None:
        failed += failed_tasks(run.settings.max_task_loss, results["tasks"]["scores"])
    if failed:
        gate_failed(run, failed, results)
        raise QualityGateError(
            f"quality gate: {' and '.join(failed)}; the checkpoint is kept in "
            f"{run.store.locate(run.keys.checkpoint)} and was not published; give a lower --sparsity or a higher limit"
        )


def failed_limits(gate: Gate, dense: float | None, pruned: float | None) -> list[str]:
    """What the two perplexities exceed, in words with the figures. What is not finite, None in the results, exceeds
    every limit that is set."""
    failed = []
    limit, share = gate.max_perplexity, gate.max_perplexity_rise
    if limit is not None and not _within(pruned, limit):
        failed.append(f"perplexity {_figure(pruned)} is over {limit:.6g} (--max-perplexity)")
    if share is not None and not _within(found := rise({"dense": dense, "pruned": pruned}), share):
        by = in_form(found, "{:.3%}")
        failed.append(
            f"{_figure(pruned)} is {by} over the dense {_figure(dense)}, not {share:.3%} (--max-perplexity-rise)"
        )
    return failed


def _within(figure: float | None, limit: float) -> bool:
    return figure is not None and figure <= limit


def _figure(value: float | None) -> str:
    return in_form(value, "{:.6g}")


def failed_tasks(limit: float, scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tasks that lose more than `limit` on their main metric, in words with the figures, as `failed_limits`.

    `scores` as `ghost.evaluation.rows.side_by_side` gives them.
    """
    return [_lost(limit, score) for score in scores if score["main"] and not _within(score["loss"], limit)]


def _lost(limit: float, score: Mapping[str, Any]) -> str:
    dense, pruned = (_figure(score["value"][name]) for name in ("dense", "pruned"))
    loss = in_form(score["loss"], "{:.4g}" if score["higher_is_better"] else "{:.3%} of it")
    allowed = f"{limit:.4g}" if score["higher_is_better"] else f"{limit:.3%}"
    return (
        f"{score['task']} {score['metric']} {pruned} is worse than the dense {dense} by {loss}, over {allowed} "
        "(--max-task-loss)"
    )
