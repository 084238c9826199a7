"""Rankings that look at sets of channels: joint elimination and rank-revealing QR, both on one matrix.

With the readout-weighted state Z_t[n] = C_t[n] H_t[n] (a row over the group's heads and headdim), the coupling is the
controllability Gramian of Z,

    M[n,m] = E <Z_t[n], Z_t[m]>        E over (sample, step), <,> over heads and headdim

y is the sum of Z over channels, so zeroing a set S changes it by 1_S^T M 1_S in mean square; the diagonal is GHOST's
squared saliency. A matrix product of N^2 P multiplications per head and step: taken on every `EVERY`-th step, since all
steps would cost several times the mixer itself.
"""

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


def coupling(batches: Iterable[MixerInputs], every: int = EVERY, team: Team = ALONE) -> Tensor:
    """M (g, n, n), float64 on the CPU, from every `every`-th step; exact for 1."""
    total_gnn, visits = team.sums(_sum(x, every) for x in batches)
    return total_gnn.cpu() / visits


def _sum(x: MixerInputs, every: int) -> tuple[Tensor, Tensor]:
    """The sum that M is the mean of, and the number of states that it is over."""
    total_gnn, visits = torch.zeros((), dtype=STATISTICS, device=x.B_blgn.device), 0
    for C_bcgn, H_bcgnrp in states(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn, every=every):
        Z_bcgnk = (C_bcgn[..., None, None] * H_bcgnrp).flatten(4)
        total_gnn = total_gnn + (Z_bcgnk @ Z_bcgnk.mT).sum((0, 1), dtype=STATISTICS)
        visits += C_bcgn.shape[0] * C_bcgn.shape[1]
    return total_gnn, torch.tensor(visits)


def measure_coupling(
    norms: LayerStatistics, batches: Iterable[MixerInputs], where: str, team: Team = ALONE
) -> LayerStatistics:
    """`norms` with energies and coupling."""
    measured = measure_energies(norms, batches, where, team)
    return replace(measured, coupling_gnn=finite(coupling(batches, team=team), "the state's couplings", where))


def rrqr(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """What is left of each channel when QR with column pivoting takes it: sqrt of the pivots of M's Cholesky.

    Selection of the key channels of DeltaNet models by rank-revealing QR (arXiv:2602.04852), carried over: the columns
    are the channels of Z instead of activations of q and k, and pivoted Cholesky of M = Z^T Z is pivoted QR of Z.
    The swaps of *strong* RRQR are left out: they depend on the number kept, and a saliency must not.
    """
    assert statistics.coupling_gnn is not None
    return torch.stack([_pivots(M_nn) for M_nn in statistics.coupling_gnn])


def _pivots(M_nn: Tensor) -> Tensor:
    residual_nn, pivots_n = M_nn.clone(), torch.zeros(len(M_nn), dtype=M_nn.dtype)
    remaining = torch.ones(len(M_nn), dtype=torch.bool)
    for _ in range(len(M_nn)):
        n = int(residual_nn.diagonal().masked_fill(~remaining, -torch.inf).argmax())
        remaining[n], pivot = False, residual_nn[n, n].clone()
        # Below rounding nothing is left: a channel that depends on those taken has saliency 0.
        if pivot > M_nn.diagonal().max() * torch.finfo(torch.float32).eps:
            pivots_n[n] = pivot.sqrt()
            residual_nn -= torch.outer(residual_nn[:, n], residual_nn[n]) / pivot
    return pivots_n


def ghost_joint(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """Position of each channel in a greedy elimination, 0 for the first to go: at every step the channel goes that
    raises 1_S^T M 1_S, the mean squared change of y from all that went so far, the least. Ours.
    """
    assert statistics.coupling_gnn is not None
    return torch.stack([_elimination(M_nn) for M_nn in statistics.coupling_gnn])


def _elimination(M_nn: Tensor) -> Tensor:
    rise_n, position_n = M_nn.diagonal().clone(), torch.zeros(len(M_nn), dtype=M_nn.dtype)
    for position in range(len(M_nn)):
        n = int(rise_n.argmin())
        position_n[n] = position
        rise_n += 2 * M_nn[n]
        rise_n[n] = torch.inf
    return position_n
