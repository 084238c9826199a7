"""Which correction to keep: the one with which the model, its next layers pruned too, stays nearest to the dense model
in what it says of the next token on held-back text.

That is KL(dense || pruned) of the whole distribution: the likelihood of the tokens that happened to come is noise where
windows are few. The layer's own squared error is a bad judge, and so is the model with its later layers dense: on the
demo model fits of out_proj that lower both raise the perplexity of the pruned model (docs/decisions.md).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.likelihood import summed_kl
from ghost.recovery.pairs import Pairs
from ghost.selection import Channels
from ghost.stack import Head
from ghost.stream import Stream

AHEAD = 16
"""Later layers through which a candidate is followed; the head reads what it has come to by then, and what the dense
model has. Otherwise the cost would grow with the square of the layers, and so would the times that weights are read.
Too few are worse than a rough guess where a later layer reads what this one writes, as in recall (docs/decisions.md).
"""

Parts = list[Stream]
"""The windows of a walk's batches."""


class Judge:
    """Compares candidates for layer i on the windows of `held`; `dense` is what the layer was."""

    def __init__(self, held: Pairs, i: int, dense: DecoderLayer) -> None:
        self.held, self.i, self._layer = held, i, dense
        self._dense: Parts | None = None

    def divergences(self, candidates: Sequence[DecoderLayer]) -> list[float]:
        """Nats of KL a token, once with each candidate as layer i; the AHEAD layers after it are read once."""
        stack = self.held.stack
        entering = _at(self.held.stream, self.held)
        paths = [_through(layer, entering) for layer in candidates]
        dense = self._dense or _through(self._layer, _at(self.held.dense, self.held))
        for later in range(self.i + 1, min(self.i + 1 + AHEAD, stack.layers)):
            layer, channels = stack.layer(later), self.held.outlook.get(later)
            paths = [_through(layer, parts, channels) for parts in paths]
            dense = dense if self._dense else _through(layer, dense)
            del layer  # before the next one is read
        self._dense = dense
        with stack.head() as logits:
            return [self._divergence(logits, parts, dense) for parts in paths]

    def _divergence(self, logits: Head, parts: Parts, dense: Parts) -> float:
        total, tokens = self.held.team.sums(self._sums(logits, *both) for both in zip(parts, dense, strict=True))
        return float(total / tokens)

    def _sums(self, logits: Head, stream: Stream, dense: Stream) -> tuple[Tensor, Tensor]:
        """Nats over some windows, and how many tokens were predicted."""
        nats = summed_kl(logits, stream.hidden_blm, dense.hidden_blm, self.held.stack.checkpoint.vocab_size)
        return nats.cpu(), torch.tensor(stream.hidden_blm.shape[:2].numel())


def _at(stream: Stream, held: Pairs) -> Parts:
    return [stream.take(rows) for rows in held.parts()]


def _through(layer: DecoderLayer, parts: Parts, channels: Channels | None = None) -> Parts:
    return [part.moved(layer.advance(part, channels)) for part in parts]
