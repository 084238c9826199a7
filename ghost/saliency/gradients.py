"""Rankings by gradients of the language-model loss: one full backward pass through the dense model.

Every state channel has a gate g[n] = 1 on what it gives to y, y_t = sum_n g[n] C_t[n] H_t[n]. With the loss
L_s = - sum_t log p(token_t) of sample s, G_s = dL_s/dg (at 1) is exactly sum_t C_t . dL_s/dC_t. Kept are, per predicted
token (T of them),

    gradient = sum_s G_s / T        fisher = sum_s G_s^2 / T

The backward pass is checkpointed at the layers: it holds the residual stream at the entry of every layer for one batch
(layers x tokens x d_model), and the graph and weights of one layer, which is computed a second time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.likelihood import within_logit_bytes
from ghost.saliency.statistics import LayerStatistics, finite
from ghost.ssd import STATISTICS
from ghost.stack import Head, Stack
from ghost.stream import Stream
from ghost.team import ALONE, Team


@dataclass
class GateGradients:
    """Sums over samples of G_s and G_s^2, float64 (g, n), and the tokens that were predicted."""

    sum_gn: Tensor
    squares_gn: Tensor
    predicted: int

    def means(self, norms: LayerStatistics, tokens: int, where: str) -> LayerStatistics:
        """`norms` with gradient and fisher. CheckpointError where the backward pass overflowed."""
        means = {
            name: finite(sums / self.predicted, "the loss's gradients", where)
            for name, sums in (("gradient_gn", self.sum_gn), ("fisher_gn", self.squares_gn))
        }
        return replace(norms, **means, tokens=tokens)


@torch.inference_mode(False)
def gate_gradients(stack: Stack, batches: Sequence[Tensor], team: Team = ALONE) -> dict[int, GateGradients]:
    """Per decoder layer with a mixer, for the batches of token ids (b, l) that this process has; each layer's weights
    are read twice a batch."""
    sums_k2gn = team.sum(_batch_sums(stack, tokens_bl) for tokens_bl in batches)
    predicted = team.count(tokens_bl[:, 1:].numel() for tokens_bl in batches)
    return {
        i: GateGradients(sum_gn, squares_gn, predicted)
        for i, (sum_gn, squares_gn) in zip(stack.mixers, sums_k2gn, strict=True)
    }


def _batch_sums(stack: Stack, tokens_bl: Tensor) -> Tensor:
    """Sums over a batch of G_s and G_s^2, (mixers, 2, g, n)."""
    backward = _backward(stack, *_entries(stack, tokens_bl), tokens_bl)
    found = {i: torch.stack([G_bgn.sum(0), G_bgn.square().sum(0)]) for i, G_bgn in backward}
    return torch.stack([found[i] for i in stack.mixers])


@torch.no_grad()
def _entries(stack: Stack, tokens_bl: Tensor) -> tuple[Stream, list[Tensor]]:
    """How the model calls its layers, and the residual stream before each, and after the last."""
    stream = stack.enter(tokens_bl)
    entries = [stream.hidden_blm]
    for i in range(stack.layers):
        entries.append(stack.layer(i).advance(stream.moved(entries[-1])))
    return stream, entries


def _backward(stack: Stack, stream: Stream, entries: list[Tensor], tokens_bl: Tensor) -> Iterator[tuple[int, Tensor]]:
    """From the last layer to the first: those that have a mixer, and their G_s (b, g, n). Lets go of each entry as it
    is used."""
    last_blm = entries.pop()
    with stack.head() as logits:
        vocab = stack.checkpoint.vocab_size
        rows = [_loss_gradient(logits, *row, vocab) for row in zip(last_blm.split(1), tokens_bl.split(1), strict=True)]
    gradient_blm = torch.cat(rows)
    for i in reversed(range(stack.layers)):
        G_bgn, gradient_blm = _through_layer(stack.layer(i), stream.moved(entries.pop()), gradient_blm)
        if G_bgn is not None:
            yield i, G_bgn


@torch.enable_grad()
def _loss_gradient(logits: Head, hidden_blm: Tensor, tokens_bl: Tensor, vocab: int) -> Tensor:
    """dL_s/dhidden for sequences of one batch; some steps at a time, since logits are the widest tensor of all."""
    gradient_blm = torch.zeros_like(hidden_blm)
    for steps in within_logit_bytes(slice(0, hidden_blm.shape[1] - 1), len(hidden_blm), vocab):
        read_blm = hidden_blm[:, steps].detach().requires_grad_()
        targets = tokens_bl[:, steps.start + 1 : steps.stop + 1].long().to(read_blm.device)
        loss = F.cross_entropy(logits(read_blm).flatten(0, 1), targets.flatten(), reduction="sum")
        gradient_blm[:, steps] = torch.autograd.grad(loss, read_blm)[0]
    return gradient_blm


@torch.enable_grad()
def _through_layer(layer: DecoderLayer, stream: Stream, gradient_blm: Tensor) -> tuple[Tensor | None, Tensor]:
    """G_s of the layer (b, g, n), float64 on the CPU, None where it has no mixer; and the gradient at its entry."""
    hidden_blm = stream.hidden_blm.detach().requires_grad_()
    gate = Gate()
    leaving_blm = layer.advance(stream.moved(hidden_blm), gate if layer.mixer else None)
    if gate.gate_b1gn is None:
        return None, torch.autograd.grad(leaving_blm, hidden_blm, gradient_blm)[0]
    G_b1gn, entering_blm = torch.autograd.grad(leaving_blm, (gate.gate_b1gn, hidden_blm), gradient_blm)
    return G_b1gn.squeeze(1).to("cpu", STATISTICS), entering_blm


class Gate:
    """In the place of a cut: all channels go on, each through a gate that is open."""

    gate_b1gn: Tensor | None = None

    def cut(self, B_blgn: Tensor, C_blgn: Tensor) -> tuple[Tensor, Tensor]:
        if self.gate_b1gn is None:  # one for all pieces of a long window
            self.gate_b1gn = torch.ones_like(C_blgn[:, :1]).requires_grad_()
        return B_blgn, C_blgn * self.gate_b1gn


def taylor(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """sqrt(sum_s G_s^2 / T): the first-order change of each sample's loss from closing the gate, squared before the
    samples are averaged, so that samples of opposite sign do not cancel (arXiv:1906.10771, for gates).

    The gradient rival of GHOST (arXiv:2602.11408); how the paper aggregates over samples is not known to us.
    """
    assert statistics.fisher_gn is not None
    return statistics.fisher_gn.sqrt()


def taylor2(statistics: LayerStatistics, layer: int, seed: int) -> Tensor:
    """|-gradient + fisher / 2|: the change of the loss per token from closing the gate, to second order.

    Second-order Taylor pruning of SSM states (SSM-Pruner, arXiv:2502.18886). Ours: the expansion is in a channel's gate
    instead of the weights of its rows, and the Hessian is the empirical Fisher information, with samples independent.
    """
    assert statistics.gradient_gn is not None and statistics.fisher_gn is not None
    return (statistics.fisher_gn / 2 - statistics.gradient_gn).abs()
