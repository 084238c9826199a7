"""Which correction to keep: the one with which the model, its later layers pruned too, predicts held-back text best.

The layer's own squared error is a bad judge, and so is the model with its later layers dense: on the demo model fits of
out_proj that lower both raise the perplexity of the pruned model (docs/decisions.md).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.backbone import Backbone, Layer
from ghost.recovery.pairs import Pairs
from ghost.selection import Channels


def nlls(held: Pairs, i: int, candidates: Sequence[Layer]) -> list[float]:
    """Nats per token on the windows of `held`, once with each candidate as layer i; each later layer is read once."""
    backbone, parts = held.backbone, list(held.parts())
    streams = [[_through(backbone, layer, held.hidden_blm[rows]) for rows in parts] for layer in candidates]
    for later in range(i + 1, backbone.layers):
        layer, channels = backbone.layer(later), held.outlook[later]
        streams = [[_through(backbone, layer, hidden_blm, channels) for hidden_blm in stream] for stream in streams]
    head = backbone.head()
    return [_nll(backbone, head, stream, [held.tokens_bl[rows] for rows in parts]) for stream in streams]


def _through(backbone: Backbone, layer: Layer, hidden_blm: Tensor, channels: Channels | None = None) -> Tensor:
    return backbone.advance(layer, hidden_blm, backbone.inputs(layer, hidden_blm), channels)


def _nll(backbone: Backbone, head: tuple[Tensor, Tensor], stream: list[Tensor], tokens: list[Tensor]) -> float:
    total, predicted = 0.0, 0
    for hidden_blm, tokens_bl in zip(stream, tokens, strict=True):
        targets = tokens_bl[:, 1:].long().to(backbone.device).flatten()
        logits = backbone.logits(head, hidden_blm[:, :-1]).flatten(0, 1)
        total += float(F.cross_entropy(logits, targets, reduction="sum").to(torch.float64))
        predicted += len(targets)
    return total / predicted
