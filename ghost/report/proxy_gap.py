"""How far the norms of a channel's weights are from the energy that the channel carries: GHOST's proxy gap."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ProxyGap:
    """What ranking by static norms would have done to channels that were ranked by their dynamic energy.

    `pearson` is the correlation of the two over all channels, None where either is the same everywhere. `phantom` is
    the share of all channels that only the norms would keep, `corporeal` the share that only the energy would keep.
    """

    pearson: float | None
    phantom: float
    corporeal: float

    @property
    def disagreement(self) -> float:
        """Share of all channels on which norms and energy disagree."""
        return self.phantom + self.corporeal


def proxy_gap(norm_gn: np.ndarray, energy_gn: np.ndarray, kept: int) -> ProxyGap:
    """Norm products against energies where `kept` channels of each row stay.

    Both (rows, d_state): every group of every layer a row, ranked by itself as the selection does; or a single row of
    all channels, to rank a whole model at once. Equal values rank by their position. The two shares are equal, since
    both rankings keep as many. ValueError for other shapes or a count outside the row. GHOST, arXiv:2602.11408: -0.19
    and 20.66% + 20.64% at half of the channels of Mamba2-1.3B.
    """
    if norm_gn.ndim != 2 or norm_gn.shape != energy_gn.shape or not 0 < kept <= norm_gn.shape[1]:
        raise ValueError(
            f"norm_gn is {norm_gn.shape}, energy_gn {energy_gn.shape}, kept {kept}; give two tables of the same "
            "(rows, d_state), and 1 to d_state kept"
        )
    by_norm_gn, by_energy_gn = highest(norm_gn, kept), highest(energy_gn, kept)
    return ProxyGap(
        pearson=_pearson(norm_gn.ravel(), energy_gn.ravel()),
        phantom=float((by_norm_gn & ~by_energy_gn).mean()),
        corporeal=float((by_energy_gn & ~by_norm_gn).mean()),
    )


def highest(score_gn: np.ndarray, kept: int) -> np.ndarray:
    """Mask of the `kept` highest of each row, bool (rows, d_state); equal values rank by their position."""
    kept_gn = np.zeros(score_gn.shape, dtype=bool)
    np.put_along_axis(kept_gn, np.argsort(-score_gn, axis=-1, kind="stable")[:, :kept], True, -1)
    return kept_gn


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    dx, dy = x - x.mean(), y - y.mean()
    scale = np.sqrt((dx @ dx) * (dy @ dy))
    return float(dx @ dy / scale) if scale > 0 else None
