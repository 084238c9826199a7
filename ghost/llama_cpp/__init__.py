"""GGUF, the files that llama.cpp and what is built on it read. All here but this needs the gguf package."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

from ghost.errors import SettingsError

FileType = Literal["f32", "f16", "q8_0"]
"""What the matrices are stored in; all else is float32."""
Progress = Callable[[int, int], None]
"""Called with the bytes that were just written, and those of all tensors; 0 where that is not known."""


def require_package() -> None:
    """SettingsError where the gguf package is not installed; it is an extra."""
    if find_spec("gguf") is None:
        raise SettingsError(
            "GGUF is written by the gguf package, which is not installed: pip install 'ghost-ssm[gguf]'"
        )
