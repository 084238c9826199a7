"""Results as rows: one figure of one model in one case, with its standard error, and the change between two models."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor

from ghost.significance import mean_with_error, paired

Row = dict[str, Any]
"""part, case, metric, model, value (None where it is not finite), stderr (None where there is none)."""
CHANGE = "change"
RISE = "perplexity_rise"
RELATIVE = ("perplexity", "word_perplexity", "byte_perplexity", "tokens_per_second", "ssm_bytes", "conv_bytes",
            "kv_bytes")  # fmt: skip
"""Metrics whose change is a share of the first model's value; of the others it is the difference."""


def sampled(part: str, case: str, metric: str, scores: Mapping[str, ArrayLike]) -> list[Row]:
    """Means over samples (b,) by model, with standard errors; the change's is of the paired differences."""
    rows = [_row(part, case, metric, model, *mean_with_error(score)) for model, score in scores.items()]
    if len(scores) == 2:
        rows.append(_row(part, case, metric, CHANGE, *paired(*scores.values())))
    return rows


def perplexities(part: str, case: str, nlls: Mapping[str, ArrayLike]) -> list[Row]:
    """Perplexity by model for negative log-likelihoods (b,) in nats, the errors carried through the exponential."""
    rows = []
    for row in sampled(part, case, "perplexity", nlls):
        value, stderr = exp(math.nan if row["value"] is None else row["value"]), row["stderr"]
        shift = 1 if row["model"] == CHANGE else 0
        error = None if stderr is None else finite(value * stderr)
        rows.append(row | {"value": finite(value - shift), "stderr": error})
    return rows


def rises(part: str, case: str, nlls: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> list[Row]:
    """What each model's perplexity rises by over what it was before, as a share; both (b,) in nats, of the same
    samples. The change is the second model's rise over the first one's."""
    rows = sampled(part, case, RISE, {name: nll - before[name] for name, nll in nlls.items()})
    return [row | {"value": _risen(row["value"]), "stderr": row["stderr"]} for row in rows]


def _risen(nats: float | None) -> float | None:
    return None if nats is None else finite(exp(nats) - 1)


def measured(
    part: str, case: str, metric: str, values: Mapping[str, tuple[float, float | None]], error: float | None = None
) -> list[Row]:
    """(value, stderr) by model as somebody else gives them; `error` is the change's, where the pairs are known."""
    rows = [_row(part, case, metric, model, *value) for model, value in values.items()]
    if len(values) == 2:
        (first, _), (second, _) = values.values()
        change = divided(second, first) - 1 if metric in RELATIVE else second - first
        rows.append(_row(part, case, metric, CHANGE, change, error))
    return rows


def of_benchmarks(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """What `harness.run_benchmarks` found, by model."""
    for task, scores in next(iter(found.values())).items():
        for metric in scores["metrics"]:
            by_model = {name: by_task[task]["metrics"][metric] for name, by_task in found.items()}
            pairs = {name: (figure["value"], figure["stderr"]) for name, figure in by_model.items()}
            error = _error_of_change(list(by_model.values())) if metric not in RELATIVE else None
            yield from measured("task", task, metric, pairs, error)


def _error_of_change(figures: Sequence[Mapping[str, Any]]) -> float | None:
    """Of two models' means over the same documents; None of others."""
    both = [figure["documents"] for figure in figures]
    return paired(*both)[1] if len(both) == 2 and all(both) else None


def side_by_side(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What `harness.run_benchmarks` found for `dense` and `pruned`: one plain object per task and metric.

    task, metric, main (whether the task is judged by it), higher_is_better, samples, version, value and stderr as
    {dense, pruned}, loss, and loss_stderr over documents in pairs; None for what is not finite or not known.
    """
    return [_beside(task, metric, found) for task, scores in found["dense"].items() for metric in scores["metrics"]]


def _beside(task: str, metric: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    dense = found["dense"][task]
    figures = {name: by_task[task]["metrics"][metric] for name, by_task in found.items()}
    value = {name: figure["value"] for name, figure in figures.items()}
    better = dense["metrics"][metric]["higher_is_better"]
    return {
        "task": task,
        "metric": metric,
        "main": metric == dense["main"],
        "higher_is_better": better,
        "samples": dense["samples"],
        "version": dense["version"],
        "value": {name: finite(figure) for name, figure in value.items()},
        "stderr": {name: figure["stderr"] for name, figure in figures.items()},
        "loss": finite(loss(value["dense"], value["pruned"], higher_is_better=better)),
        "loss_stderr": _error_of_loss(figures, value["dense"], higher_is_better=better),
    }


def _error_of_loss(figures: Mapping[str, Mapping[str, Any]], dense: float, *, higher_is_better: bool) -> float | None:
    """In the unit of the loss."""
    error = _error_of_change(list(figures.values()))
    return error if error is None or higher_is_better else finite(divided(error, abs(dense)))


def loss(dense: float, pruned: float, *, higher_is_better: bool) -> float:
    """What pruning cost: the fall of a metric that should be high, as 0.02 for two points of accuracy; the rise of one
    that should be low, as a share of the dense value, 0.02 for two percent of perplexity. A gain is negative."""
    if higher_is_better:
        return dense - pruned
    return (pruned - dense) / abs(dense) if dense else math.copysign(math.inf, pruned) if pruned else 0.0


def finite(value: float | None) -> float | None:
    """The value as JSON can have it: None where it is infinite or no number."""
    return value if value is not None and math.isfinite(value) else None


def exp(nats: float) -> float:
    """e to the power of a loss; infinite above 709 nats, which a float can't hold."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def divided(value: float, by: float) -> float:
    """The quotient; not a number where there is nothing to divide by."""
    return value / by if by else math.nan


def _row(part: str, case: str, metric: str, model: str, value: float, stderr: float | None) -> Row:
    figures = {"value": finite(value), "stderr": finite(stderr)}
    return {"part": part, "case": case, "metric": metric, "model": model} | figures
