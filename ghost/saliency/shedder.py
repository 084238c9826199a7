"""Removal of whole SSM modules, greedily by the perplexity of calibration text (Mamba-Shedder, arXiv:2501.17088).

Without its SSM module a mixer gives y_t = D x_t: its state is never read, and x, gate and out_proj stay. At every step
the module goes without which, and without those that went before, the text's perplexity is lowest.

One step costs a forward pass up to each candidate's layer, shared by all, and one from there for each of them: R
removals in a model of L layers cost about R L / 2 forward passes over the calibration text. Memory: for one batch, the
residual stream once for every candidate; each layer's weights are read once a batch and step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.mixer import MixerInputs
from ghost.saliency.gradients import Model
from ghost.saliency.statistics import LayerStatistics, finite
from ghost.ssd import STATISTICS

STAYS = 1.0
"""Rank of a module that is not removed."""


@dataclass(frozen=True)
class Place:
    """A module's rank: its place in the order of removal as a share of all layers, STAYS where it is not removed."""

    rank: float

    def means(self, norms: LayerStatistics, tokens: int, where: str) -> LayerStatistics:
        """`norms` with the rank, the same for every channel of the layer."""
        return replace(norms, rank_gn=torch.full_like(norms.norm_b_gn, self.rank), tokens=tokens)


def modules_to_remove(layers: int, kept: int, d_state: int) -> int:
    """How many of a model's SSM modules leave kept / d_state of its state, rounded, halves up; at least one goes."""
    return max(1, int(layers * (d_state - kept) / d_state + 0.5))


def removals(model: Model, batches: Sequence[Tensor], count: int) -> Sequence[Place]:
    """Each layer's place, after `count` removals judged on batches of token ids (b, l). CheckpointError where the
    losses overflow."""
    removed: list[int] = []
    for _ in range(count):
        nlls_k = sum((candidate_losses(model, removed, tokens_bl) for tokens_bl in batches), start=torch.zeros(()))
        finite(nlls_k, "the losses without one module", f"{len(removed)} modules removed")
        candidates = [i for i in range(model.layers) if i not in removed]
        removed.append(candidates[int(nlls_k.argmin())])
    places = {layer: place / model.layers for place, layer in enumerate(removed)}
    return [Place(places.get(i, STAYS)) for i in range(model.layers)]


@torch.inference_mode()
def candidate_losses(model: Model, removed: Sequence[int], tokens_bl: Tensor) -> Tensor:
    """Summed negative log-likelihood (k), float64, without `removed` and each further layer in turn, in their order."""
    stream_blm, without = model.embed(tokens_bl), []
    for i in range(model.layers):
        layer = model.layer(i)
        without = [_through(model, layer, hidden_blm, i in removed) for hidden_blm in without]
        inputs = model.inputs(layer, stream_blm)
        silent_blm = model.advance(layer, stream_blm, _silenced(inputs))
        without += [] if i in removed else [silent_blm]
        stream_blm = silent_blm if i in removed else model.advance(layer, stream_blm, inputs)
    head = model.head()
    return torch.stack([_nll(model, head, hidden_blm, tokens_bl) for hidden_blm in without])


def _through(model: Model, layer: Any, hidden_blm: Tensor, silent: bool) -> Tensor:
    inputs = model.inputs(layer, hidden_blm)
    return model.advance(layer, hidden_blm, _silenced(inputs) if silent else inputs)


def _silenced(inputs: MixerInputs) -> MixerInputs:
    """With a state of no channels, y = D x."""
    return inputs._replace(B_blgn=inputs.B_blgn[..., :0], C_blgn=inputs.C_blgn[..., :0])


def _nll(model: Model, head: tuple[Tensor, Tensor], hidden_blm: Tensor, tokens_bl: Tensor) -> Tensor:
    logits = model.logits(head, hidden_blm[:, :-1]).flatten(0, 1)
    targets = tokens_bl[:, 1:].long().to(logits.device).flatten()
    return F.cross_entropy(logits, targets, reduction="sum").to("cpu", STATISTICS)


def shedder(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """The rank of the layer's whole SSM module, the same for all its channels: when it goes in a greedy removal by
    perplexity, 1 where it stays (Mamba-Shedder, arXiv:2501.17088)."""
    assert statistics.rank_gn is not None
    return statistics.rank_gn
