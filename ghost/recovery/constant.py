"""A constant channel in the place of the weakest one: it says what the dropped channels said together.

SiLU gives B and C means that are not zero: large and positive in some channels, in others a little below zero, where it
has its floor. Each of many weak channels adds almost nothing to y = sum of C_t[n] H_t[n], but what they add points the
same way, and may be what keeps the strong ones in balance. Were B and C constant, all channels together would be one:
k times the decayed sum of u. Biases of the convolution can say that, in any checkpoint that has them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.mixer import MixerLayout, Weights, mixer_inputs
from ghost.recovery.pairs import Pairs
from ghost.selection import Selection, select
from ghost.ssd import STATISTICS, energies, ssd
from ghost.surgery import zero_mixer

BIAS = "conv1d.bias"
LEAST_AT, LEAST = -1.2784645427610738, -0.2784645427610738
"""Where SiLU has its minimum, and that. Rounding the bias changes nothing there."""


def with_constant(pruned: Weights, dense: DecoderLayer, fitted: Pairs) -> dict[str, Tensor] | None:
    """The pruned mixer with the channel of least energy in each group made constant, B C = k, for the k with which y
    has the least squared distance from that of the dense mixer on the same inputs. A group that comes no nearer by it
    is left as it is, and one that is silent stays so.

    None where no group changes: the convolution has no bias, B and C are projected, or nothing is gained.
    """
    layer = dense.with_mixer(fitted.stack.place_mixer(pruned))
    if BIAS not in layer.layout.biases or layer.layout.projected_from:
        return None
    energy_gn = fitted.team.sum(_energy(layer, inputs_blm) for inputs_blm in _inputs(fitted))
    heard_gn = torch.where(energy_gn > 0, energy_gn, torch.inf)
    goes_gn = ~select(heard_gn, layer.layout.d_state - 1).kept_gn & ~heard_gn.isinf()
    without = zero_mixer(layer.layout, pruned, _others(goes_gn))
    rest = dense.with_mixer(fitted.stack.place_mixer(without))
    sums = (_sums(dense, layer, rest, inputs_blm) for inputs_blm in _inputs(fitted))
    before_g, lacking_g, product_g, square_g = fitted.team.sums(sums)
    k_g = product_g / square_g.clamp(min=torch.finfo(STATISTICS).tiny)
    goes_gn &= (lacking_g - k_g * product_g < before_g)[:, None]
    if not goes_gn.any():
        return None
    changed = zero_mixer(layer.layout, pruned, _others(goes_gn))
    return changed | {BIAS: _with_constants(layer.layout, changed[BIAS], goes_gn, k_g)}


def _others(goes_gn: Tensor) -> Selection:
    return Selection((~goes_gn).to(STATISTICS), ~goes_gn)


def _inputs(pairs: Pairs) -> Iterator[Tensor]:
    return (pairs.inputs_blm[rows] for rows in pairs.parts())


def _energy(layer: DecoderLayer, inputs_blm: Tensor) -> Tensor:
    x = mixer_inputs(layer.layout, layer.mixer, inputs_blm)
    return energies(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn).energy_gn.cpu()


def _sums(dense: DecoderLayer, pruned: DecoderLayer, rest: DecoderLayer, inputs_blm: Tensor) -> tuple[Tensor, ...]:
    """Of each group, float64: |what the pruned mixer lacks of y|^2; of what the rest lacks the same, and its product
    with the y of B = C = 1; the square of that y."""
    x, *others = (mixer_inputs(each.layout, each.mixer, inputs_blm) for each in (dense, pruned, rest))
    one_blg1 = torch.ones_like(x.B_blgn[..., :1])
    read = [(x.B_blgn, x.C_blgn), *((other.B_blgn, other.C_blgn) for other in others), (one_blg1, one_blg1)]
    wanted, whole, found, one = (ssd(x.x_blhp, x.dt_blh, x.A_h, *BC)[0].to(STATISTICS) for BC in read)
    products = ((wanted - whole).square(), (wanted - found).square(), (wanted - found) * one, one.square())
    return tuple(each.unflatten(2, (rest.layout.n_groups, -1)).sum((0, 1, 3, 4)).cpu() for each in products)


def _with_constants(layout: MixerLayout, bias: Tensor, constant_gn: Tensor, k_g: Tensor) -> Tensor:
    """The convolution's bias with which these channels, at most one of a group, have B C = k."""
    groups = constant_gn.any(-1)
    k, channel = k_g[groups], constant_gn[groups].int().argmax(-1)
    root, below = k.clamp(min=0).sqrt(), k < 0
    B = torch.where(below, _silu_inverse(k.clamp(max=0) / LEAST), _silu_inverse(root))
    C = torch.where(below, LEAST_AT, _silu_inverse(root))
    x, bc, _ = layout.conv_sections
    at = x + groups.nonzero().squeeze(-1) * layout.d_state + channel
    bias = bias.clone()
    bias[torch.cat([at, at + bc]).to(bias.device)] = torch.cat([B, C]).to(bias)
    return bias


def _silu_inverse(values: Tensor) -> Tensor:
    """x >= 0 with SiLU(x) = v for v >= 0, from x = v (1 + exp(-x)), which comes nearer at least threefold a step."""
    x = values.clone()
    for _ in range(60):
        x = values * (1 + (-x).exp())
    return x
