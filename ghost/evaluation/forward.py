"""What a model says at the end of many sequences at once, each layer's weights read once for all of them."""

from collections.abc import Iterator

from torch import Tensor

from ghost.likelihood import within_logit_bytes
from ghost.stack import Stack
from ghost.stream import batches

TOKENS_PER_SWEEP = 1 << 15


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
