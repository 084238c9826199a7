"""`local`: some Adam steps on one pruned mixer's own tensors against the dense mixer's output; no graph beyond it."""

from collections.abc import Iterator
from math import cos, inf, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.mixer import mixer_forward
from ghost.recovery.pairs import Pairs

RATE, BETAS = 1.5e-3, (0.9, 0.99)
STEPS, WARM_UP, CHECK_EVERY = 300, 10, 25
TOKENS_PER_STEP = 1024


@torch.inference_mode(False)
def descend(layer: DecoderLayer, fitted: Pairs, held: Pairs, seed: int) -> DecoderLayer:
    """The layer with the tensors that did best on the windows of `held`, at any check of STEPS steps on `fitted`.

    No early stop: the cosine's small steps at the end gain the most. Computes in fp32; memory is that of one mixer's
    tensors, gradients and Adam moments, and of the activations of TOKENS_PER_STEP tokens.
    """
    parameters = {name: tensor.detach().float().clone() for name, tensor in layer.mixer.items()}
    trained = [tensor.requires_grad_() for tensor in parameters.values()]
    moving = layer.with_mixer(parameters)
    adam = torch.optim.Adam(trained, lr=RATE, betas=BETAS)
    best, lowest = _copy(parameters), _error(moving, held)
    for step, rows in enumerate(_draws(fitted, seed), start=1):
        adam.param_groups[0]["lr"] = RATE * _schedule(step)
        adam.zero_grad()
        _loss(moving, fitted, rows).backward()
        adam.step()
        if step % CHECK_EVERY == 0:
            error = _error(moving, held)
            if error < lowest:
                best, lowest = _copy(parameters), error
    return layer.with_mixer({name: tensor.to(layer.mixer[name].dtype) for name, tensor in best.items()})


def _draws(pairs: Pairs, seed: int) -> Iterator[Tensor]:
    """STEPS times some rows, shuffled anew whenever all have had their turn."""
    generator = torch.Generator().manual_seed(seed)
    step = max(1, TOKENS_PER_STEP // pairs.inputs_blm.shape[1])
    waiting = pairs.rows[:0]
    for _ in range(STEPS):
        if len(waiting) == 0:
            waiting = pairs.rows[torch.randperm(len(pairs.rows), generator=generator)]
        yield waiting[:step]
        waiting = waiting[step:]


def _schedule(step: int) -> float:
    return min(1.0, step / WARM_UP) * (0.05 + 0.475 * (1 + cos(pi * step / STEPS)))


def _loss(layer: DecoderLayer, pairs: Pairs, rows: Tensor) -> Tensor:
    inputs_blm, target_blm = pairs.take(rows)
    return F.mse_loss(mixer_forward(layer.layout, layer.mixer, inputs_blm.float()), target_blm)


@torch.no_grad()
def _error(layer: DecoderLayer, pairs: Pairs) -> float:
    """Mean squared error over the windows; infinity where a step led to what is no number."""
    error = sum(float(_loss(layer, pairs, rows)) * len(rows) for rows in pairs.parts()) / len(pairs.rows)
    return error if error < inf else inf


def _copy(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}
