"""How likely a model says tokens are. Logits are the widest tensors of all: only some are in memory at a time."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.ssd import STATISTICS
from ghost.stack import Head

LOGIT_BYTES = 1 << 28
"""Most that fp32 logits take at once; with what a loss makes of them it is two or three times that."""


def summed_nll(logits: Head, hidden_blm: Tensor, targets_bl: Tensor, vocab: int) -> Tensor:
    """Negative log-likelihood in nats, summed over all targets, float64 (); `hidden_blm` is what they are predicted
    from."""
    total = torch.zeros((), dtype=STATISTICS, device=hidden_blm.device)
    hidden_1tm, targets_t = hidden_blm.flatten(0, 1)[None], targets_bl.flatten().long().to(hidden_blm.device)
    for some in within_logit_bytes(slice(0, len(targets_t)), 1, vocab):
        losses = F.cross_entropy(logits(hidden_1tm[:, some])[0], targets_t[some], reduction="sum")
        total += losses.to(STATISTICS)
    return total


def within_logit_bytes(rows: slice, tokens: int, vocab: int) -> Iterator[slice]:
    """The rows, of so many tokens each, in slices whose logits take LOGIT_BYTES at most, but one row at least."""
    step = max(1, LOGIT_BYTES // (4 * tokens * vocab))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))
