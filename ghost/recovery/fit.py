"""`fit`: what makes B and C in a pruned mixer, fitted to the dense mixer; nothing else of it moves.

r channels of SiLU(conv(in_proj)) can say more of what the N of them said than r of those N do. By how much is no linear
question, so it is Adam's; x, dt, A and the gate stay what they are, and so does the form of the checkpoint. Of a
projected mixer B_proj and C_proj are fitted, and not what is before them.
"""

from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.kernels import conv_silu
from ghost.mixer import PROJECTIONS, MixerLayout, Weights, gated_norm, mixer_inputs, project
from ghost.recovery.pairs import Pairs
from ghost.ssd import ssd
from ghost.stream import batches

RATE, BETAS = 0.03, (0.9, 0.99)
"""RATE is a share of a tensor's root mean square."""
STEPS, WARM_UP, CHECK_EVERY = 400, 20, 50
TOKENS_PER_STEP = 256
"""Few: what counts is the number of steps, and their noise goes as the rate does (docs/decisions.md)."""
ROWS, CHANNELS = ("in_proj.weight", "in_proj.bias"), ("conv1d.weight", "conv1d.bias")

Parts = dict[str, Tensor]
"""Those rows of a mixer's tensors that make B and C."""


class Windows(NamedTuple):
    """What the fit can't move, for some windows, and what the dense mixer's out_proj is given for it."""

    inputs_blm: Tensor
    z_bli: Tensor
    x_blhp: Tensor
    dt_blh: Tensor
    target_bli: Tensor

    def take(self, rows: Tensor | slice) -> "Windows":
        return Windows(*(tensor[rows] for tensor in self))


@torch.inference_mode(False)
def fit(layer: DecoderLayer, dense: DecoderLayer, fitted: Pairs, held: Pairs, seed: int) -> DecoderLayer:
    """The layer with B and C as they did best on the windows of `held`, after at most STEPS steps on `fitted`.

    The target is what `dense`, the layer before it was pruned, does with the *pruned* path's inputs, where x, dt and
    z of both are the same. Computes in fp32. Memory: the mixer once more in fp32, gradients and moments of the rows of
    B and C, 3 d_inner + d_model numbers per token.
    """
    mixer = {name: tensor.detach().float().clone() for name, tensor in layer.mixer.items()}
    parts, moving = parts_of(layer.layout, mixer), layer.with_mixer(mixer)
    seen, unseen = windows(dense, fitted), windows(dense, held)
    batch_tokens = held.stack.batch_tokens
    weight_i = mixer["out_proj.weight"].square().sum(0)
    best, lowest = _copy(parts), _error(moving, parts, unseen, weight_i, batch_tokens)
    adam, draws = _optimizer(layer.layout, parts), torch.Generator().manual_seed(seed)
    for step in range(1, STEPS + 1):
        _step(adam, step, moving, parts, seen.take(_draw(seen, draws)), weight_i)
        if step % CHECK_EVERY == 0:
            found = _error(moving, parts, unseen, weight_i, batch_tokens)
            if found < lowest:
                best, lowest = _copy(parts), found
    return layer.with_mixer(_put(layer, best))


def windows(dense: DecoderLayer, pairs: Pairs) -> Windows:
    """Those of `pairs`, batch by batch through the dense mixer."""
    with torch.no_grad():
        found = [_through(dense, pairs.inputs_blm[rows]) for rows in pairs.parts()]
    return Windows(*(torch.cat(tensors) for tensors in zip(*found, strict=True)))


def _through(dense: DecoderLayer, inputs_blm: Tensor) -> Windows:
    z_bli, *recurrence = inputs = mixer_inputs(dense.layout, dense.mixer, inputs_blm)
    target_bli = gated_norm(dense.layout, dense.mixer, ssd(*recurrence)[0].flatten(-2), z_bli)
    return Windows(inputs_blm, z_bli, inputs.x_blhp, inputs.dt_blh, target_bli.to(inputs_blm))


def rows_of_bc(layout: MixerLayout) -> dict[str, slice]:
    """By name, where in a mixer's tensors the rows of B and C are."""
    z, x, B, C, _ = layout.in_proj_sections
    rows, channels = slice(z + x, z + x + B + C), slice(x, x + B + C)
    return dict.fromkeys(ROWS, rows) | dict.fromkeys(CHANNELS, channels) | dict.fromkeys(PROJECTIONS, slice(None))


def parts_of(layout: MixerLayout, mixer: Weights) -> Parts:
    """Copies of the rows that make B and C, projections included."""
    return {name: mixer[name][rows].clone() for name, rows in rows_of_bc(layout).items() if name in mixer}


def _fitted(layout: MixerLayout, parts: Parts) -> Parts:
    return {name: part for name, part in parts.items() if (name in PROJECTIONS) == bool(layout.projected_from)}


def _put(layer: DecoderLayer, parts: Parts) -> dict[str, Tensor]:
    """The layer's mixer with what was fitted in its place, in its own dtypes."""
    mixer = dict(layer.mixer)
    for name, part in _fitted(layer.layout, parts).items():
        mixer[name] = mixer[name].clone()
        mixer[name][rows_of_bc(layer.layout)[name]] = part.to(mixer[name])
    return mixer


def _copy(parts: Parts) -> Parts:
    return {name: part.detach().clone() for name, part in parts.items()}


def _optimizer(layout: MixerLayout, parts: Parts) -> torch.optim.Adam:
    """Rates by the size of each tensor; a bias may be zero, and goes with what it is added to."""
    groups = []
    for name, part in _fitted(layout, parts).items():
        size = parts[name.replace(".bias", ".weight")].detach().square().mean().sqrt()
        groups.append({"params": [part.requires_grad_()], "rate": RATE * float(size)})
    return torch.optim.Adam(groups, lr=RATE, betas=BETAS)


def _schedule(step: int) -> float:
    """Down to a twentieth in a straight line."""
    return min(1.0, step / WARM_UP) * (1 - 0.95 * step / STEPS)


def _draw(seen: Windows, draws: torch.Generator) -> Tensor:
    rows, length = seen.inputs_blm.shape[:2]
    return torch.randperm(rows, generator=draws)[: max(1, TOKENS_PER_STEP // length)]


def _step(
    adam: torch.optim.Adam, step: int, layer: DecoderLayer, parts: Parts, batch: Windows, weight_i: Tensor
) -> None:
    for group in adam.param_groups:
        group["lr"] = group["rate"] * _schedule(step)
    adam.zero_grad()
    _loss(layer, parts, batch, weight_i).backward()
    adam.step()


def _loss(layer: DecoderLayer, parts: Parts, batch: Windows, weight_i: Tensor) -> Tensor:
    """Squared error of what out_proj is given, each channel by the squared size of its column there, relative to what
    it should be: nearly the error of the output (exactly, were the columns orthogonal) for less time."""
    target_bli = batch.target_bli.float()
    errors_i = (_features(layer, parts, batch) - target_bli).square().sum((0, 1))
    return (errors_i @ weight_i) / (target_bli.square().sum((0, 1)) @ weight_i)


def _features(layer: DecoderLayer, parts: Parts, batch: Windows) -> Tensor:
    mixer, (B_blgn, C_blgn) = layer.mixer, readings(layer.layout, parts, batch.inputs_blm.float())
    A_h, D_h = -mixer["A_log"].exp(), mixer["D"]
    y_blhp, _ = ssd(batch.x_blhp, batch.dt_blh, A_h, B_blgn, C_blgn, D_h)
    return gated_norm(layer.layout, mixer, y_blhp.flatten(-2), batch.z_bli)


def readings(layout: MixerLayout, parts: Parts, inputs_blm: Tensor) -> tuple[Tensor, Tensor]:
    """B and C, (b, l, g, n) each, of the mixer that has these parts; as `mixer_inputs` has them, without the rest."""
    bc = F.linear(inputs_blm * layout.in_multiplier, parts["in_proj.weight"], parts.get("in_proj.bias"))
    B, C = bc.chunk(2, dim=-1)
    bc = torch.cat([B * layout.multipliers[2], C * layout.multipliers[3]], dim=-1)
    bc = conv_silu(bc, parts["conv1d.weight"], parts.get("conv1d.bias"))
    B_blgn, C_blgn = bc.unflatten(-1, (2, layout.n_groups, layout.bc_channels)).unbind(-3)
    if layout.projected_from:
        return project(B_blgn, parts["B_proj"]), project(C_blgn, parts["C_proj"])
    return B_blgn, C_blgn


@torch.no_grad()
def _error(layer: DecoderLayer, parts: Parts, held: Windows, weight_i: Tensor, batch_tokens: int) -> float:
    """The mean loss on these windows; infinity where a step led to what is no number."""
    rows, length = held.inputs_blm.shape[:2]
    losses = [
        (part, _loss(layer, parts, held.take(part), weight_i))
        for part in batches(rows, length, batch_tokens=batch_tokens)
    ]
    mean = sum(float(loss) * (part.stop - part.start) for part, loss in losses) / rows
    return mean if mean < inf else inf
