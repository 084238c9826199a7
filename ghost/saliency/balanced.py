"""Balanced truncation of a state axis (Moore 1981): the basis in which what is excited and what is read agree.

Mamba2's decay is one scalar per head, so the state's directions never mix over time: with rows T of B and T^-T of C the
output is that of the dense mixer, and with the first r rows it changes by C_t^T (I - T_r^+ T_r) H_t at step t, exactly.
Among all projections to r directions the balanced one makes the mean square of that the least, if C_t and H_t are
independent: then it is |Lo^T (I - P) Lc|_F^2, least at the truncated singular value decomposition of Lo^T Lc.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ghost.ssd import STATISTICS

RIDGE = 1e-8
"""Added to both Gramians, in units of their mean diagonal, below what sums of fp32 products can tell from zero. Makes T
invertible where channels are dead or the Gramians lack rank."""
NEGLIGIBLE = 1e-6
"""Hankel values below this part of the greatest are reported as 0."""


class Balanced(NamedTuple):
    """Hankel singular values (g, n), falling, and the directions of B (T) and C (T^-T), one a row (g, n, n); float64.

    `B_gnn[:, :r]` and `C_gnn[:, :r]` project to the r best. Both rows of a direction have the same norm, at least 1 and
    rarely much more: any scale of a row of T is free if T^-T has its inverse, and this one suits half precision.
    """

    hankel_gn: Tensor
    B_gnn: Tensor
    C_gnn: Tensor


def balance(Wc_gnn: Tensor, Wo_gnn: Tensor) -> Balanced:
    """The balanced basis of each group, by its Gramians (g, n, n). Directions that nothing excites or reads come
    last, with Hankel value 0. The same Gramians give the same bytes on one kind of machine."""
    balanced = [_balance(Wc_nn, Wo_nn) for Wc_nn, Wo_nn in zip(Wc_gnn.cpu(), Wo_gnn.cpu(), strict=True)]
    return Balanced(*(torch.stack(part) for part in zip(*balanced, strict=True)))


def _balance(Wc_nn: Tensor, Wo_nn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    Wc_nn, Wo_nn = Wc_nn.to(STATISTICS), Wo_nn.to(STATISTICS)
    Lc_nn, Lo_nn = _root(Wc_nn), _root(Wo_nn)
    U_nr, S_r, Vh_rn = torch.linalg.svd(Lo_nn.mT @ Lc_nn)
    B_rn, C_rn = U_nr.mT @ Lo_nn.mT, Vh_rn @ Lc_nn.mT
    # B C^T is S up to here. Rows of equal norm instead of S^-1/2 on both sides, and a sign that is always the same.
    sign_r = B_rn.gather(1, B_rn.abs().argmax(1, keepdim=True)).sign().squeeze(1)
    scale_r = sign_r * (C_rn.norm(dim=1) / (B_rn.norm(dim=1) * S_r)).sqrt()
    B_rn, C_rn = B_rn * scale_r[:, None], C_rn / (scale_r * S_r)[:, None]
    hankel_r = (_diagonal(B_rn, Wc_nn) * _diagonal(C_rn, Wo_nn)).sqrt()
    hankel_r = hankel_r.masked_fill(hankel_r <= NEGLIGIBLE * hankel_r.max(), 0)
    order_r = hankel_r.argsort(descending=True, stable=True)  # the ridge may turn the order of the faintest
    return hankel_r[order_r], B_rn[order_r], C_rn[order_r]


def _root(W_nn: Tensor) -> Tensor:
    """L with W = L L^T, of full rank by the ridge."""
    mean = W_nn.diagonal().mean().item()
    values_n, vectors_nn = torch.linalg.eigh(W_nn)
    return vectors_nn * (values_n.clamp(min=0) + RIDGE * (mean or 1.0)).sqrt()


def _diagonal(T_rn: Tensor, W_nn: Tensor) -> Tensor:
    return ((T_rn @ W_nn) * T_rn).sum(1).clamp(min=0)


def smallest_rank(hankel_gn: Sequence[Tensor], energy: float, round_to: int) -> int:
    """The fewest directions, a multiple of `round_to` (or all there are), whose squared Hankel values are at least the
    part `energy` (0 to 1) of a layer's sum, in every layer. One tensor a layer; its groups are added up."""
    return min(max(_rank(layer_gn, energy, round_to) for layer_gn in hankel_gn), hankel_gn[0].shape[-1])


def _rank(hankel_gn: Tensor, energy: float, round_to: int) -> int:
    carried_n = hankel_gn.to(STATISTICS).square().sum(0).cumsum(0)
    wanted = energy * carried_n[-1] * (1 - torch.finfo(STATISTICS).eps * len(carried_n))  # all of it may round below it
    fewest = int((carried_n < wanted).sum()) + 1
    return -(-fewest // round_to) * round_to
