"""The pruned model's path: tokens through what is left of each layer. Recovery has the dense model's beside it."""

from collections.abc import Iterator

from torch import Tensor

from ghost.backbone import Backbone, Layer, batches, rms_norm
from ghost.mixer import MixerInputs, Weights
from ghost.selection import Channels


class PrunedPath:
    """The residual stream on the calibration tokens (samples, length), at the entry of layer `position`.

    What enters the recurrence there is computed once: it serves the layer's statistics, and then the way on.
    """

    def __init__(self, backbone: Backbone, tokens_bl: Tensor) -> None:
        self.backbone, self.position = backbone, 0
        self.hidden_blm = backbone.embed(tokens_bl)
        self._held: tuple[Layer, list[MixerInputs]] | None = None

    def inputs(self) -> tuple[Layer, list[MixerInputs]]:
        """The layer at the position, and what enters its recurrence for every batch; both are held."""
        if self._held is None:
            layer = self.backbone.layer(self.position)
            self._held = layer, [self.backbone.inputs(layer, self.hidden_blm[part]) for part in self._parts()]
        return self._held

    def let_go(self) -> None:
        """Of what is held: no statistics are asked for any more, and another mixer is taken on the way on."""
        self._held = None

    def normed(self) -> Iterator[Tensor]:
        """The normed inputs (b, l, m) of the mixer at the position, batch by batch."""
        norm_m, eps, dtype = self.backbone.layer(self.position).norm_m, self.backbone.norm_eps, self.backbone.dtype
        return (rms_norm(self.hidden_blm[part], norm_m, eps).to(dtype) for part in self._parts())

    def advance(self, channels: Channels | None, mixer: Weights | None) -> None:
        """Past the layer at the position, in place and batch by batch: with B and C through `channels` (as they are for
        None), or with another `mixer` in place of the checkpoint's."""
        if mixer is not None:
            self.let_go()
        layer, held = self._held or (self.backbone.layer(self.position, mixer), [])
        for number, part in enumerate(self._parts()):
            hidden_blm = self.hidden_blm[part]
            inputs = held[number] if held else self.backbone.inputs(layer, hidden_blm)
            self.hidden_blm[part] = self.backbone.advance(layer, hidden_blm, inputs, channels)
        self._held, self.position = None, self.position + 1

    def _parts(self) -> Iterator[slice]:
        return batches(*self.hidden_blm.shape[:2])
