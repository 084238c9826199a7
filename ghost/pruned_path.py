"""The pruned model's path: tokens through what is left of each layer. Recovery has the dense model's beside it."""

from collections.abc import Iterator

from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.mixer import MixerInputs, Weights
from ghost.selection import Channels
from ghost.stack import Stack


class PrunedPath:
    """The residual stream on the calibration tokens (samples, length), at the entry of layer `position`.

    What enters the recurrence there is computed once: it serves the layer's statistics, and then the way on.
    """

    def __init__(self, stack: Stack, tokens_bl: Tensor) -> None:
        self.stack, self.position = stack, 0
        self.stream = stack.enter(tokens_bl)
        self._held: tuple[DecoderLayer, list[MixerInputs]] | None = None

    def inputs(self) -> tuple[DecoderLayer, list[MixerInputs]]:
        """The layer at the position, and what enters its recurrence for every batch; both are held."""
        if self._held is None:
            layer = self.stack.layer(self.position)
            self._held = layer, [layer.inputs(part) for _, part in self.stream.batches()]
        return self._held

    def let_go(self) -> None:
        """Of what is held: no statistics are asked for any more, and another mixer is taken on the way on."""
        self._held = None

    def mixer_inputs(self) -> Iterator[Tensor]:
        """What the mixer at the position is given, (b, l, m), batch by batch."""
        layer = self.stack.layer(self.position)
        return (layer.mixer_input(part) for _, part in self.stream.batches())

    def advance(self, channels: Channels | None = None, mixer: Weights | None = None) -> None:
        """Past the layer at the position, in place and batch by batch: with B and C through `channels` (as they are for
        None), or with another `mixer` in place of the checkpoint's."""
        if mixer is not None:
            self.let_go()
        layer, held = self._held or (self.stack.layer(self.position, mixer), [])
        for number, (rows, part) in enumerate(self.stream.batches()):
            mixed_blm = layer.mixed(held[number], channels) if held else None
            left_blm = layer.advance(part, channels) if mixed_blm is None else layer.leave(part, mixed_blm)
            self.stream.put(rows, left_blm)
        self._held, self.position = None, self.position + 1
