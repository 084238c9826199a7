"""What models, texts and figures are called in records and on pages."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from artifacts.folders import SCHEME


def display_name(spec: str) -> str:
    """A model or corpus by name: hub names whole, paths and s3:// addresses without their folders."""
    return Path(spec).name if Path(spec).exists() or spec.startswith(("/", ".", "~", SCHEME)) else spec


def layers_in_words(layers: int, mixers: int) -> str:
    """A model's decoder layers, and how many of them have a state to prune."""
    return f"{layers} layers, {'all' if mixers == layers else mixers} with a Mamba2 state"


def extreme(saliency: Tensor, of: Callable[[Tensor], Tensor]) -> str:
    """The least or most of some channels' saliencies; of a whole layer that stays, or goes, one side has none."""
    return f"{float(of(saliency)):.4g}" if saliency.numel() else "-"
