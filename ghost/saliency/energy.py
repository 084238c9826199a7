"""Rankings by the energies of the state: GHOST and its older form."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ghost.mixer import MixerInputs
from ghost.saliency.statistics import LayerStatistics
from ghost.ssd import Energies, energies
from ghost.team import ALONE, Team


def measure_energies(
    norms: LayerStatistics, batches: Iterable[MixerInputs], where: str, team: Team = ALONE
) -> LayerStatistics:
    """`norms` with the energies of a layer whose inputs come in batches."""
    energy_gn, controllability_gn, observability_gn, tokens = team.sums(_sums(x) for x in batches)
    return norms.with_energies(Energies(energy_gn, controllability_gn, observability_gn, int(tokens)), where)


def _sums(x: MixerInputs) -> tuple[Tensor, ...]:
    sums = energies(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn)
    return sums.energy_gn, sums.controllability_gn, sums.observability_gn, torch.tensor(sums.tokens)


def ghost(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """sqrt(E C_t^2 |H_t|^2), controllability times observability per step, then averaged: exactly the root mean
    squared change of y from zeroing the channel (GHOST, arXiv:2602.11408)."""
    assert statistics.energy_gn is not None
    return statistics.energy_gn.clamp(min=0).sqrt()


def ghost_mean(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """sqrt(E |H_t|^2 * E C_t^2), each factor averaged first, which loses their correlation; GHOST's older form."""
    assert statistics.controllability_gn is not None and statistics.observability_gn is not None
    return (statistics.controllability_gn.clamp(min=0) * statistics.observability_gn).sqrt()
