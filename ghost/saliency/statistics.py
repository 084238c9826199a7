"""What is known of a layer's state channels: weight norms always, the rest as the method needs it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ghost.errors import CheckpointError
from ghost.mixer import MixerLayout, Weights
from ghost.ssd import STATISTICS, Energies


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Per group and channel, float64 (g, n). Means are over all (sample, step); None where nothing measured them."""

    norm_b_gn: Tensor
    norm_c_gn: Tensor
    energy_gn: Tensor | None = None
    controllability_gn: Tensor | None = None
    observability_gn: Tensor | None = None
    gradient_gn: Tensor | None = None
    fisher_gn: Tensor | None = None
    rank_gn: Tensor | None = None
    coupling_gnn: Tensor | None = None
    controllability_gramian_gnn: Tensor | None = None
    """Controllability Gramian, E of the sum over heads and headdim of H_t H_t^T."""
    observability_gramian_gnn: Tensor | None = None
    """Observability Gramian, E C_t C_t^T."""
    tokens: int = 0

    def with_energies(self, sums: Energies, where: str) -> "LayerStatistics":
        """The same with the energies' means. CheckpointError where activations overflowed."""
        means = {
            name: finite(getattr(sums, name).cpu() / sums.tokens, "the state's energies", where)
            for name in ("energy_gn", "controllability_gn", "observability_gn")
        }
        return replace(self, **means, tokens=sums.tokens)

    def energy_dropped(self, kept_gn: Tensor) -> float | None:
        """Share of the squared saliency that lies in channels that are not kept (bool (g, n)); None where the method
        measures no energy."""
        return None if self.energy_gn is None else dropped_share(self.energy_gn, kept_gn)


def dropped_share(energy: Tensor, kept: Tensor) -> float:
    """Share of these channels' energy that lies in those that go; 0 where they have none."""
    total = energy.sum()
    return float(torch.where(kept, 0, energy).sum() / total) if total else 0.0


def finite(statistic: Tensor, what: str, where: str) -> Tensor:
    """The tensor as it is; CheckpointError where it overflowed."""
    if not bool(statistic.isfinite().all()):
        raise CheckpointError(f"{where}: {what} are not finite; try --dtype float32, or check the weights")
    return statistic


def row_norms(layout: MixerLayout, weights: Weights) -> LayerStatistics:
    """L2 norms of the rows of in_proj that make B and C; no calibration needed."""
    rows = weights["in_proj.weight"].to(STATISTICS).norm(dim=-1).cpu()
    _, _, B_n, C_n, _ = rows.split(layout.in_proj_sections)
    groups = (layout.n_groups, layout.d_state)
    return LayerStatistics(norm_b_gn=B_n.unflatten(0, groups), norm_c_gn=C_n.unflatten(0, groups))
