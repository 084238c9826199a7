"""Rankings by the energies of the state: GHOST and its older form."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ghost.mixer import MixerInputs
from ghost.saliency.statistics import LayerStatistics
from ghost.ssd import Energies, energies
from ghost.team import ALONE, Team


def measure_energies(
    norms: LayerStatistics, batches: Sequence[MixerInputs], where: str, team: Team = ALONE
) -> LayerStatistics:
    """`norms` with the energies of a layer whose inputs come in batches."""
    sums_3gn = team.sum(torch.stack(_sums(x)) for x in batches)
    energy_gn, controllability_gn, observability_gn = sums_3gn
    sums = Energies(energy_gn, controllability_gn, observability_gn, count(batches, team))
    return norms.with_energies(sums, where)


def _sums(x: MixerInputs) -> tuple[Tensor, Tensor, Tensor]:
    found = energies(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn)
    return found.energy_gn, found.controllability_gn, found.observability_gn


def count(batches: Sequence[MixerInputs], team: Team) -> int:
    """The steps of all samples."""
    return int(team.sum(torch.tensor(x.dt_blh.shape[0] * x.dt_blh.shape[1]) for x in batches))


def ghost(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """sqrt(E C_t^2 |H_t|^2), controllability times observability per step, then averaged: exactly the root mean
    squared change of y from zeroing the channel (GHOST, arXiv:2602.11408)."""
    assert statistics.energy_gn is not None
    return statistics.energy_gn.clamp(min=0).sqrt()


def ghost_mean(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """sqrt(E |H_t|^2 * E C_t^2), each factor averaged first, which loses their correlation; GHOST's older form."""
    assert statistics.controllability_gn is not None and statistics.observability_gn is not None
    return (statistics.controllability_gn.clamp(min=0) * statistics.observability_gn).sqrt()
