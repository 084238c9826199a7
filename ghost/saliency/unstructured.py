"""Rivals that zero single weights: the rows of in_proj that make B and C get thinner, and the state keeps its size.

No runtime gains from them; they are what a mask of the same sparsity could reach if states did not matter. Both look
at the mixer's normed inputs X over the calibration tokens. Shape suffixes here: o rows of in_proj, m d_model, c columns
of one block.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ghost.saliency.statistics import LayerStatistics, finite
from ghost.ssd import STATISTICS
from ghost.team import ALONE, Team

BLOCK = 128
"""Columns whose masks are chosen together, as the paper does."""
DAMPING = 0.01
"""Added to the Hessian's diagonal, as a share of its mean."""


def every_channel(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """1 for every channel, which is to stay: it is single weights of B and C that go (`wanda` and `sparsegpt` in
    ghost.saliency.unstructured, arXiv:2306.11695 and arXiv:2301.00774)."""
    return torch.ones_like(statistics.norm_b_gn)


def wanda(rows_om: Tensor, inputs: Iterable[Tensor], drop: int, where: str, team: Team = ALONE) -> Tensor:
    """Without the `drop` weights of each row that have the least |W_ij| |X_j| (Wanda, arXiv:2306.11695, equation 1).

    Compared within each output row, as the paper does. Ties go to the lower column.
    """
    squares = (x_blm.to(STATISTICS).square().sum((0, 1)) for x_blm in inputs)
    norms_m = finite(team.sum(squares).sqrt().cpu(), "the mixer's inputs", where)
    return rows_om.masked_fill(_lowest(rows_om.abs() * norms_m, drop), 0)


def sparsegpt(rows_om: Tensor, inputs: Iterable[Tensor], drop: int, where: str, team: Team = ALONE) -> Tensor:
    """Without `drop` weights of each row, the later columns' weights making up for each that goes (SparseGPT,
    arXiv:2301.00774, algorithm 1).

    With U the upper Cholesky factor of (X^T X + damping)^-1, the columns' blocks go from left to right: in each the
    weights of least (w_j / U_jj)^2 go, and what is right of j changes by -(w_j / U_jj) U_j. Ours: a row's share is kept
    in each row of a block, and not only on average over the rows, so that the rows are as thin as Wanda's.
    """
    rows_om, factor_mm = rows_om.clone(), _factor(inputs, where, team)
    width, dropped = rows_om.shape[1], 0
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        going = drop * end // width - dropped
        block, dropped = slice(start, end), dropped + going
        errors_oc = _thin_block(rows_om[:, block], factor_mm[block, block], going)
        rows_om[:, end:] -= errors_oc @ factor_mm[block, end:]
    return rows_om


def _thin_block(block_oc: Tensor, factor_cc: Tensor, drop: int) -> Tensor:
    """Zero `drop` weights of each row in place and mend the block; the errors (o, c) are for the columns after it."""
    gone_oc = _lowest((block_oc / factor_cc.diagonal()).square(), drop)
    errors_oc = torch.zeros_like(block_oc)
    for j in range(block_oc.shape[1]):
        errors_oc[:, j] = gone_oc[:, j] * block_oc[:, j] / factor_cc[j, j]
        block_oc[:, j:] -= torch.outer(errors_oc[:, j], factor_cc[j, j:])
    block_oc.masked_fill_(gone_oc, 0)  # rounding left almost zero
    return errors_oc


def _factor(inputs: Iterable[Tensor], where: str, team: Team) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped Hessian X^T X, (m, m) float64."""
    products = (_product(x_blm.flatten(0, 1)).to(STATISTICS) for x_blm in inputs)
    hessian_mm = finite(team.sum(products).cpu(), "the mixer's inputs", where)
    mean = float(hessian_mm.diagonal().mean())
    hessian_mm.diagonal().add_(DAMPING * mean if mean else 1.0)
    inverse_mm = torch.cholesky_inverse(torch.linalg.cholesky(hessian_mm))
    return torch.linalg.cholesky(inverse_mm, upper=True)


def _product(x_tm: Tensor) -> Tensor:
    x_tm = x_tm.to(torch.promote_types(x_tm.dtype, torch.float32))
    return x_tm.mT @ x_tm


def _lowest(score_om: Tensor, count: int) -> Tensor:
    """True for the `count` lowest of each row."""
    order_om = score_om.argsort(dim=-1, stable=True)
    return torch.zeros_like(score_om, dtype=torch.bool).scatter_(-1, order_om[:, :count], True)
