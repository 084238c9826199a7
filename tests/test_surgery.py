"""Slicing against zeroing B and C after the convolution, for all six families, on tiny random mixers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ghost.checkpoint.families import FAMILIES
from ghost.mixer import mixer_forward, mixer_inputs, mixer_output
from ghost.selection import Selection
from ghost.ssd import ssd
from ghost.surgery import pad_mixer, slice_mixer, zero_mixer
from tests.families import D_STATE, MIXERS, TinyMixer, bare_mixer, hidden_states, tiny_config, tiny_mixer

every_family = pytest.mark.parametrize("model_type", sorted(MIXERS))
every_selection = pytest.mark.parametrize("kept", [[5, 5], [7, 2], [0, 4], [12, 1], [12, 12]], ids=str)


def select(kept: list[int], seed: int = 0) -> Selection:
    """`kept[g]` random channels of each group g, other ones in each."""
    random = torch.Generator().manual_seed(seed)
    saliency_gn = torch.rand(len(kept), D_STATE, generator=random, dtype=torch.float64)
    rank_gn = saliency_gn.argsort(descending=True).argsort()
    return Selection(saliency_gn, rank_gn < torch.tensor(kept)[:, None])


def zeroed_after_convolution(tiny: TinyMixer, selection: Selection, hidden_blm: Tensor) -> Tensor:
    """What pruning means: the dropped channels of B and C are zero where they enter the recurrence."""
    z_bli, x, dt, A, B_blgn, C_blgn, D = mixer_inputs(tiny.layout, tiny.weights, hidden_blm)
    y_blhp, _ = ssd(x, dt, A, B_blgn * selection.kept_gn, C_blgn * selection.kept_gn, D)
    return mixer_output(tiny.layout, tiny.weights, y_blhp, z_bli)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest element: fewer terms are summed, and the gated norm magnifies their rounding."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@every_family
@every_selection
def test_slicing_equals_zeroing_after_the_convolution(model_type: str, kept: list[int]):
    tiny, selection, hidden_blm = tiny_mixer(model_type, 2), select(kept), hidden_states()
    layout, weights = slice_mixer(tiny.layout, tiny.weights, selection)
    layout.check(weights)
    assert layout.d_state == max(kept)
    assert_same(mixer_forward(layout, weights, hidden_blm), zeroed_after_convolution(tiny, selection, hidden_blm))


@every_family
@every_selection
def test_a_transformers_mixer_of_the_new_state_size_takes_the_slices(model_type: str, kept: list[int]):
    tiny, selection, hidden_blm = tiny_mixer(model_type, 2), select(kept), hidden_states()
    layout, weights = slice_mixer(tiny.layout, tiny.weights, selection)
    size: dict[str, Any] = {FAMILIES[model_type].state_size_field: layout.d_state}
    smaller = bare_mixer(tiny_config(model_type, 2, **size))
    smaller.load_state_dict(weights, strict=True)
    with torch.no_grad():
        assert_same(smaller(hidden_blm), zeroed_after_convolution(tiny, selection, hidden_blm))


@every_family
@every_selection
def test_zeroed_weights_equal_zeroing_after_the_convolution(model_type: str, kept: list[int]):
    tiny, selection, hidden_blm = tiny_mixer(model_type, 2), select(kept), hidden_states()
    zeroed = zero_mixer(tiny.layout, tiny.weights, selection)
    tiny.layout.check(zeroed)
    expected = zeroed_after_convolution(tiny, selection, hidden_blm)
    assert torch.equal(mixer_forward(tiny.layout, zeroed, hidden_blm), expected)


@every_family
def test_mixers_without_biases_are_sliced_too(model_type: str):
    tiny, selection, hidden_blm = tiny_mixer(model_type, 2, bias=False), select([5, 5]), hidden_states()
    layout, weights = slice_mixer(tiny.layout, tiny.weights, selection)
    assert weights.keys() == tiny.weights.keys()
    assert_same(mixer_forward(layout, weights, hidden_blm), zeroed_after_convolution(tiny, selection, hidden_blm))


@pytest.mark.parametrize("n_groups", [1, 4])
def test_any_number_of_groups_can_be_sliced(n_groups: int):
    tiny, selection, hidden_blm = tiny_mixer("mamba2", n_groups), select([5] * n_groups), hidden_states()
    layout, weights = slice_mixer(tiny.layout, tiny.weights, selection)
    assert_same(mixer_forward(layout, weights, hidden_blm), zeroed_after_convolution(tiny, selection, hidden_blm))


@every_family
def test_zeroing_only_rows_of_in_proj_is_not_enough(model_type: str):
    """SiLU of the convolution's bias would remain in B and C: a hundred times what `assert_same` allows, and more."""
    tiny, selection, hidden_blm = tiny_mixer(model_type, 2), select([5, 5]), hidden_states()
    zeroed = zero_mixer(tiny.layout, tiny.weights, selection)
    only_rows = tiny.weights | {name: zeroed[name] for name in ("in_proj.weight", "in_proj.bias")}
    expected = zeroed_after_convolution(tiny, selection, hidden_blm)
    difference = mixer_forward(tiny.layout, only_rows, hidden_blm) - expected
    assert difference.abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("kept", [[5, 5], [7, 2]], ids=str)
def test_wider_slices_are_padded_with_zeros(kept: list[int]):
    """To the width of the widest layer of a model, in one go or afterwards."""
    tiny, selection, hidden_blm = tiny_mixer("mamba2", 2), select(kept), hidden_states()
    layout, weights = slice_mixer(tiny.layout, tiny.weights, selection, width=9)
    layout.check(weights)
    assert layout.d_state == 9
    assert_same(mixer_forward(layout, weights, hidden_blm), zeroed_after_convolution(tiny, selection, hidden_blm))
    padded = pad_mixer(layout, slice_mixer(tiny.layout, tiny.weights, selection)[1])
    torch.testing.assert_close(padded, weights, rtol=0, atol=0)


def test_slices_keep_the_values_order_and_dtype_of_the_rows_that_stay():
    tiny, selection = tiny_mixer("mamba2", 2), select([5, 5])
    halved = {name: tensor.bfloat16() for name, tensor in tiny.weights.items()}
    before = {name: tensor.clone() for name, tensor in halved.items()}
    _, sliced = slice_mixer(tiny.layout, halved, selection)
    torch.testing.assert_close(halved, before, rtol=0, atol=0)
    assert {tensor.dtype for tensor in sliced.values()} == {torch.bfloat16}
    B, C = halved["in_proj.weight"][64:112].view(2, 2, D_STATE, -1)
    kept_B, kept_C = sliced["in_proj.weight"][64:84].view(2, 2, 5, -1)
    for g, kept_n in enumerate(selection.kept_gn):
        assert torch.equal(kept_B[g], B[g, kept_n])
        assert torch.equal(kept_C[g], C[g, kept_n])
    for name in sliced.keys() - {"in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias"}:
        assert torch.equal(sliced[name], halved[name])


def test_keeping_every_channel_changes_nothing():
    tiny, everything = tiny_mixer("mamba2", 2), select([D_STATE, D_STATE])
    layout, sliced = slice_mixer(tiny.layout, tiny.weights, everything)
    assert layout == tiny.layout
    torch.testing.assert_close(sliced, tiny.weights, rtol=0, atol=0)
    torch.testing.assert_close(zero_mixer(layout, tiny.weights, everything), tiny.weights, rtol=0, atol=0)
    torch.testing.assert_close(pad_mixer(layout, tiny.weights), tiny.weights, rtol=0, atol=0)
