"""The Gramians of a mixer's state axis: what the inputs excite, and what the readout sees.

    Wc = E sum_{heads of the group, p} H_t H_t^T        Wo = E C_t C_t^T        E over (sample, step)

Both are exact means over every step, from matrix products over chunks; no state inside a chunk is formed. What step s
writes, and what it meets of earlier states, counts at every later step, `c_s = sum_{t>=s} L[t,s]^2` times in all. For a
chunk entered with H_0 that is

    sum_t H_t H_t^T = sym(B^T R) + (sum_t alpha_t^2) H_0 H_0^T       R_s = c_s ((W * U U^T) B + alpha * (U H_0^T))_s

with sym(M) = M + M^T, W = L below the diagonal and 1/2 on it. The heads of a group share B, so (c W * U U^T) and
(c alpha U) H_0^T are added up over them first. The diagonal of Wc is `controllability_gn` of `ghost.ssd.energies`.
"""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor

from ghost.chunks import CHUNK, Piece, sequences
from ghost.mixer import MixerInputs
from ghost.ssd import STATISTICS
from ghost.team import ALONE, Team


def gramians(batches: Iterable[MixerInputs], chunk: int = CHUNK, team: Team = ALONE) -> tuple[Tensor, Tensor]:
    """Wc and Wo (g, n, n), float64 on the CPU: means over every (sample, step) of the batches."""
    Wc_gnn, Wo_gnn, steps = team.sums(_sums(x, chunk) for x in batches)
    return Wc_gnn.cpu() / steps, Wo_gnn.cpu() / steps


def _sums(x: MixerInputs, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sums that both are means of, and the steps of all samples."""
    g, n = x.B_blgn.shape[2:]
    Wc_gnn = torch.zeros(g, n, n, dtype=STATISTICS, device=x.B_blgn.device)
    Wo_gnn = torch.zeros_like(Wc_gnn)
    for piece in chain.from_iterable(sequences(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn, chunk)):
        Wc_gnn += _controllability(piece).sum((0, 1), dtype=STATISTICS)
        Wo_gnn += (piece.C_bcgqn.mT @ piece.C_bcgqn).sum((0, 1), dtype=STATISTICS)
    return Wc_gnn, Wo_gnn, torch.tensor(x.dt_blh[..., 0].numel())


def _controllability(p: Piece) -> Tensor:
    """sum over t and heads of H_t H_t^T (b, c, g, n, n), for every chunk of a piece."""
    H_bcgnrp, later_bcgrs = p.entry_states(), p.L_bcgrqs.square().sum(-2)
    gram_bcgrqs = (p.u_bcgrqp @ p.u_bcgrqp.mT).mul_(p.L_bcgrqs).mul_(later_bcgrs.unsqueeze(-1))
    gram_bcgrqs.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    u_bcgrqp = p.u_bcgrqp * (p.alpha_bcgrq * later_bcgrs).unsqueeze(-1)
    R_bcgqn = gram_bcgrqs.sum(3) @ p.B_bcgqn
    R_bcgqn += u_bcgrqp.transpose(3, 4).flatten(4) @ H_bcgnrp.flatten(4).mT
    written_bcgnn = p.B_bcgqn.mT @ R_bcgqn
    entry_bcgnrp = H_bcgnrp * p.alpha_bcgrq.square().sum(-1).sqrt()[:, :, :, None, :, None]
    entry_bcgnk = entry_bcgnrp.flatten(4)
    return written_bcgnn + written_bcgnn.mT + entry_bcgnk @ entry_bcgnk.mT
