"""One layer as the summary page sees it: what its channels scored, what was measured of them, which of them stayed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

# A log scale has no zero. Whatever lies this far below its layer's largest channel is drawn at the foot of the plot.
FLOOR = 1e-5
ENERGIES = ("energy", "controllability", "observability")
NORMS = ("norm_b", "norm_c")


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerView:
    """Saliency and selection of one layer.

    `saliency_gn` is finite float64 and `kept_gn` bool, both (n_groups, d_state). `energy_dropped` is the share of the
    layer's energy that went with the dropped channels, None where the method measures none. `measured` has the
    statistics of the run among ENERGIES and NORMS by name, (n_groups, d_state) each. `recovery` says what recovery
    chose, and `kl` has KL(dense || pruned) on held-back windows, nats a token, without it and with it, None where it
    is not finite. Raises ValueError where the arrays don't fit each other or the saliency isn't finite.
    """

    layer: int
    saliency_gn: np.ndarray
    kept_gn: np.ndarray
    energy_dropped: float | None
    measured: Mapping[str, np.ndarray] = field(default_factory=dict)
    recovery: str | None = None
    kl: tuple[float | None, float | None] | None = None

    def __post_init__(self) -> None:
        shapes = {"kept_gn": self.kept_gn.shape} | {name: array.shape for name, array in self.measured.items()}
        for name, shape in shapes.items():
            if self.saliency_gn.ndim != 2 or shape != self.saliency_gn.shape:
                raise ValueError(
                    f"layer {self.layer}: saliency_gn is {self.saliency_gn.shape}, {name} {shape}; "
                    "both must be (n_groups, d_state)"
                )
        if not np.isfinite(self.saliency_gn).all():
            raise ValueError(f"layer {self.layer}: saliency_gn has non-finite values; score the layer again")

    @property
    def largest(self) -> float:
        """Saliency of the layer's most salient channel."""
        return float(self.saliency_gn.max())

    @property
    def below_floor_gn(self) -> np.ndarray:
        """Channels too small for the plot's log scale, dead ones among them; bool, (n_groups, d_state)."""
        return self.saliency_gn < FLOOR * self.largest if self.largest > 0 else np.ones_like(self.kept_gn)

    @property
    def norm_gn(self) -> np.ndarray | None:
        """Norm of a channel's B row times that of its C row, where the run has them."""
        return self.measured["norm_b"] * self.measured["norm_c"] if set(NORMS) <= set(self.measured) else None
