"""What is known of a layer's state channels: weight norms always, energies after a calibration pass."""

from dataclasses import dataclass

from torch import Tensor

from ghost.errors import CheckpointError
from ghost.mixer import MixerLayout, Weights
from ghost.ssd import STATISTICS, Energies


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Per group and channel, float64 (g, n). Energies are means over all (sample, step); None without calibration."""

    norm_b_gn: Tensor
    norm_c_gn: Tensor
    energy_gn: Tensor | None = None
    controllability_gn: Tensor | None = None
    observability_gn: Tensor | None = None
    tokens: int = 0

    def with_energies(self, sums: Energies, where: str) -> "LayerStatistics":
        """The same with the energies' means. CheckpointError where activations overflowed."""
        means = [sums.energy_gn, sums.controllability_gn, sums.observability_gn]
        if not all(bool(m.isfinite().all()) for m in means):
            raise CheckpointError(
                f"{where}: the state's energies are not finite; try --dtype float32, or check the weights"
            )
        energy, controllability, observability = (m.cpu() / sums.tokens for m in means)
        return LayerStatistics(self.norm_b_gn, self.norm_c_gn, energy, controllability, observability, sums.tokens)


def row_norms(layout: MixerLayout, weights: Weights) -> LayerStatistics:
    """L2 norms of the rows of in_proj that make B and C; no calibration needed."""
    rows = weights["in_proj.weight"].to(STATISTICS).norm(dim=-1).cpu()
    _, _, B_n, C_n, _ = rows.split(layout.in_proj_sections)
    groups = (layout.n_groups, layout.d_state)
    return LayerStatistics(norm_b_gn=B_n.unflatten(0, groups), norm_c_gn=C_n.unflatten(0, groups))
