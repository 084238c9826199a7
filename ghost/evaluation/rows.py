"""Results as rows: one figure of one model in one case, with its standard error, and the change between two models."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

Row = dict[str, Any]
"""part, case, metric, model, value, stderr (None where there is none)."""
CHANGE = "change"
RELATIVE = ("perplexity", "tokens_per_second", "ssm_bytes", "conv_bytes")
"""Metrics whose change is a share of the first model's value; of the others it is the difference."""


def sampled(part: str, case: str, metric: str, scores: Mapping[str, Tensor]) -> list[Row]:
    """Means over samples (b,) by model, with standard errors; the change's is of the paired differences."""
    rows = [_row(part, case, metric, model, *_mean(score)) for model, score in scores.items()]
    if len(scores) == 2:
        first, second = scores.values()
        rows.append(_row(part, case, metric, CHANGE, *_mean(second - first)))
    return rows


def perplexities(part: str, case: str, nlls: Mapping[str, Tensor]) -> list[Row]:
    """Perplexity by model for negative log-likelihoods (b,) in nats, the errors carried through the exponential."""
    rows = []
    for row in sampled(part, case, "perplexity", nlls):
        value, stderr = math.exp(row["value"]), row["stderr"]
        shift = 1 if row["model"] == CHANGE else 0
        rows.append(row | {"value": value - shift, "stderr": None if stderr is None else value * stderr})
    return rows


def given(part: str, case: str, metric: str, values: Mapping[str, tuple[float, float | None]]) -> list[Row]:
    """(value, stderr) by model as somebody else gives them; the change has no error, for the pairing is not known."""
    rows = [_row(part, case, metric, model, *value) for model, value in values.items()]
    if len(values) == 2:
        (first, _), (second, _) = values.values()
        change = second / first - 1 if metric in RELATIVE else second - first
        rows.append(_row(part, case, metric, CHANGE, change, None))
    return rows


def _row(part: str, case: str, metric: str, model: str, value: float, stderr: float | None) -> Row:
    return {"part": part, "case": case, "metric": metric, "model": model, "value": value, "stderr": stderr}


def _mean(scores: Tensor) -> tuple[float, float | None]:
    error = scores.std().item() / math.sqrt(len(scores)) if len(scores) > 1 else None
    return scores.mean().item(), error
