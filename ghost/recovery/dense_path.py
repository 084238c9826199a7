"""The dense model's path beside the pruned one: what each pruned mixer should have put out."""

import torch
from torch import Tensor

from ghost.stack import Stack


class DensePath:
    """The dense residual stream on the calibration tokens (samples, length), at the entry of layer `position`.

    Costs one more residual stream of memory, a second while a layer is fitted, and one dense forward per layer.
    """

    def __init__(self, stack: Stack, tokens_bl: Tensor) -> None:
        self.stack, self.position = stack, 0
        self.stream = stack.enter(tokens_bl)
        self._outputs_blm: Tensor | None = None

    def outputs(self) -> Tensor:
        """What the dense mixer at the position puts out, (b, l, d_model)."""
        if self._outputs_blm is None:
            layer = self.stack.layer(self.position)
            parts = [layer.mixed(layer.inputs(part)) for _, part in self.stream.batches()]
            self._outputs_blm = torch.cat(parts)
        return self._outputs_blm

    def advance(self) -> None:
        """Past the layer at the position."""
        layer, outputs_blm = self.stack.layer(self.position), self._outputs_blm
        for rows, part in self.stream.batches():
            left_blm = layer.advance(part) if outputs_blm is None else layer.leave(part, outputs_blm[rows])
            self.stream.put(rows, left_blm)
        self._outputs_blm, self.position = None, self.position + 1
