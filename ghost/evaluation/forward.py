"""What a model says at the end of many sequences at once, each layer's weights read once for all of them."""

from collections.abc import Iterator

from torch import Tensor

from ghost.stack import Stack
from ghost.stream import batches

TOKENS_PER_SWEEP = 1 << 15
LOGIT_BYTES = 1 << 28
"""Most that fp32 logits take at once; with what a loss makes of them it is two or three times that."""


def tail_logits(stack: Stack, rows_bl: Tensor, tail: int) -> Iterator[tuple[slice, Tensor]]:
    """fp32 logits (rows, tail, vocab) after the last `tail` tokens of the sequences (b, l), with the rows they are of.

    Every sequence begins with an empty state. Memory: about TOKENS_PER_SWEEP tokens of the residual stream, and
    LOGIT_BYTES of logits or those of one sequence.
    """
    rows = max(1, TOKENS_PER_SWEEP // rows_bl.shape[1])
    for start in range(0, len(rows_bl), rows):
        for part, logits in _sweep(stack, rows_bl[start : start + rows], tail):
            yield slice(start + part.start, start + part.stop), logits


def _sweep(stack: Stack, rows_bl: Tensor, tail: int) -> Iterator[tuple[slice, Tensor]]:
    hidden_blm = stack.run(rows_bl).hidden_blm
    with stack.head() as logits:
        for part in batches(*rows_bl.shape, batch_tokens=stack.batch_tokens):
            for some in within_logit_bytes(part, tail, stack.checkpoint.vocab_size):
                yield some, logits(hidden_blm[some, -tail:])


def within_logit_bytes(rows: slice, tokens: int, vocab: int) -> Iterator[slice]:
    """The rows, of so many tokens each, in slices whose logits take LOGIT_BYTES at most, but one row at least."""
    step = max(1, LOGIT_BYTES // (4 * tokens * vocab))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))
