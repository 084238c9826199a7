"""A constant channel in the place of the weakest one: its k by hand, what it says exactly, and where there is none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ghost.decoder_layer import DecoderLayer
from ghost.mixer import mixer_inputs
from ghost.pruned_path import PrunedPath
from ghost.recovery import DensePath, Pairs
from ghost.recovery.constant import BIAS, with_constant
from ghost.selection import Selection, select
from ghost.ssd import recurrence
from ghost.stack import Stack
from ghost.surgery import project_mixer, slice_mixer, zero_mixer
from tests.models import make_model, open_stack, random_tokens

ROWS, LENGTH, N, KEPT = 6, 24, 16, 4
TOKENS = random_tokens(ROWS, LENGTH)
FIRST = select(-torch.arange(float(N)).expand(2, -1), KEPT)
"""The first four channels of each of two groups."""
TAPS, SILU_IS_ONE = "conv1d.weight", 1.2784645427610738
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    return open_stack(make_model(tmp_path_factory.mktemp("model"), layers=1, d_state=N, n_groups=2))


@pytest.fixture(scope="module")
def pairs(stack: Stack) -> Pairs:
    inputs_blm = torch.cat(list(PrunedPath(stack, TOKENS).mixer_inputs()))
    return Pairs(stack, inputs_blm, DensePath(stack, TOKENS).outputs(), torch.arange(ROWS))


@pytest.fixture(scope="module")
def dense(stack: Stack) -> DecoderLayer:
    return stack.layer(0)


def cut(dense: DecoderLayer) -> Weights:
    return slice_mixer(dense.layout, dense.mixer, FIRST)[1]


def products(layer: DecoderLayer, pairs: Pairs) -> Tensor:
    """B_t C_t (b, l, g, n)."""
    inputs = mixer_inputs(layer.layout, layer.mixer, pairs.inputs_blm)
    return inputs.B_blgn * inputs.C_blgn


def y(layer: DecoderLayer, pairs: Pairs) -> Tensor:
    """By the definition, in float64, (b, l, g, r, p)."""
    _, x, dt, A, B, C, _ = mixer_inputs(layer.layout, layer.mixer, pairs.inputs_blm)
    found_blhp, _ = recurrence(*(tensor.double() for tensor in (x, dt, A, B, C)))
    return found_blhp.unflatten(2, (layer.layout.n_groups, -1))


def misses(layer: DecoderLayer, dense: DecoderLayer, pairs: Pairs) -> Tensor:
    """Squared error of y of each group, relative to the dense one's."""
    wanted = y(dense, pairs)
    return (y(layer, pairs) - wanted).square().sum((0, 1, 3, 4)) / wanted.square().sum((0, 1, 3, 4))


def shifted(dense: DecoderLayer, towards: float) -> DecoderLayer:
    """The same mixer, whose channels that are going to go all have B C = silu(3) silu(towards)."""
    mixer = dict(zero_mixer(dense.layout, dense.mixer, FIRST))
    gone_gn = ~FIRST.kept_gn
    at = dense.layout.d_inner + gone_gn.flatten().nonzero().squeeze(-1)
    mixer[BIAS] = mixer[BIAS].clone()
    mixer[BIAS][at], mixer[BIAS][at + gone_gn.numel()] = 3.0, towards
    return dense.with_mixer(mixer)


@pytest.mark.parametrize(("towards", "sign"), [(2.0, 1), (-1.0, -1)])
def test_one_channel_of_each_group_becomes_the_best_constant(
    dense: DecoderLayer, pairs: Pairs, towards: float, sign: int
) -> None:
    whole = shifted(dense, towards)
    mixer = cut(whole)
    found = with_constant(mixer, whole, pairs)
    assert found is not None
    products_gn = products(whole.with_mixer(found), pairs).flatten(0, 1)
    constant_gn = (products_gn - products_gn[0]).abs().amax(0) < 1e-5
    k_g = products_gn[0][constant_gn]
    assert constant_gn.sum(-1).tolist() == [1, 1] and k_g.sign().tolist() == [sign, sign]
    layout = whole.with_mixer(mixer).layout
    rest = whole.with_mixer(zero_mixer(layout, mixer, Selection((~constant_gn).double(), ~constant_gn)))
    without = y(rest, pairs)
    lacking, one = y(whole, pairs) - without, y(with_ones(rest), pairs) - without
    expected_g = (lacking * one).sum((0, 1, 3, 4)) / one.square().sum((0, 1, 3, 4))
    assert_close(k_g.double(), expected_g, rtol=1e-4, atol=0)
    before, after = (misses(whole.with_mixer(each), whole, pairs) for each in (mixer, found))
    assert bool((after < 0.2 * before).all())


def with_ones(layer: DecoderLayer) -> DecoderLayer:
    """The same layer with B = C = 1 in the channels that are silent."""
    bias = layer.mixer[BIAS]
    return layer.with_mixer({**layer.mixer, BIAS: bias.masked_fill(bias == 0, SILU_IS_ONE)})


def test_it_is_the_channel_of_least_energy_that_goes(dense: DecoderLayer, pairs: Pairs) -> None:
    mixer = cut(dense)
    faint = dense.layout.d_inner + torch.tensor([2, KEPT + 1])
    for name in (TAPS, BIAS):
        mixer[name] = mixer[name].index_copy(0, faint, 1e-3 * mixer[name][faint])
    found = with_constant(mixer, dense, pairs)
    assert found is not None
    changed = (found[TAPS] != mixer[TAPS]).flatten(1).any(-1).nonzero().squeeze(-1)
    assert changed.tolist() == [*faint.tolist(), *(faint + 2 * KEPT).tolist()]
    others = torch.ones(len(mixer[BIAS]), dtype=torch.bool).index_fill(0, changed, False)
    assert found[BIAS][others].equal(mixer[BIAS][others])


def test_channels_that_were_constant_are_said_exactly(dense: DecoderLayer, pairs: Pairs) -> None:
    """The dropped ones, and the kept one that goes for them."""
    whole = shifted(dense, -1.0)
    alike, mixer = dict(whole.mixer), cut(whole)
    for block in range(4):  # B and C, of two groups each
        for weights, size in ((alike, N), (mixer, KEPT)):
            for name, value in ((TAPS, 0.0), (BIAS, 0.1)):
                at = torch.tensor([whole.layout.d_inner + block * size])
                weights[name] = weights[name].index_fill(0, at, value)
    wanted = whole.with_mixer(alike)
    found = with_constant(mixer, wanted, pairs)
    assert found is not None and float(misses(whole.with_mixer(found), wanted, pairs).max()) < 1e-9


def test_a_group_that_is_silent_stays_so(dense: DecoderLayer, pairs: Pairs) -> None:
    whole, kept_gn = shifted(dense, 2.0), FIRST.kept_gn & torch.tensor([[True], [False]])
    found = with_constant(zero_mixer(dense.layout, whole.mixer, Selection(kept_gn.double(), kept_gn)), whole, pairs)
    assert found is not None
    loud_gn = products(whole.with_mixer(found), pairs).abs().amax((0, 1)) > 0
    assert loud_gn.sum(-1).tolist() == [KEPT, 0]


def test_no_bias_or_a_projection_admits_none(dense: DecoderLayer, pairs: Pairs, tmp_path: Path) -> None:
    turned = torch.eye(N)[:KEPT].expand(2, -1, -1)
    assert with_constant(project_mixer(dense.layout, dense.mixer, turned, turned), dense, pairs) is None
    bare = open_stack(make_model(tmp_path, layers=1, d_state=N, n_groups=2, use_conv_bias=False)).layer(0)
    assert with_constant(cut(bare), bare, pairs) is None


def test_where_nothing_is_gained_there_is_none(dense: DecoderLayer, pairs: Pairs) -> None:
    assert with_constant(dense.mixer, dense, pairs) is None
