"""Adam's steps on the mixers' tensors of a pruned model, by KL(dense || pruned) of what it says of the next token.

A layer's graph is in memory at a time, and the residual stream at every layer's entry.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.recovery import Cell
from ghost.decoder_layer import DecoderLayer
from ghost.mixer import MixerLayout
from ghost.recovery.fit import rows_of_bc
from ghost.stack import Head, Stack
from ghost.stream import Stream

BETAS, WARM_UP, CHECK_EVERY, PATIENCE = (0.9, 0.99), 20, 25, 4
AVERAGED = 0.95
"""How much of the averaged weights stays at a step."""
HELD_BACK, HELD_MOST = 8, 96
"""One window in so many is held back; so many at most are looked at."""


@dataclass(frozen=True, kw_only=True)
class Trial(Cell):
    """A pruned model, and how it is distilled."""

    samples: int = 1024
    length: int = 128
    windows: tuple[int, ...] = (512,)
    kept: int = 16
    level: str = "fit"
    trained: str = "all"
    """Of the mixers' tensors: `all`, or `bc`, the rows and channels that make B and C."""
    steps: int = 300
    batch: int = 16
    """Windows of a step."""
    rate: float = 0.01
    """A share of each tensor's root mean square."""


def distill(
    dense: Stack, pruned: Stack, tokens_bl: Tensor, trial: Trial
) -> tuple[list[DecoderLayer], dict[int, float]]:
    """The layers that did best on held-back windows, and the held-back KL by step. Computes in fp32."""
    with torch.no_grad():
        stream, dense_blm = pruned.enter(tokens_bl), dense.run(tokens_bl).hidden_blm
    every = torch.arange(len(tokens_bl))
    is_held = every % HELD_BACK == HELD_BACK - 1
    held = every[is_held][:: -(-int(is_held.sum()) // HELD_MOST)]
    moving, averaged = (_copies([pruned.layer(i) for i in range(pruned.layers)]) for _ in range(2))
    adam, best, curve = _optimizer(moving, pruned.checkpoint.mixer_layout, trial), averaged, dict[int, float]()
    with pruned.head() as logits:

        def held_back() -> float:
            with torch.no_grad():
                losses = [
                    (rows, _loss(logits, averaged, stream.take(rows), dense_blm[rows])) for rows in held.split(16)
                ]
            return sum(float(loss) * len(rows) for rows, loss in losses) / len(held)

        curve[0], best = held_back(), _copies(averaged)
        for step, rows in enumerate(_draws(every[~is_held], trial), start=1):
            for group in adam.param_groups:
                group["lr"] = group["rate"] * _schedule(step, trial.steps)
            adam.zero_grad()
            _loss(logits, moving, stream.take(rows), dense_blm[rows]).backward()
            adam.step()
            _average(averaged, moving)
            if step % CHECK_EVERY == 0:
                curve[step] = held_back()
                best = _copies(averaged) if curve[step] == min(curve.values()) else best
                if min(curve, key=curve.__getitem__) <= step - PATIENCE * CHECK_EVERY:
                    break
    return best, curve


def _copies(layers: list[DecoderLayer]) -> list[DecoderLayer]:
    """The same layers around mixers of their own, in fp32."""
    return [
        layer.with_mixer({name: t.detach().float().clone() for name, t in layer.mixer.items()})
        if layer.mixer
        else layer
        for layer in layers
    ]


@torch.no_grad()
def _average(averaged: list[DecoderLayer], moving: list[DecoderLayer]) -> None:
    for layer, moved in zip(averaged, moving, strict=True):
        for name, tensor in layer.mixer.items():
            tensor.lerp_(moved.mixer[name], 1 - AVERAGED)


def _loss(logits: Head, layers: list[DecoderLayer], stream: Stream, dense_blm: Tensor) -> Tensor:
    """KL(dense || pruned) in nats a token. The way back computes each layer once more."""
    for layer in layers:

        def past(hidden_blm: Tensor, layer: DecoderLayer = layer, stream: Stream = stream) -> Tensor:
            return layer.advance(stream.moved(hidden_blm))

        stream = stream.moved(checkpoint(past, stream.hidden_blm, use_reentrant=False, preserve_rng_state=False))
    found, wanted = (logits(blm).log_softmax(-1).flatten(0, 1) for blm in (stream.hidden_blm, dense_blm))
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def _optimizer(layers: list[DecoderLayer], layout: MixerLayout, trial: Trial) -> torch.optim.Adam:
    """Rates by the size of what is trained; a bias may be zero, and goes with what it is added to. Rows that are not
    trained get no gradient, and Adam leaves them."""
    places, groups = rows_of_bc(layout), []
    for layer in layers:
        for name, tensor in layer.mixer.items():
            rows = slice(None) if trial.trained == "all" else places.get(name)
            if rows is not None:
                size = layer.mixer[name.replace(".bias", ".weight")].detach()[rows].square().mean().sqrt()
                tensor.requires_grad_().register_hook(lambda grad, rows=rows: _only(grad, rows))
                groups.append({"params": [tensor], "rate": trial.rate * float(size)})
    return torch.optim.Adam(groups, betas=BETAS)


def _only(grad: Tensor, rows: slice) -> Tensor:
    kept = torch.zeros_like(grad)
    kept[rows] = grad[rows]
    return kept


def _draws(rows: Tensor, trial: Trial) -> Iterator[Tensor]:
    """A batch for every step, from windows that are shuffled anew whenever all have had their turn."""
    generator, waiting = torch.Generator().manual_seed(trial.seed), rows[:0]
    for _ in range(trial.steps):
        if len(waiting) < min(trial.batch, len(rows)):
            waiting = rows[torch.randperm(len(rows), generator=generator)]
        yield waiting[: trial.batch]
        waiting = waiting[trial.batch :]


def _schedule(step: int, steps: int) -> float:
    return min(1.0, step / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
