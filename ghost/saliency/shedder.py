"""Removal of whole SSM modules, greedily by the perplexity of calibration text (Mamba-Shedder, arXiv:2501.17088).

Without its SSM module a mixer gives y_t = D x_t: its state is never read, and x, gate and out_proj stay. At every step
the module goes without which, and without those that went before, the text's perplexity is lowest.

One step costs a forward pass up to each candidate's layer, shared by all, and one from there for each of them: R
removals in a model of L layers cost about R L / 2 forward passes over the calibration text. Memory: for one batch, the
residual stream once for every candidate; each layer's weights are read once a batch and step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ghost.likelihood import nlls
from ghost.saliency.statistics import LayerStatistics, finite
from ghost.stack import Stack
from ghost.team import ALONE, Team

STAYS = 1.0
"""Rank of a module that is not removed."""


@dataclass(frozen=True)
class Place:
    """A module's rank: its place in the order of removal as a share of all modules, STAYS where it is not removed."""

    rank: float

    def means(self, norms: LayerStatistics, tokens: int, where: str) -> LayerStatistics:
        """`norms` with the rank, the same for every channel of the layer."""
        return replace(norms, rank_gn=torch.full_like(norms.norm_b_gn, self.rank), tokens=tokens)


def modules_to_remove(mixers: int, kept: int, d_state: int) -> int:
    """How many of a model's SSM modules leave kept / d_state of its state, rounded, halves up; at least one goes."""
    return max(1, int(mixers * (d_state - kept) / d_state + 0.5))


def removals(stack: Stack, batches: Sequence[Tensor], count: int, team: Team = ALONE) -> dict[int, Place]:
    """The place of each decoder layer with a mixer, after `count` removals judged on the batches of token ids (b, l)
    that the processes have. CheckpointError where the losses overflow."""
    removed: list[int] = []
    for _ in range(count):
        nlls_k = team.sum(candidate_losses(stack, removed, tokens_bl) for tokens_bl in batches)
        finite(nlls_k, "the losses without one module", f"{len(removed)} modules removed")
        candidates = [i for i in stack.mixers if i not in removed]
        removed.append(candidates[int(nlls_k.argmin())])
    places = {layer: place / len(stack.mixers) for place, layer in enumerate(removed)}
    return {i: Place(places.get(i, STAYS)) for i in stack.mixers}


@torch.inference_mode()
def candidate_losses(stack: Stack, removed: Sequence[int], tokens_bl: Tensor) -> Tensor:
    """Summed negative log-likelihood (k), float64, without `removed` and each further layer in turn, in their order."""
    stream, without = stack.enter(tokens_bl), list[Tensor]()
    for i in range(stack.layers):
        layer, silent = stack.layer(i), SILENT if i in removed else None
        without = [layer.advance(stream.moved(hidden_blm), silent) for hidden_blm in without]
        if i in stack.mixers and i not in removed:
            without.append(layer.advance(stream, SILENT))
        stream = stream.moved(layer.advance(stream, silent))
        del layer  # before the next one is read
    with stack.head() as logits:
        vocab = stack.checkpoint.vocab_size
        losses = [nlls(logits, h_blm[:, :-1], tokens_bl[:, 1:], vocab).sum() for h_blm in without]
    return torch.stack(losses).cpu()


class Silent:
    """In the place of a cut: with a state of no channels, y = D x."""

    def cut(self, B_blgn: Tensor, C_blgn: Tensor) -> tuple[Tensor, Tensor]:
        return B_blgn[..., :0], C_blgn[..., :0]


SILENT = Silent()


def shedder(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """The rank of the layer's whole SSM module, the same for all its channels: when it goes in a greedy removal by
    perplexity, 1 where it stays (Mamba-Shedder, arXiv:2501.17088)."""
    assert statistics.rank_gn is not None
    return statistics.rank_gn
