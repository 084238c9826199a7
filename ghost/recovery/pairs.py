"""What a pruned mixer is fitted on: its inputs on the pruned path, and the dense mixer's outputs on the dense path."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ghost.backbone import Backbone, Layer, batches, rms_norm
from ghost.mixer import gated_norm, mixer_inputs
from ghost.selection import Channels
from ghost.ssd import ssd

HELD_BACK = 8
"""One window in so many is never fitted on."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Some windows of the calibration set at the entry of one layer.

    `hidden_blm` is the pruned path's residual stream, `target_blm` what the mixer should add to it, `tokens_bl` the
    windows themselves; `rows` picks the windows that count. `outlook` says what later layers are going to keep (every
    layer's channels by number): corrections are judged in the model as it will be.
    """

    backbone: Backbone
    tokens_bl: Tensor
    hidden_blm: Tensor
    target_blm: Tensor
    rows: Tensor
    outlook: Sequence[Channels]

    def split(self) -> tuple["Pairs", "Pairs"]:
        """The windows to fit on and those held back: whole windows, spread over the text."""
        held = torch.zeros(len(self.rows), dtype=torch.bool)
        held[min(len(self.rows), HELD_BACK) - 1 :: HELD_BACK] = True
        return replace(self, rows=self.rows[~held]), replace(self, rows=self.rows[held])

    def parts(self) -> Iterator[Tensor]:
        """Rows, about a batch of tokens at a time."""
        for part in batches(len(self.rows), self.tokens_bl.shape[1]):
            yield self.rows[part]

    def take(self, layer: Layer, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mixer's normed inputs and its targets for some windows, (b, l, d_model) each."""
        normed_blm = rms_norm(self.hidden_blm[rows], layer.norm_m, self.backbone.norm_eps).to(self.backbone.dtype)
        return normed_blm, self.target_blm[rows].float()

    def features(self, layer: Layer) -> Iterator[tuple[Tensor, Tensor]]:
        """What enters out_proj, and the targets, batch by batch: (tokens, d_inner) and (tokens, d_model), fp32."""
        for rows in self.parts():
            normed_blm, target_blm = self.take(layer, rows)
            z_bli, *recurrence = mixer_inputs(layer.layout, layer.mixer, normed_blm)
            y_blhp, _ = ssd(*recurrence)
            features_bli = gated_norm(layer.layout, layer.mixer, y_blhp.flatten(-2), z_bli)
            yield features_bli.flatten(0, 1), target_blm.flatten(0, 1)
