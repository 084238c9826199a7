"""Which correction to keep: the one with which the model, its next layers pruned too, predicts held-back text best.

The layer's own squared error is a bad judge, and so is the model with its later layers dense: on the demo model fits of
out_proj that lower both raise the perplexity of the pruned model (docs/decisions.md).
"""

from collections.abc import Sequence

from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.likelihood import summed_nll
from ghost.recovery.pairs import Pairs
from ghost.stack import Head
from ghost.stream import Stream

AHEAD = 16
"""Later layers through which a candidate is followed; the head reads what it has come to by then. Otherwise the cost
would grow with the square of the layers, and so would the times that weights are read. Too few are worse than a rough
guess where a later layer reads what this one writes, as in recall (docs/decisions.md)."""


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
        targets = [held.tokens_bl[rows, 1:] for rows in parts]
        return [_nll(logits, stream, targets, stack.checkpoint.vocab_size) for stream in streams]


def _nll(logits: Head, stream: list[Stream], targets: list[Tensor], vocab: int) -> float:
    parts = zip(stream, targets, strict=True)
    total = sum(float(summed_nll(logits, part.hidden_blm[:, :-1], targets_bl, vocab)) for part, targets_bl in parts)
    return total / sum(targets_bl.numel() for targets_bl in targets)
