"""The method of a run and its form, as the report finds them in a summary of plain data."""

from collections.abc import Mapping
from typing import Any

from ghost.forms import Form, Sliced
from ghost.saliency import METHODS, Method

Summary = Mapping[str, Any]


def method_of_run(summary: Summary) -> Method | None:
    """None for a method that this ghost does not know; another one may have made the run."""
    return METHODS.get(summary["method"])


def form_of_run(summary: Summary) -> Form:
    """The form of the run; what most have, where the method is unknown."""
    method = method_of_run(summary)
    return (method.form if method else Sliced()).with_soft(bool(summary.get("soft")))


def unit(summary: Summary) -> str:
    """What the state is counted in: `channel` or `direction`."""
    return form_of_run(summary).words.unit
