"""Prunes the recurrent state of Mamba2 language models after training: `ghost.prune`, and what belongs to it.

`import ghost` loads neither torch nor transformers; they come with the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ghost.errors import CheckpointError, CorpusError, GhostError, GhostWarning, SettingsError

if TYPE_CHECKING:
    from ghost.api import LayerResult, Perplexity, Pruned, RunSettings, methods, perplexity, prune

    __version__: str

__all__ = [
    "CheckpointError",
    "CorpusError",
    "GhostError",
    "GhostWarning",
    "LayerResult",
    "Perplexity",
    "Pruned",
    "RunSettings",
    "SettingsError",
    "__version__",
    "methods",
    "perplexity",
    "prune",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("ghost-ssm")
    if name in __all__:
        return getattr(import_module("ghost.api"), name)
    raise AttributeError(f"module 'ghost' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
