"""The methods that rank state channels.

ghost        sqrt(mean C_t^2 |H_t|^2): controllability times observability per step, then averaged; exactly the root
             mean squared change of y from zeroing the channel (GHOST, arXiv:2602.11408).
ghost-mean   sqrt(mean |H_t|^2 * mean C_t^2): each factor averaged first, which loses their correlation; GHOST's older
             form.
magnitude    norm of the B row of in_proj times norm of the C row; looks at weights only.
random       uniform, seeded per layer; what pruning costs when nothing is known.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ghost.errors import SettingsError
from ghost.saliency.statistics import LayerStatistics


@dataclass(frozen=True)
class Method:
    """One way to rank. `score` maps a layer's statistics, its number and the seed to a saliency (g, n), float64."""

    name: str
    calibrates: bool
    score: Callable[[LayerStatistics, int, int], Tensor]


def _ghost(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    assert statistics.energy_gn is not None
    return statistics.energy_gn.clamp(min=0).sqrt()


def _ghost_mean(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    assert statistics.controllability_gn is not None and statistics.observability_gn is not None
    return (statistics.controllability_gn.clamp(min=0) * statistics.observability_gn).sqrt()


def _magnitude(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    return statistics.norm_b_gn * statistics.norm_c_gn


def _random(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    # Torch's generator takes 32 bits of a seed, too few to hold both numbers side by side.
    digest = hashlib.sha256(f"{seed} {layer}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4]))
    return torch.rand(statistics.norm_b_gn.shape, generator=generator, dtype=torch.float64)


METHODS = {
    method.name: method
    for method in (
        Method("ghost", True, _ghost),
        Method("ghost-mean", True, _ghost_mean),
        Method("magnitude", False, _magnitude),
        Method("random", False, _random),
    )
}


def find_method(name: str) -> Method:
    """The method of that name; SettingsError lists the known ones."""
    if name not in METHODS:
        raise SettingsError(f"method {name!r} is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]
