"""Perplexity by the length of the context: the same tokens predicted from more and more of the text before them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.errors import CorpusError
from ghost.evaluation.forward import tail_logits
from ghost.ssd import STATISTICS
from ghost.stack import Stack

PREDICTED = 16
"""Tokens predicted at the end of each segment."""
PROTOCOL = (
    f"segments of the text, evenly spread and not overlapping; the last {PREDICTED} tokens of each are predicted, the "
    "first from exactly `context` tokens with an empty state before them, the others from those between as well; every "
    "context length and every model predicts the same tokens; standard errors over segments"
)


def segments(tokens: Tensor, longest: int, count: int) -> Tensor:
    """At most `count` segments (count, longest + PREDICTED) of a text (length,), evenly spread, in its order.

    CorpusError where the text is shorter than one segment.
    """
    length = longest + PREDICTED
    available = len(tokens) // length
    if not available:
        raise CorpusError(
            f"the evaluation text has {len(tokens)} tokens, shorter than a context of {longest} and the {PREDICTED} "
            f"tokens to predict; give a longer text, or --contexts of {max(1, len(tokens) - PREDICTED)} or less"
        )
    chosen = torch.arange(count) * available // count if available > count else torch.arange(available)
    return tokens[: available * length].view(available, length)[chosen]


@torch.inference_mode()
def context_nll(
    stack: Stack, segments_bl: Tensor, context: int, progress: Callable[[int], None] | None = None
) -> Tensor:
    """Mean negative log-likelihood (b,), nats per token, float64, of the segments' predicted tokens from `context`.

    `progress` is called with the tokens just read.
    """
    rows_bl = segments_bl[:, -(context + PREDICTED) :]
    targets_bp = rows_bl[:, -PREDICTED:].long()
    nll_b = torch.empty(len(rows_bl), dtype=STATISTICS)
    for rows, logits_bpv in tail_logits(stack, rows_bl[:, :-1], PREDICTED):
        losses = F.cross_entropy(logits_bpv.transpose(1, 2), targets_bp[rows].to(logits_bpv.device), reduction="none")
        nll_b[rows] = losses.to(STATISTICS).mean(1).cpu()
        if progress:
            progress(len(losses) * (rows_bl.shape[1] - 1))
    return nll_b
