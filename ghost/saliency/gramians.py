"""The Gramians of a mixer's state axis: what the inputs excite, and what the readout sees.

    Wc = E sum_{heads of the group, p} H_t H_t^T        Wo = E C_t C_t^T        E over (sample, step)

Both are exact means over every step, from matrix products over chunks; no state inside a chunk is formed. What step s
writes, and what it meets of earlier states, counts at every later step, `c_s = sum_{t>=s} L[t,s]^2` times in all. For a
chunk entered with H_0 that is

    sum_t H_t H_t^T = sym(B^T R) + (sum_t alpha_t^2) H_0 H_0^T       R_s = c_s ((W * U U^T) B + 2 alpha * (U H_0^T))_s

with sym(M) = (M + M^T) / 2, W = 2 L below the diagonal and 1 on it. The heads of a group share B, so (c W * U U^T) and
(c alpha U) H_0^T are added up over them first. The diagonal of Wc is `controllability_gn` of `ghost.ssd.energies`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ghost.mixer import MixerInputs
from ghost.ssd import CHUNK, STATISTICS, Chunk, chunks, entry_state


def gramians(batches: Iterable[MixerInputs], chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Wc and Wo (g, n, n), float64 on the CPU: means over every (sample, step) of the batches."""
    sums = [_sums(x, chunk) for x in batches]
    steps = sum(x.dt_blh.shape[0] * x.dt_blh.shape[1] for x in batches)
    Wc_gnn, Wo_gnn = (torch.stack(part).sum(0).cpu() / steps for part in zip(*sums, strict=True))
    return Wc_gnn, Wo_gnn


def _sums(x: MixerInputs, chunk: int) -> tuple[Tensor, Tensor]:
    H_bgrnp = entry_state(x.x_blhp, x.B_blgn)
    g, n = x.B_blgn.shape[2:]
    Wc_gnn = torch.zeros(g, n, n, dtype=STATISTICS, device=x.B_blgn.device)
    Wo_gnn = torch.zeros_like(Wc_gnn)
    for c in chunks(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn, chunk):
        Wc_gnn += _controllability(c, H_bgrnp).to(STATISTICS)
        C_gkn = c.C_bgqn.transpose(0, 1).flatten(1, 2)
        Wo_gnn += (C_gkn.mT @ C_gkn).to(STATISTICS)
        H_bgrnp = c.next_state(H_bgrnp)
    return Wc_gnn, Wo_gnn


def _controllability(c: Chunk, H_bgrnp: Tensor) -> Tensor:
    """sum over batch and t of H_t H_t^T (g, n, n) of one chunk that is entered with H."""
    later_bgrs = c.L_bgrqs.square().sum(-2)
    gram_bgrqs = (c.u_bgrqp @ c.u_bgrqp.mT) * c.L_bgrqs * (2 * later_bgrs).unsqueeze(-1)
    gram_bgrqs.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    R_bgqn = gram_bgrqs.sum(2) @ c.B_bgqn
    u_bgrqp = c.u_bgrqp * (2 * c.alpha_bgrq * later_bgrs).unsqueeze(-1)
    R_bgqn += u_bgrqp.transpose(2, 3).flatten(3) @ H_bgrnp.transpose(3, 4).flatten(2, 3)
    written_gnn = (c.B_bgqn.mT @ R_bgqn).sum(0)
    entry_bgrnp = H_bgrnp * c.alpha_bgrq.square().sum(-1).sqrt()[..., None, None]
    entry_gnk = entry_bgrnp.permute(1, 3, 0, 2, 4).flatten(2)
    return (written_gnn + written_gnn.mT) / 2 + entry_gnk @ entry_gnk.mT
