"""What runtimes make of the state that a run is about to leave: said before it begins, and in the model card."""

from ghost.checkpoint.families import PROJECTED, family_of
from ghost.serving.rules import warnings
from tasks.run.open import Run


def runtime_warnings(run: Run) -> list[str]:
    """A line for each rule of a runtime that the pruned model will break and the dense one keeps. Empty where its state
    size is found out on the way."""
    dense = run.source.mixer_layout
    pruned = run.settings.layout(dense)
    if pruned is None:
        return []
    return warnings(dense, pruned, served_family(run))


def served_family(run: Run) -> str:
    """The model_type that runtimes are given."""
    return PROJECTED if run.walk.form.carries_code else family_of(run.source.config).model_type
