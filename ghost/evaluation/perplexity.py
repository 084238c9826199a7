"""Perplexity by one protocol for every model: the whole text, non-overlapping windows, every token weighs the same."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.errors import CorpusError
from ghost.evaluation.forward import TOKENS_PER_SWEEP, within_logit_bytes
from ghost.evaluation.rows import exp, finite
from ghost.ssd import STATISTICS
from ghost.stack import Stack
from ghost.stream import batches

PROTOCOL = (
    "whole text in non-overlapping windows with no carried state; each token but the text's first is predicted once, "
    "the first of a window from the window's one token of overlap; mean over tokens of the negative log-likelihood"
)


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood (nats per token), over `tokens` predicted tokens.

    Of a model that fell apart either may be infinite, or no number at all: that is its result.
    """

    perplexity: float
    nll: float
    tokens: int
    window: int

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """What `as_dict` was given."""
        nll = math.nan if plain["nll"] is None else plain["nll"]
        value = exp(nll) if plain["perplexity"] is None else plain["perplexity"]
        return cls(value, nll, plain["tokens"], plain["window"])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them: None for what is not finite."""
        return asdict(self) | {"perplexity": finite(self.perplexity), "nll": finite(self.nll)}


@torch.inference_mode()
def perplexity(stack: Stack, tokens: Tensor, window: int, progress: Callable[[int], None] | None = None) -> Perplexity:
    """Perplexity of a token stream (length,). Window i reads tokens [i W, (i+1) W) and predicts [i W + 1, (i+1) W + 1).

    `progress` is called with the tokens just finished. CorpusError where the text is shorter than one window.
    """
    if len(tokens) < window + 1:
        raise CorpusError(
            f"the evaluation text has {len(tokens)} tokens, shorter than one window of {window} and its last target; "
            f"give a longer text, or --window {max(2, len(tokens) - 1)} or less"
        )
    total = torch.zeros((), dtype=STATISTICS)
    for sweep in _sweeps(tokens, window):
        total += _nll_of(stack, sweep).cpu()
        if progress:
            progress(sweep[:, 1:].numel())
    predicted = len(tokens) - 1
    nll = total.item() / predicted
    return Perplexity(exp(nll), nll, predicted, window)


def _sweeps(tokens: Tensor, window: int) -> Iterator[Tensor]:
    """Windows with their targets, (rows, window + 1); the rest of the text is a last, shorter row."""
    whole = (len(tokens) - 1) // window
    rows = tokens.unfold(0, window + 1, window)[:whole]
    yield from rows.split(max(1, TOKENS_PER_SWEEP // window))
    if (rest := tokens[whole * window :]).numel() > 1:
        yield rest.unsqueeze(0)


def _nll_of(stack: Stack, rows_bl: Tensor) -> Tensor:
    """Summed negative log-likelihood, float64."""
    hidden_blm, total = stack.run(rows_bl[:, :-1]).hidden_blm, torch.zeros((), dtype=STATISTICS, device=stack.device)
    with stack.head() as logits:
        for part in batches(*hidden_blm.shape[:2], batch_tokens=stack.batch_tokens):
            targets_t = rows_bl[part, 1:].flatten().long().to(stack.device)
            hidden_1tm = hidden_blm[part].flatten(0, 1)[None]
            for some in within_logit_bytes(slice(0, len(targets_t)), 1, stack.checkpoint.vocab_size):
                logits_tv = logits(hidden_1tm[:, some])[0]
                total += F.cross_entropy(logits_tv, targets_t[some], reduction="sum").to(STATISTICS)
    return total
