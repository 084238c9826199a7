"""How likely a model says tokens are, and how far it is in that from another one.

Logits are the widest tensors of all: only some are in memory at a time.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.ssd import STATISTICS
from ghost.stack import Head

LOGIT_BYTES = 1 << 28
"""Most that fp32 logits take at once; with what a loss makes of them it is two or three times that."""


def nlls(logits: Head, hidden_blm: Tensor, targets_bl: Tensor, vocab: int) -> Tensor:
    """Negative log-likelihood in nats of each sequence's targets together, float64 (b,); `hidden_blm` is what they are
    predicted from."""
    hidden_1tm, targets_t = hidden_blm.flatten(0, 1)[None], targets_bl.flatten().long().to(hidden_blm.device)
    losses = [
        F.cross_entropy(logits(hidden_1tm[:, some])[0], targets_t[some], reduction="none").to(STATISTICS)
        for some in within_logit_bytes(slice(0, len(targets_t)), 1, vocab)
    ]
    return torch.cat(losses).view(targets_bl.shape).sum(1)


def summed_kl(logits: Head, hidden_blm: Tensor, dense_blm: Tensor, vocab: int) -> Tensor:
    """KL(dense || model) of the next token's distribution in nats, summed over all positions, float64 (); both by what
    the head reads of them, (b, l, d_model) each."""
    total = torch.zeros((), dtype=STATISTICS, device=hidden_blm.device)
    hidden_1tm, dense_1tm = (blm.flatten(0, 1)[None] for blm in (hidden_blm, dense_blm))
    for some in within_logit_bytes(slice(0, hidden_1tm.shape[1]), 2, vocab):
        found, wanted = (logits(part[:, some])[0].log_softmax(-1) for part in (hidden_1tm, dense_1tm))
        total += F.kl_div(found, wanted, reduction="sum", log_target=True).to(STATISTICS)
    return total


def within_logit_bytes(rows: slice, tokens: int, vocab: int) -> Iterator[slice]:
    """The rows, of so many tokens each, in slices whose logits take LOGIT_BYTES at most, but one row at least."""
    step = max(1, LOGIT_BYTES // (4 * tokens * vocab))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))
