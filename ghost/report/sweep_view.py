"""What the page of a sweep shows of one model's channels: made of plain arrays, with the figures that follow."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ghost.report.proxy_gap import ProxyGap, proxy_gap


@dataclass(frozen=True, eq=False, kw_only=True)
class Channels:
    """The channels of one layer as one run saw them, each array (n_groups, d_state).

    `norm_gn` is the norm of a channel's B row of in_proj times that of its C row, `energy_gn` the mean over tokens of
    C_t[n]^2 |H_t[n]|^2, both float64; `kept_gn` says by method which channels stayed.
    """

    layer: int
    norm_gn: np.ndarray
    energy_gn: np.ndarray
    kept_gn: dict[str, np.ndarray]

    def dropped_energy(self, method: str) -> float:
        """Share of the layer's energy in the channels that this method dropped."""
        total = float(self.energy_gn.sum())
        return float(self.energy_gn[~self.kept_gn[method]].sum()) / total if total else 0.0

    def gap(self, kept: int) -> ProxyGap:
        """Of this layer alone, where `kept` channels of every group stay."""
        return proxy_gap(self.norm_gn, self.energy_gn, kept)


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelView:
    """A model's layers in order, from the run of `method` at `sparsity` that measured the energies.

    `kept` is the number of channels of a group that stayed there, the average where it differs.
    """

    model: str
    method: str
    sparsity: float
    sequential: bool
    kept: int
    layers: tuple[Channels, ...]

    @cached_property
    def gap(self) -> ProxyGap:
        """Over all channels of the model, every group of every layer ranked by itself, as selections are made."""
        return proxy_gap(self.rows("norm_gn"), self.rows("energy_gn"), self.kept)

    @cached_property
    def log_pearson(self) -> float | None:
        """Pearson correlation of the logarithms, over the channels where both are above 0."""
        norm, energy = self.rows("norm_gn").ravel(), self.rows("energy_gn").ravel()
        above = (norm > 0) & (energy > 0)
        logs = [np.log10(values[above])[None] for values in (norm, energy)]
        return proxy_gap(*logs, kept=1).pearson if above.any() else None

    @cached_property
    def layer_pearson(self) -> float | None:
        """Mean over layers of the correlation within a layer, where there is one."""
        found = [pearson for view in self.layers if (pearson := view.gap(self.kept).pearson) is not None]
        return sum(found) / len(found) if found else None

    def rows(self, name: str) -> np.ndarray:
        """An array of all layers, a row per group of a layer: (layers * n_groups, d_state)."""
        return np.concatenate([getattr(view, name) for view in self.layers])
