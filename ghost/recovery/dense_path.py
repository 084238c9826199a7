"""The dense model's path beside the pruned one: what each pruned mixer should have put out."""

import torch
from torch import Tensor

from ghost.backbone import Backbone, batches
from ghost.mixer import mixer_output
from ghost.ssd import ssd


class DensePath:
    """The dense residual stream on the calibration tokens (samples, length), at the entry of layer `position`.

    Costs one more residual stream of memory, a second while a layer is fitted, and one dense mixer forward per layer.
    """

    def __init__(self, backbone: Backbone, tokens_bl: Tensor) -> None:
        self.backbone, self.position = backbone, 0
        self.hidden_blm = backbone.embed(tokens_bl)
        self._outputs_blm: Tensor | None = None

    def outputs(self) -> Tensor:
        """What the dense mixer at the position adds to the stream, (b, l, d_model)."""
        if self._outputs_blm is None:
            self._outputs_blm = self._compute()
        return self._outputs_blm

    def advance(self) -> None:
        """Past the layer at the position."""
        self.hidden_blm += self.outputs()
        self._outputs_blm, self.position = None, self.position + 1

    def _compute(self) -> Tensor:
        layer, outputs_blm = self.backbone.layer(self.position), torch.empty_like(self.hidden_blm)
        for part in batches(*self.hidden_blm.shape[:2]):
            z, *recurrence = self.backbone.inputs(layer, self.hidden_blm[part])
            outputs_blm[part] = mixer_output(layer.layout, layer.mixer, ssd(*recurrence)[0], z)
        return outputs_blm
