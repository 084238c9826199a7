"""What a model says at the end of many sequences at once, each layer's weights read once for all of them."""

from collections.abc import Iterator

from torch import Tensor

from ghost.backbone import Backbone, batches
from ghost.evaluation.perplexity import TOKENS_PER_SWEEP


def tail_logits(backbone: Backbone, rows_bl: Tensor, tail: int) -> Iterator[tuple[slice, Tensor]]:
    """fp32 logits (rows, tail, vocab) after the last `tail` tokens of the sequences (b, l), with the rows they are of.

    Every sequence begins with an empty state. Memory: about TOKENS_PER_SWEEP tokens of the residual stream.
    """
    rows = max(1, TOKENS_PER_SWEEP // rows_bl.shape[1])
    for start in range(0, len(rows_bl), rows):
        for part, logits in _sweep(backbone, rows_bl[start : start + rows], tail):
            yield slice(start + part.start, start + part.stop), logits


def _sweep(backbone: Backbone, rows_bl: Tensor, tail: int) -> Iterator[tuple[slice, Tensor]]:
    hidden_blm, head = backbone.residual(rows_bl), backbone.head()
    for part in batches(*rows_bl.shape):
        yield part, backbone.logits(head, hidden_blm[part, -tail:])
