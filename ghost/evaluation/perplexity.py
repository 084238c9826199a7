"""Perplexity by one protocol for every model: the whole text, non-overlapping windows, every token weighs the same."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ghost.errors import CorpusError
from ghost.evaluation.forward import TOKENS_PER_SWEEP
from ghost.evaluation.rows import exp, finite
from ghost.likelihood import nlls
from ghost.significance import paired
from ghost.stack import Stack
from ghost.stream import batches
from ghost.team import ALONE, Team

PROTOCOL = (
    "whole text in non-overlapping windows with no carried state; each token but the text's first is predicted once, "
    "the first of a window from the window's one token of overlap; mean over tokens of the negative log-likelihood"
)


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood (nats per token), over `tokens` predicted tokens; `window_nats` has the
    nats of each window of the text together.

    Of a model that fell apart they may be infinite, or no number at all: that is its result.
    """

    perplexity: float
    nll: float
    tokens: int
    window: int
    window_nats: tuple[float, ...]

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """What `as_dict` was given."""
        nll, *nats = (math.nan if figure is None else figure for figure in (plain["nll"], *plain["window_nats"]))
        value = exp(nll) if plain["perplexity"] is None else plain["perplexity"]
        return cls(value, nll, plain["tokens"], plain["window"], tuple(nats))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them: None for what is not finite."""
        figures = {"perplexity": finite(self.perplexity), "nll": finite(self.nll)}
        return asdict(self) | figures | {"window_nats": [*map(finite, self.window_nats)]}

    def error_of_change(self, other: "Perplexity") -> float | None:
        """Standard error of `other.nll - self.nll`, both of one text: windows are the samples, in pairs. None of one
        window, and where a figure is not finite."""
        return paired(self.window_nats, other.window_nats, self.window_tokens)[1]

    @property
    def window_tokens(self) -> list[int]:
        """How many tokens of each window are predicted; the last may be shorter."""
        whole = len(self.window_nats) - 1
        return [self.window] * whole + [self.tokens - self.window * whole]


@torch.inference_mode()
def perplexity(
    stack: Stack,
    tokens: Tensor,
    window: int,
    progress: Callable[[int], None] | None = None,
    team: Team = ALONE,
) -> Perplexity:
    """Perplexity of a token stream (length,). Window i reads tokens [i W, (i+1) W) and predicts [i W + 1, (i+1) W + 1).

    `progress` is called with the tokens just finished, those of other processes at the end. CorpusError where the text
    is shorter than one window.
    """
    parts = text_batches(tokens, window, stack.batch_tokens)
    team = team if len(parts) >= team.size else ALONE
    own = team.share(parts)
    nats = team.gather(torch.cat([*_window_nats(stack, own, progress or (lambda done: None))]).cpu())
    predicted = len(tokens) - 1
    if progress and (elsewhere := predicted - _tokens(*own)):
        progress(elsewhere)
    nll = float(nats.sum()) / predicted
    return Perplexity(exp(nll), nll, predicted, window, tuple(nats.tolist()))


def text_batches(tokens: Tensor, window: int, batch_tokens: int) -> list[Tensor]:
    """Windows with their targets, (rows, window + 1), a batch at a time; the rest of the text is a last, shorter row.
    CorpusError as `perplexity` has it."""
    if len(tokens) < window + 1:
        raise CorpusError(
            f"the evaluation text has {len(tokens)} tokens, shorter than one window of {window} and its last target; "
            f"give a longer text, or --window {max(2, len(tokens) - 1)} or less"
        )
    whole = (len(tokens) - 1) // window
    rows = tokens.unfold(0, window + 1, window)[:whole]
    rest = tokens[whole * window :]
    parts = [rows[part] for part in batches(whole, window, batch_tokens=batch_tokens)]
    return [*parts, rest.unsqueeze(0)] if len(rest) > 1 else parts


def _tokens(*parts: Tensor) -> int:
    """How many are predicted."""
    return sum(rows_bl[:, 1:].numel() for rows_bl in parts)


def _window_nats(stack: Stack, parts: Sequence[Tensor], progress: Callable[[int], None]) -> Iterator[Tensor]:
    """Negative log-likelihood of the windows of each batch, float64 (rows,)."""
    for sweep in _sweeps(parts):
        hidden_blm = stack.run(torch.cat([rows_bl[:, :-1] for rows_bl in sweep])).hidden_blm
        with stack.head() as logits:
            for rows_bl, part_blm in zip(sweep, hidden_blm.split([len(rows_bl) for rows_bl in sweep]), strict=True):
                yield nlls(logits, part_blm, rows_bl[:, 1:], stack.checkpoint.vocab_size)
        progress(_tokens(*sweep))


def _sweeps(parts: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Batches of sequences as long as each other, TOKENS_PER_SWEEP tokens at most but one batch at least."""
    sweep: list[Tensor] = []
    for rows_bl in parts:
        if sweep and (rows_bl.shape[1] != sweep[0].shape[1] or _tokens(*sweep, rows_bl) > TOKENS_PER_SWEEP):
            yield sweep
            sweep = []
        sweep.append(rows_bl)
    yield sweep
