"""SparseSSM's time-aggregated second-order saliency, carried over to Mamba2."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ghost.mixer import MixerInputs
from ghost.saliency.energy import measure_energies
from ghost.saliency.statistics import LayerStatistics, finite
from ghost.ssd import STATISTICS, states
from ghost.team import ALONE, Team

EVERY = 4


def time_ranks(batches: Iterable[MixerInputs], where: str, team: Team = ALONE) -> Tensor:
    """Mean rank (g, n) of every channel, from 0 for the worst to 1, over every `EVERY`-th position of the windows."""
    total_lgn = team.sum(_weighted_energies(x) for x in batches).cpu()
    order_lgn = finite(total_lgn, "the state's energies", where).argsort(dim=-1, stable=True)
    ranks_lgn = order_lgn.argsort(dim=-1)
    return ranks_lgn.to(STATISTICS).mean(0) / max(1, ranks_lgn.shape[-1] - 1)


def _weighted_energies(x: MixerInputs) -> Tensor:
    """sum over samples, heads k and headdim of A_log_k^2 H_t[k,n]^2, (g, n) for each position visited."""
    groups, visited = x.B_blgn.shape[2], -(-x.B_blgn.shape[1] // EVERY)
    weight_gr = x.A_h.neg().log().square().unflatten(0, (groups, -1))
    energies_cgn = []
    for _, H_bcgnrp in states(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn, every=EVERY):
        H2_bcgnr = torch.linalg.vector_norm(H_bcgnrp, dim=-1).square()
        energies_cgn.append((H2_bcgnr * weight_gr.unsqueeze(1)).sum((0, 4), dtype=STATISTICS))
    return torch.cat(energies_cgn).unflatten(0, (-1, visited)).sum(0)  # some samples after the others


def measure_ranks(
    norms: LayerStatistics, batches: Iterable[MixerInputs], where: str, team: Team = ALONE
) -> LayerStatistics:
    """`norms` with energies and ranks over time."""
    measured = measure_energies(norms, batches, where, team)
    return replace(measured, rank_gn=time_ranks(batches, where, team))


def sparsessm(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """Mean over time of a channel's rank by the second-order saliency of A_log (SparseSSM, arXiv:2506.09613).

    SparseSSM scores an entry of Mamba's A_log (d_inner x N) at step t by A_log^2 sum_samples H_t^2, the trace of the
    optimal-brain-surgeon Hessian; for whole channels it adds up over d_inner, lets every step vote for the k worst and
    drops those with most votes. Two things are ours: Mamba2's A is a scalar per head, so A_log_k^2 weighs every channel
    of head k alike, and only its states tell channels apart; and steps give ranks instead of k votes, so that the
    saliency does not depend on the number kept. The readout C plays no part, as in the source.
    """
    assert statistics.rank_gn is not None
    return statistics.rank_gn
