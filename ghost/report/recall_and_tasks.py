"""What a pruned model lost in recall and on tasks, in sentences."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ghost.report.figures import is_finite, with_error
from ghost.significance import is_noise

Rows = Sequence[Mapping[str, Any]]
RECALL_LOSS, TASK_LOSS = 0.02, 0.01
"""Losses that are worth a word: two points of recall; a point of a task's accuracy, or a percent of its perplexity."""
MEASURABLE = 0.1
"""A dense model that recalls no larger share than this above chance has nothing to lose."""
RECALL_CASE = re.compile(r"(\d+) pairs, distance (\d+)")


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One share of right answers, dense and pruned, with the standard error of their difference."""

    case: str
    metric: str
    dense: float
    pruned: float
    error: float

    @property
    def loss(self) -> float:
        return self.dense - self.pruned

    def lost(self, least: float) -> bool:
        """The loss is larger than `least`, and clear of chance."""
        return self.loss > least and not is_noise(self.loss, self.error)

    @property
    def pairs(self) -> int:
        """Key-value pairs of a recall case."""
        match = RECALL_CASE.fullmatch(self.case)
        return int(match[1]) if match else 0

    @property
    def above_chance(self) -> float:
        """How far the dense model is above guessing one of the prompt's values, or one of all words."""
        return self.dense - (1 / self.pairs if self.metric == "choice" and self.pairs else 0)

    def __str__(self) -> str:
        return f"{self.case}: {self.dense:.1%} → {self.pruned:.1%}"


def recall_losses(rows: Rows) -> list[str]:
    """What became of exact recall, by the rows of `ghost eval`; empty where no row is about it."""
    found = list(_pairs(rows, "recall"))
    if not found:
        return []
    for metric in ("accuracy", "choice"):
        tried = [pair for pair in found if pair.metric == metric and pair.above_chance > MEASURABLE]
        if tried:
            return [_recall(tried)]
    return ["The dense model recalls next to nothing in the recall test, so the test says nothing of the pruned one."]


def _recall(tried: Sequence[_Pair]) -> str:
    lost = [pair for pair in tried if pair.lost(RECALL_LOSS)]
    if not lost:
        return f"Recall of key-value pairs held, up to the {max(p.pairs for p in tried)} pairs that were tried."
    first, worst = min(pair.pairs for pair in lost), max(lost, key=lambda pair: pair.loss)
    held = max((pair.pairs for pair in tried if pair.pairs < first), default=None)
    where = f"at {first} pairs already" if held is None else f"beyond {held} pairs"
    return f"Recall drops {where} ({worst}): don't use it for retrieval."


def task_losses(scores: Rows) -> list[str]:
    """Which tasks got worse, by the metric that each is judged by; empty where there are none.

    `scores` as `ghost.evaluation.rows.side_by_side` makes them.
    """
    judged = [score for score in scores if score["main"]]
    lost = sorted((score for score in judged if _task_lost(score)), key=_loss, reverse=True)
    if lost:
        return [f"Worse on {'; '.join(map(_fall, lost))}."]
    return [f"No clear loss on {', '.join(score['task'] for score in judged)}."] if judged else []


def _loss(score: Mapping[str, Any]) -> float:
    """Without end where the pruned model alone has no finite value, none where the dense one has none."""
    dense, pruned = (is_finite(score["value"][name]) for name in ("dense", "pruned"))
    return score["loss"] if dense and pruned else math.inf if dense else 0.0


def _task_lost(score: Mapping[str, Any]) -> bool:
    loss = _loss(score)
    if not TASK_LOSS < loss < math.inf:
        return loss == math.inf
    return not is_noise(loss, _error_of_loss(score))


def _error_of_loss(score: Mapping[str, Any]) -> float:
    """Over documents in pairs where that is known, else as if the two were measured apart."""
    paired = score.get("loss_stderr")
    scale = 1 if score["higher_is_better"] else abs(score["value"]["dense"]) or 1
    return math.hypot(*(error or 0 for error in score["stderr"].values())) / scale if paired is None else paired


def _fall(score: Mapping[str, Any]) -> str:
    dense, pruned = (with_error(score["value"][name], None) for name in ("dense", "pruned"))
    return f"{score['task']} ({score['metric']} {dense} → {pruned})"


def _pairs(rows: Rows, part: str) -> Iterator[_Pair]:
    cases: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        if row["part"] == part:
            cases.setdefault((row["case"], row["metric"]), {})[row["model"]] = row
    for (case, metric), models in cases.items():
        if {"dense", "pruned"} <= set(models):
            dense, pruned = models["dense"]["value"], models["pruned"]["value"]
            yield _Pair(case=case, metric=metric, dense=dense, pruned=pruned, error=_error(models))


def _error(models: Mapping[str, Mapping[str, Any]]) -> float:
    """Of the paired difference where it is known, else as if the two were measured apart."""
    paired = models.get("change", {}).get("stderr")
    return math.hypot(*(models[name]["stderr"] or 0 for name in ("dense", "pruned"))) if paired is None else paired
