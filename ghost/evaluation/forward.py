"""What a model says at the end of many sequences at once, each layer's weights read once for all of them."""

from collections.abc import Iterator

from torch import Tensor

from ghost.backbone import Backbone, batches

TOKENS_PER_SWEEP = 1 << 15
LOGIT_BYTES = 1 << 28
"""Most that fp32 logits take at once; with what a loss makes of them it is two or three times that."""


def tail_logits(backbone: Backbone, rows_bl: Tensor, tail: int) -> Iterator[tuple[slice, Tensor]]:
    """fp32 logits (rows, tail, vocab) after the last `tail` tokens of the sequences (b, l), with the rows they are of.

    Every sequence begins with an empty state. Memory: about TOKENS_PER_SWEEP tokens of the residual stream, and
    LOGIT_BYTES of logits or those of one sequence.
    """
    rows = max(1, TOKENS_PER_SWEEP // rows_bl.shape[1])
    for start in range(0, len(rows_bl), rows):
        for part, logits in _sweep(backbone, rows_bl[start : start + rows], tail):
            yield slice(start + part.start, start + part.stop), logits


def _sweep(backbone: Backbone, rows_bl: Tensor, tail: int) -> Iterator[tuple[slice, Tensor]]:
    hidden_blm, head = backbone.residual(rows_bl), backbone.head()
    for part in batches(*rows_bl.shape):
        for some in within_logit_bytes(part, tail, head[1].shape[0]):
            yield some, backbone.logits(head, hidden_blm[some, -tail:])


def within_logit_bytes(rows: slice, tokens: int, vocab: int) -> Iterator[slice]:
    """The rows, of so many tokens each, in slices whose logits take LOGIT_BYTES at most, but one row at least."""
    step = max(1, LOGIT_BYTES // (4 * tokens * vocab))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))
