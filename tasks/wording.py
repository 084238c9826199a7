"""What models, texts and figures are called in records and on pages."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from artifacts.folders import SCHEME


def display_name(spec: str) -> str:
    """A model or corpus by name: hub names whole, paths and s3:// addresses without their folders."""
    return Path(spec).name if Path(spec).exists() or spec.startswith(("/", ".", "~", SCHEME)) else spec


def extreme(saliency: Tensor, of: Callable[[Tensor], Tensor]) -> str:
    """The least or most of some channels' saliencies; of a whole layer that stays, or goes, one side has none."""
    return f"{float(of(saliency)):.4g}" if saliency.numel() else "-"
