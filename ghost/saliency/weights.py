"""Rankings that read no text: the weights' magnitude, and chance."""

import hashlib

import torch
from torch import Tensor

from ghost.saliency.statistics import LayerStatistics


def magnitude(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """Norm of the B row of in_proj times norm of the C row; looks at weights only."""
    return statistics.norm_b_gn * statistics.norm_c_gn


def random(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """Uniform, seeded per layer; what pruning costs when nothing is known."""
    # Torch's generator takes 32 bits of a seed, too few to hold both numbers side by side.
    digest = hashlib.sha256(f"{seed} {layer}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4]))
    return torch.rand(statistics.norm_b_gn.shape, generator=generator, dtype=torch.float64)
