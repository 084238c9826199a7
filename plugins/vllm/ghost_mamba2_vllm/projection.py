"""What the two projections do, and which part of them a process of tensor parallelism has; no vLLM in here.

Shape suffixes: t tokens, g groups, n state size before the projection, r after it, w = g * n.
"""

import torch
from torch import Tensor


def project(stacked_tw: Tensor, proj_grn: Tensor) -> Tensor:
    """B or C of all groups side by side, (t, g * n) to (t, g * r): each group by its own matrix."""
    groups, _, channels = proj_grn.shape
    stacked_tgn = stacked_tw.unflatten(-1, (groups, channels))
    return torch.einsum("tgn,grn->tgr", stacked_tgn, proj_grn).flatten(-2)


def share(whole_grn: Tensor, groups: int, rank: int) -> Tensor:
    """The matrices of process `rank`, whose mixers have so many groups. A single group is every process's, as vLLM has
    it: with several, their number is divisible by that of processes, or vLLM refuses."""
    start = 0 if whole_grn.shape[0] == 1 else rank * groups
    return whole_grn[start : start + groups]
