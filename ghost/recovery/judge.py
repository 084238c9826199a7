"""Which correction to keep: the one with which the model, its next layers pruned too, predicts held-back text best.

The layer's own squared error is a bad judge, and so is the model with its later layers dense: on the demo model fits of
out_proj that lower both raise the perplexity of the pruned model (docs/decisions.md).
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.likelihood import summed_nll
from ghost.recovery.pairs import Pairs
from ghost.stack import Head
from ghost.stream import Stream

AHEAD = 8
"""Later layers through which a candidate is followed; the head reads what it has come to by then. Otherwise the cost
would grow with the square of the layers, and so would the times that weights are read."""


def nlls(held: Pairs, i: int, candidates: Sequence[DecoderLayer]) -> list[float]:
    """Nats per token on the windows of `held`, once with each candidate as layer i; the AHEAD layers after it are read
    once each."""
    stack, parts = held.stack, list(held.parts())
    entering = [held.stream.take(rows) for rows in parts]
    streams = [[part.moved(layer.advance(part)) for part in entering] for layer in candidates]
    for later in range(i + 1, min(i + 1 + AHEAD, stack.layers)):
        layer, channels = stack.layer(later), held.outlook.get(later)
        streams = [[part.moved(layer.advance(part, channels)) for part in stream] for stream in streams]
        del layer  # before the next one is read
    with stack.head() as logits:
        nll = partial(_nll, logits, stack.checkpoint.vocab_size)
        sums = (held.team.sums(map(nll, stream, [held.tokens_bl[rows] for rows in parts])) for stream in streams)
        return [float(total / predicted) for total, predicted in sums]


def _nll(logits: Head, vocab: int, stream: Stream, tokens_bl: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of some windows, and how many of their tokens were predicted."""
    targets_bl = tokens_bl[:, 1:]
    return summed_nll(logits, stream.hidden_blm[:, :-1], targets_bl, vocab).cpu(), torch.tensor(targets_bl.numel())
