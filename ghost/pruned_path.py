"""The pruned model's path: tokens through what is left of each layer. Recovery has the dense model's beside it."""

from collections.abc import Iterator

from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.mixer import MixerInputs, Weights, joined
from ghost.selection import Channels
from ghost.stack import Stack
from ghost.stream import Stream


class PrunedPath:
    """The residual stream on the calibration tokens (samples, length), at the entry of layer `position`.

    What enters the recurrence there serves the layer's statistics, and then the way on. It is computed once where it
    may be held, and otherwise again, in the same operations and so to the same bits.
    """

    def __init__(self, stack: Stack, tokens_bl: Tensor) -> None:
        self.stack, self.position = stack, 0
        self.stream = stack.enter(tokens_bl)
        self._held: BatchInputs | None = None

    def inputs(self) -> "BatchInputs":
        """What enters the recurrence of the layer at the position, which is held with as much of it as may be."""
        if self._held is None:
            self._held = BatchInputs(self.stack.layer(self.position), self.stream, self.stack.held_bytes)
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
        layer = self._held.layer if self._held else self.stack.layer(self.position, mixer)
        for number, (rows, part) in enumerate(self.stream.batches()):
            pieces = self._held.held.pop(number, None) if self._held else None
            left_blm = layer.leave(part, layer.mixed(pieces, channels)) if pieces else layer.advance(part, channels)
            self.stream.put(rows, left_blm)
        self._held, self.position = None, self.position + 1


class BatchInputs:
    """What enters the recurrence of `layer`, batch by batch, as often as it is asked for.

    The pieces of as many batches as `held_bytes` admit are held, by the number of the batch; those of the others are
    computed each time.
    """

    def __init__(self, layer: DecoderLayer, stream: Stream, held_bytes: int) -> None:
        self.layer, self.held = layer, dict[int, list[MixerInputs]]()
        self._stream, self._left = stream, held_bytes

    def __iter__(self) -> Iterator[MixerInputs]:
        for number, (_, part) in enumerate(self._stream.batches()):
            pieces = self.held.get(number) or list(self.layer.inputs(part))
            self._hold(number, pieces)
            yield joined(pieces)

    def _hold(self, number: int, pieces: list[MixerInputs]) -> None:
        size = sum(piece.nbytes for piece in pieces)
        if number not in self.held and size <= self._left:
            self.held[number], self._left = pieces, self._left - size
