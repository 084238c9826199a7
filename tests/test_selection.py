"""How many channels stay, which ones, and what a selection does to B and C."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ghost.errors import SettingsError
from ghost.selection import Masked, Policy, Selection, kept_count, select
from ghost.ssd import recurrence

every_policy = pytest.mark.parametrize("policy", ["balanced", "pooled"])


@st.composite
def saliencies(draw: st.DrawFn, most_groups: int = 4) -> Tensor:
    """(g, n) of small whole numbers, so that ties are frequent."""
    shape = draw(st.integers(1, most_groups)), draw(st.integers(2, 9))
    values = st.lists(st.integers(0, 4), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    return torch.tensor(draw(values), dtype=torch.float64).reshape(shape)


def selection_of(*groups: list[int], d_state: int) -> Selection:
    """A selection by its kept channels."""
    kept_gn = torch.zeros(len(groups), d_state, dtype=torch.bool)
    for group, channels in enumerate(groups):
        kept_gn[group, channels] = True
    return Selection(kept_gn.double(), kept_gn)


@pytest.mark.parametrize(
    ("d_state", "sparsity", "round_to", "kept"),
    [
        (128, 0.5, 16, 64),
        (128, 0.75, 16, 32),
        (128, 0.7, 16, 32),
        (128, 0.6, 16, 48),
        (128, 0.9375, 8, 8),
        (100, 0.5, 16, 48),
        (40, 0.4, 8, 24),
        (10, 0.31, 1, 7),
        (2, 0.3, 1, 1),
    ],
)
def test_kept_count_rounds_to_the_nearest_multiple(d_state: int, sparsity: float, round_to: int, kept: int):
    assert kept_count(d_state, sparsity, round_to) == kept


@pytest.mark.parametrize(
    ("d_state", "sparsity", "round_to", "kept"),
    [(128, 0.8125, 16, 32), (128, 0.6875, 16, 48), (5, 0.5, 1, 3), (80, 0.9, 16, 16), (5, 0.9, 1, 1)],
)
def test_kept_count_rounds_halves_up_whatever_their_binary_form(
    d_state: int, sparsity: float, round_to: int, kept: int
):
    assert kept_count(d_state, sparsity, round_to) == kept


@given(st.integers(1, 300), st.floats(0.001, 0.999), st.integers(1, 64))
def test_kept_count_is_the_nearest_multiple_that_leaves_some_and_drops_some(
    d_state: int, sparsity: float, round_to: int
):
    exact = (1 - sparsity) * d_state
    try:
        kept = kept_count(d_state, sparsity, round_to)
    except SettingsError:
        assert d_state < round_to or exact < round_to / 2 or exact + round_to / 2 >= d_state
        return
    assert 0 < kept < d_state and kept % round_to == 0
    assert abs(kept - exact) <= round_to / 2 + 1e-6


@pytest.mark.parametrize(
    ("d_state", "sparsity", "round_to", "message"),
    [
        (8, 0.5, 16, "d_state is 8, less than --round-to 16; give --round-to 4 or less"),
        (128, 0.95, 16, "sparsity 0.95 of d_state 128 rounds to 0 kept channels at --round-to 16; lower --sparsity"),
        (128, 0.03, 16, "sparsity 0.03 of d_state 128 rounds to all 128 channels kept at --round-to 16; raise"),
        (40, 0.01, 8, "sparsity 0.01 of d_state 40 rounds to all 40 channels kept at --round-to 8; raise"),
        (16, 0.5, 16, "sparsity 0.5 of d_state 16 rounds to all 16 channels kept at --round-to 16; raise"),
    ],
)
def test_kept_count_refuses_to_keep_nothing_or_everything(d_state: int, sparsity: float, round_to: int, message: str):
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}"):
        kept_count(d_state, sparsity, round_to)


@given(saliencies(), st.data())
def test_balanced_keeps_the_best_channels_of_every_group(saliency_gn: Tensor, data: st.DataObject):
    kept = data.draw(st.integers(1, saliency_gn.shape[1] - 1))
    kept_gn = select(saliency_gn, kept).kept_gn
    for saliency_n, kept_n in zip(saliency_gn, kept_gn, strict=True):
        by_rank = sorted(range(len(saliency_n)), key=lambda n: (-saliency_n[n], n))
        assert kept_n.nonzero().flatten().tolist() == sorted(by_rank[:kept])


@given(saliencies(), st.data())
def test_pooled_keeps_the_best_channels_of_the_layer(saliency_gn: Tensor, data: st.DataObject):
    (groups, d_state), flat = saliency_gn.shape, saliency_gn.flatten().tolist()
    kept = data.draw(st.integers(1, d_state - 1))
    by_rank = sorted(range(len(flat)), key=lambda channel: (-flat[channel], channel))
    kept_gn = select(saliency_gn, kept, "pooled").kept_gn
    assert kept_gn.flatten().nonzero().flatten().tolist() == sorted(by_rank[: kept * groups])


@given(saliencies(most_groups=1), st.data())
def test_policies_agree_on_one_group(saliency_gn: Tensor, data: st.DataObject):
    kept = data.draw(st.integers(1, saliency_gn.shape[1] - 1))
    assert select(saliency_gn, kept, "pooled").kept_gn.equal(select(saliency_gn, kept, "balanced").kept_gn)


def test_pooled_gives_a_strong_group_more_channels_and_a_weak_one_none():
    saliency_gn = torch.tensor([[5.0, 7.0, 6.0, 1.0], [2.0, 3.0, 0.5, 4.0], [0.1, 0.2, 0.3, 0.4]])
    pooled, balanced = select(saliency_gn, 2, "pooled"), select(saliency_gn, 2)
    assert pooled.indices_gk().tolist() == [[0, 1, 2], [0, 1, 3], [-1, -1, -1]]
    assert balanced.indices_gk().tolist() == [[1, 2], [1, 3], [2, 3]]
    assert (pooled.width, pooled.is_rectangular) == (3, False)
    assert (balanced.width, balanced.is_rectangular) == (2, True)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("balanced", [[*range(9), 15], [*range(9), 15]]), ("pooled", [list(range(19)), [15]])],
)
def test_ties_go_to_the_lower_channel(policy: Policy, kept: list[list[int]]):
    saliency_gn = torch.ones(2, 20)
    saliency_gn[:, 15] = 2
    assert [group_n.nonzero().flatten().tolist() for group_n in select(saliency_gn, 10, policy).kept_gn] == kept


@every_policy
def test_a_selection_remembers_its_saliency_in_float64(policy: Policy):
    saliency_gn = torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.bfloat16)
    selection = select(saliency_gn, 1, policy)
    assert selection.saliency_gn.dtype == torch.float64
    assert selection.saliency_gn.tolist() == [[1, 3, 2]]
    assert selection.kept_gn.tolist() == [[False, True, False]]


def test_indices_are_padded_to_a_larger_width():
    selection = selection_of([1, 4], [0], d_state=5)
    assert selection.indices_gk(4).tolist() == [[1, 4, -1, -1], [0, -1, -1, -1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [([0, 3, 4], [1, 2, 4]), ([4], [0, 1, 3]), ([], [2])], ids=str)
def test_take_cuts_and_masked_zeroes_the_same_channels(groups: tuple[list[int], ...], dtype: torch.dtype):
    selection = selection_of(*groups, d_state=5)
    B_blgn = torch.randn(2, 3, 2, 5).to(dtype)
    given_blgn, taken_blgk, masked_blgn = B_blgn.clone(), selection.take(B_blgn), Masked(selection).take(B_blgn)
    assert taken_blgk.shape == (2, 3, 2, max(map(len, groups))) and masked_blgn.shape == B_blgn.shape
    assert taken_blgk.dtype == masked_blgn.dtype == dtype and B_blgn.equal(given_blgn)
    for group, channels in enumerate(groups):
        dropped = [n for n in range(5) if n not in channels]
        assert taken_blgk[:, :, group, : len(channels)].equal(B_blgn[:, :, group, channels])
        assert masked_blgn[:, :, group, channels].equal(B_blgn[:, :, group, channels])
        assert not taken_blgk[:, :, group, len(channels) :].any() and not masked_blgn[:, :, group, dropped].any()


@every_policy
def test_cutting_and_zeroing_leave_the_same_output(policy: Policy):
    random = torch.Generator().manual_seed(0)
    x_blhp, dt_blh = torch.randn(2, 9, 4, 3, generator=random), torch.rand(2, 9, 4, generator=random)
    B_blgn, C_blgn = torch.randn(2, 2, 9, 2, 6, generator=random, dtype=torch.float64)
    selection = select(torch.rand(2, 6, generator=random), 3, policy)

    def output(channels: Selection | Masked) -> Tensor:
        decay_h = -torch.ones(4, dtype=torch.float64)
        return recurrence(x_blhp.double(), dt_blh.double(), decay_h, channels.take(B_blgn), channels.take(C_blgn))[0]

    cut_blhp, zeroed_blhp = output(selection), output(Masked(selection))
    assert (cut_blhp - zeroed_blhp).abs().max() < 1e-13
    assert (cut_blhp - recurrence(x_blhp, dt_blh, -torch.ones(4), B_blgn, C_blgn)[0]).abs().max() > 0.1
