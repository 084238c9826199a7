"""What `import ghost` offers, and how little it loads."""

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import ghost
from ghost.api import PruneOptions
from ghost.settings import RunSettings

ROOT = Path(__file__).parent.parent
PUBLIC = [
    "CheckpointError", "CorpusError", "GhostError", "GhostWarning", "LayerResult", "Perplexity", "Pruned",
    "RunSettings", "SettingsError", "__version__", "methods", "perplexity", "prune",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert ghost.__all__ == PUBLIC and set(PUBLIC) <= set(dir(ghost))
    assert all(getattr(ghost, name) is not None for name in PUBLIC)
    assert [field.name for field in fields(ghost.Pruned)] == [
        "model", "layers", "tokenizer", "provenance", "companions",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = ghost.unknown  # pyright: ignore[reportAttributeAccessIssue]


def test_the_parameters_of_the_functions_are_these() -> None:
    parameters = {f.__name__: list(inspect.signature(f).parameters) for f in (ghost.prune, ghost.perplexity)}
    assert parameters == {
        "prune": ["model", "sparsity", "calibration", "method", "tokenizer", "progress", "options"],
        "perplexity": ["model", "texts", "tokenizer", "window", "device", "dtype", "batch_tokens"],
    }


HEAVY = ("torch", "transformers", "pyarrow", "pydantic", "numpy", "prefect")
IMPORTING = f"""
import sys, ghost
from ghost import errors
assert errors.GhostError is ghost.GhostError and ghost.__version__
print([module for module in {HEAVY} if module in sys.modules])
"""


def test_importing_ghost_loads_no_library() -> None:
    ended = subprocess.run([sys.executable, "-c", IMPORTING], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "[]\n", ended.stderr


def test_options_are_settings_of_a_run_with_the_same_types() -> None:
    for name, annotation in PruneOptions.__annotations__.items():
        assert RunSettings.model_fields[name].annotation == annotation, name
