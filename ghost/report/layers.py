"""One layer as the summary page sees it: what its channels scored and which of them stayed."""

from dataclasses import dataclass

import numpy as np

# A log scale has no zero. Whatever lies this far below its layer's largest channel is drawn at the foot of the plot.
FLOOR = 1e-5


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerView:
    """Saliency and selection of one layer.

    `saliency_gn` is float64, at least 0, and `kept_gn` bool, both (n_groups, d_state). `energy_dropped` is the share
    of the layer's squared saliency that went with the dropped channels, None where the method measures no energy.
    Raises ValueError where the arrays don't fit each other or the saliency isn't finite.
    """

    layer: int
    saliency_gn: np.ndarray
    kept_gn: np.ndarray
    energy_dropped: float | None

    def __post_init__(self) -> None:
        if self.saliency_gn.ndim != 2 or self.saliency_gn.shape != self.kept_gn.shape:
            raise ValueError(
                f"layer {self.layer}: saliency_gn is {self.saliency_gn.shape}, kept_gn {self.kept_gn.shape}; "
                "both must be (n_groups, d_state)"
            )
        if not (np.isfinite(self.saliency_gn) & (self.saliency_gn >= 0)).all():
            raise ValueError(
                f"layer {self.layer}: saliency_gn has negative or non-finite values; score the layer again"
            )

    @property
    def largest(self) -> float:
        """Saliency of the layer's most salient channel."""
        return float(self.saliency_gn.max())

    @property
    def relative_gn(self) -> np.ndarray:
        """Saliency as a share of the layer's largest, (n_groups, d_state); all 0 in a dead layer."""
        return self.saliency_gn / (self.largest or 1.0)

    @property
    def below_floor_gn(self) -> np.ndarray:
        """Channels too small for the plot's log scale, dead ones among them; bool, (n_groups, d_state)."""
        return self.relative_gn < FLOOR
