"""Which state channels stay: a budget, two policies, and the selection that the rest of ghost passes around."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from ghost.errors import SettingsError
from ghost.mixer import project

Policy = Literal["balanced", "pooled"]


class Channels(Protocol):
    """What is done to B and C after the convolution: cut to some channels, masked, projected."""

    def cut(self, B_blgn: Tensor, C_blgn: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Selection:
    """The channels of one layer that stay, with the saliency that chose them.

    `saliency_gn` is float64, `kept_gn` bool, both (n_groups, d_state).
    """

    saliency_gn: Tensor
    kept_gn: Tensor

    @cached_property
    def width(self) -> int:
        """State size that holds the fullest group; the other groups are padded to it with zeros."""
        return int(self.kept_gn.sum(-1).max())

    @property
    def is_rectangular(self) -> bool:
        """Every group keeps the same number of channels, so that nothing is padded."""
        return bool((self.kept_gn.sum(-1) == self.width).all())

    def indices_gk(self, width: int | None = None) -> Tensor:
        """Kept channels of each group in rising order, -1 where a group keeps fewer than `width`."""
        width = self.width if width is None else width
        indices_gk = torch.full((self.kept_gn.shape[0], width), -1, dtype=torch.long)
        for group, kept_n in enumerate(self.kept_gn.cpu()):
            channels = kept_n.nonzero().squeeze(-1)
            indices_gk[group, : len(channels)] = channels
        return indices_gk

    def take(self, B_blgn: Tensor) -> Tensor:
        """B or C after the convolution, cut to the kept channels: (b, l, g, n) to (b, l, g, k)."""
        indices_gk = self.indices_gk().to(B_blgn.device)
        index_blgk = indices_gk.clamp(min=0).expand(*B_blgn.shape[:2], -1, -1)
        taken_blgk = B_blgn.gather(-1, index_blgk)
        return taken_blgk if self.is_rectangular else taken_blgk.masked_fill(indices_gk < 0, 0)

    def cut(self, B_blgn: Tensor, C_blgn: Tensor) -> tuple[Tensor, Tensor]:
        """Both, taken."""
        return self.take(B_blgn), self.take(C_blgn)


@dataclass(frozen=True, eq=False)
class Masked:
    """A selection that zeroes what it drops instead of cutting it out; equal in what it computes."""

    selection: Selection

    def take(self, B_blgn: Tensor) -> Tensor:
        """B or C after the convolution, same shape."""
        return B_blgn.masked_fill(~self.selection.kept_gn.to(B_blgn.device), 0)

    def cut(self, B_blgn: Tensor, C_blgn: Tensor) -> tuple[Tensor, Tensor]:
        """Both, masked."""
        return self.take(B_blgn), self.take(C_blgn)


@dataclass(frozen=True, eq=False)
class Projection:
    """What is done to B and C after the convolution instead of a selection: each goes through a matrix (g, r, n), in
    its own dtype and on its own device."""

    B_grn: Tensor
    C_grn: Tensor

    def cut(self, B_blgn: Tensor, C_blgn: Tensor) -> tuple[Tensor, Tensor]:
        """Both, projected: (b, l, g, n) to (b, l, g, r)."""
        return project(B_blgn, self.B_grn.to(B_blgn)), project(C_blgn, self.C_grn.to(C_blgn))


def kept_count(d_state: int, sparsity: float, round_to: int) -> int:
    """Channels that stay per group: (1 - sparsity) of d_state, rounded to a multiple of `round_to`, halves up.

    Raises SettingsError where that leaves nothing, or everything.
    """
    if d_state < round_to:
        raise SettingsError(
            f"d_state is {d_state}, less than --round-to {round_to}; give --round-to {max(1, d_state // 2)} or less"
        )
    multiples = round((1 - sparsity) * d_state / round_to, 9)  # 1 - 0.9 falls short of 0.1, and so of a half
    kept = int(multiples + 0.5) * round_to
    if kept < 1:
        raise SettingsError(
            f"sparsity {sparsity} of d_state {d_state} rounds to 0 kept channels at --round-to {round_to}; "
            "lower --sparsity or --round-to"
        )
    if kept >= d_state:
        raise SettingsError(
            f"sparsity {sparsity} of d_state {d_state} rounds to all {d_state} channels kept at --round-to {round_to}; "
            "raise --sparsity or lower --round-to"
        )
    return kept


def check_kept(kept: int, d_state: int) -> None:
    """SettingsError unless so many channels of d_state can be kept, and some dropped."""
    if not 0 < kept < d_state:
        most = f"1 to {d_state - 1}" if d_state > 1 else "another model"
        raise SettingsError(f"keep: {kept} of d_state {d_state} drops nothing or leaves nothing; give {most}")


def select(saliency_gn: Tensor, kept: int, policy: Policy = "balanced") -> Selection:
    """Keep the `kept` most salient channels of every group, or `kept * n_groups` of the whole layer (`pooled`, as in
    the paper). Ties go to the lower channel, so that the same saliency gives the same selection everywhere."""
    saliency_gn = saliency_gn.to(torch.float64).cpu()
    kept_gn = torch.zeros(saliency_gn.shape, dtype=torch.bool)
    if policy == "balanced":
        order_gn = saliency_gn.argsort(dim=-1, descending=True, stable=True)
        kept_gn.scatter_(-1, order_gn[:, :kept], True)
    else:
        order = saliency_gn.flatten().argsort(descending=True, stable=True)
        kept_gn.view(-1)[order[: kept * saliency_gn.shape[0]]] = True
    return Selection(saliency_gn, kept_gn)
