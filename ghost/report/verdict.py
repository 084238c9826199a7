"""The run in plain words, worked out from its figures; docs/report.md explains the thresholds."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from ghost.report.figures import (
    NO_DIFFERENCE,
    error_of_rise,
    filled,
    is_finite,
    percent,
    rise,
    rise_of_perplexity,
)
from ghost.report.recall_and_tasks import recall_losses, task_losses
from ghost.report.run_form import form_of_run
from ghost.significance import ERRORS, is_noise

NEGLIGIBLE, SMALL, NOTICEABLE, LARGE = 0.005, 0.02, 0.10, 0.30
"""Rises of perplexity, as shares of the dense model's, up to which the words of `PRICES` hold."""
PRICES = (
    (NEGLIGIBLE, "Next to nothing was lost on this text."),
    (SMALL, "A small price on this text."),
    (NOTICEABLE, "A price that will be noticed: compare both models on your own task before you use this one."),
    (LARGE, "A high price: keep more of the state before you use this model."),
    (math.inf, "Too much was lost for this model to be of use: keep more of the state."),
)
ADVICE = (
    "--recovery fit may take much of this price away: it corrects each pruned layer on the calibration text, and the "
    "checkpoint keeps its form."
)
NO_DENSE = "The dense model's perplexity on this text is not finite, so it says nothing of the pruned one."
NAMES = {
    Fraction(3, 4): "three quarters of the state",
    Fraction(1, 2): "half the state",
    Fraction(1, 4): "a quarter of the state",
    Fraction(1, 8): "an eighth of the state",
    Fraction(1, 16): "a sixteenth of the state",
}
NO_RECALL = (
    "Exact recall was not measured, and it may fall more than perplexity does: see what ghost eval says of the "
    "checkpoint before you use it for retrieval."
)


def headline(summary: Mapping[str, Any]) -> str:
    """`Half the state, +1.2% perplexity`, without a full stop; `summary` as for `ghost.report.page.render`."""
    words = state_words(summary)
    return f"{words[0].upper()}{words[1:]}, {rise_of_perplexity(summary)}"


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """What the figures mean, in sentences."""
    recall = recall_losses(summary.get("rows", [])) or [NO_RECALL]
    tasks = task_losses(summary.get("tasks", {}).get("scores", []))
    return [*_caveats(summary), _price(summary), *_advice(summary), *recall, *tasks]


def state_words(summary: Mapping[str, Any]) -> str:
    """What is left of the state: `half the state`, `37.5% of the state`."""
    left = Fraction(summary["state_bytes"]["pruned"], summary["state_bytes"]["dense"])
    if left == 1:
        return "a state as large as before"
    return NAMES.get(left, f"{percent(float(left))} of the state")


def _caveats(summary: Mapping[str, Any]) -> list[str]:
    caveat = form_of_run(summary).words.caveat
    return [filled(caveat, summary)] if caveat else []


def _price(summary: Mapping[str, Any]) -> str:
    if not is_finite(summary["perplexity"]["dense"]):
        return NO_DENSE
    share, error = rise(summary["perplexity"]), error_of_rise(summary)
    if error is not None and is_noise(share, error):
        within = percent(ERRORS * error)
        return f"{NO_DIFFERENCE[0].upper()}{NO_DIFFERENCE[1:]} on this text, which tells it to within {within}."
    if share is not None and share < -NEGLIGIBLE:
        return "Perplexity even fell on this text, which promises nothing for others."
    return next((words for limit, words in PRICES if share is not None and share <= limit), PRICES[-1][1])


def _advice(summary: Mapping[str, Any]) -> list[str]:
    """Recovery, where there is a price and none was tried that the form admits."""
    share = rise(summary["perplexity"])
    pays = share is None or not (share <= NEGLIGIBLE or is_noise(share, error_of_rise(summary)))
    untried = summary.get("recovery", "none") == "none" and "recovery" in form_of_run(summary).admits
    return [ADVICE] if pays and untried and is_finite(summary["perplexity"]["dense"]) else []
