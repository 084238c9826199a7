"""Which correction to keep: the one with which the model, its next layers pruned too, stays nearest to the dense model
in what it says of the next token on held-back text.

That is KL(dense || pruned) of the whole distribution: the likelihood of the tokens that happened to come is noise where
windows are few. The layer's own squared error is a bad judge, and so is the model with its later layers dense: on the
demo model fits of out_proj that lower both raise the perplexity of the pruned model (docs/decisions.md).
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.likelihood import summed_kl
from ghost.recovery.pairs import by_batch
from ghost.selection import Channels
from ghost.stack import Head, Stack
from ghost.stream import Stream
from ghost.team import ALONE, Team

AHEAD = 16
"""Later layers through which a candidate is followed; the head reads what it has come to by then, and what the dense
model has. Otherwise the cost would grow with the square of the layers, and so would the times that weights are read.
Too few are worse than a rough guess where a later layer reads what this one writes, as in recall (docs/decisions.md).
"""

Parts = list[Stream]
"""The windows of each of the walk's batches that has any."""


class Judge:
    """Compares candidates for one layer after the other on the windows `rows` of `tokens_bl`, held back from recovery.

    `outlook` says what later layers are going to keep, by number: corrections are judged in the model as it will be.
    The dense model's way through the layers is gone once, as far ahead of the walk as the candidates are followed.
    """

    def __init__(
        self, stack: Stack, tokens_bl: Tensor, rows: Tensor, outlook: Mapping[int, Channels], team: Team = ALONE
    ) -> None:
        self.stack, self.outlook, self.team = stack, outlook, team
        self.parts = [*by_batch(rows, *tokens_bl.shape, batch_tokens=stack.batch_tokens)]
        self._dense = _at(stack.enter(tokens_bl), self.parts) if self.parts else []
        self._reached = 0

    def divergences(self, i: int, stream: Stream, candidates: Sequence[DecoderLayer]) -> list[float]:
        """Nats of KL a token, once with each candidate as layer i; `stream` is the pruned path at its entry. The AHEAD
        layers after it are read once."""
        end = min(i + 1 + AHEAD, self.stack.layers)
        entering = _at(stream, self.parts)
        paths = [_through(candidate, entering) for candidate in candidates]
        for later in range(min(self._reached, i + 1), end):
            layer, channels = self.stack.layer(later), self.outlook.get(later)
            if later > i:
                paths = [_through(layer, parts, channels) for parts in paths]
            if later >= self._reached:
                self._dense = _through(layer, self._dense)
            del layer  # before the next one is read
        self._reached = end
        with self.stack.head() as logits:
            return [self._divergence(logits, parts) for parts in paths]

    def _divergence(self, logits: Head, parts: Parts) -> float:
        total, tokens = self.team.sums(self._sums(logits, *both) for both in zip(parts, self._dense, strict=True))
        return float(total / tokens)

    def _sums(self, logits: Head, stream: Stream, dense: Stream) -> tuple[Tensor, Tensor]:
        """Nats over some windows, and how many tokens were predicted."""
        nats = summed_kl(logits, stream.hidden_blm, dense.hidden_blm, self.stack.checkpoint.vocab_size)
        return nats.cpu(), torch.tensor(stream.hidden_blm.shape[:2].numel())


def _at(stream: Stream, rows: Iterable[Tensor]) -> Parts:
    return [stream.take(part) for part in rows]


def _through(layer: DecoderLayer, parts: Parts, channels: Channels | None = None) -> Parts:
    return [part.moved(layer.advance(part, channels)) for part in parts]
