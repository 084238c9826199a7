"""The projected model against stock Mamba2 and against the step recurrence; caches, padding, dtypes and gradients."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Mamba2Config, Mamba2ForCausalLM

from ghost.modeling import GhostMamba2Config, GhostMamba2ForCausalLM
from tests.models import VOCAB, random_tokens
from tests.projected import N, R, fields, projected_model, randomize

STEP = 2e-3
"""Of finite differences; transformers' scan computes in fp32 whatever the model's dtype, so no smaller."""
every_grouping = pytest.mark.parametrize("n_groups", [1, 2])


@torch.inference_mode()
def logits(model: Any, tokens_bl: Tensor, **given: Any) -> Tensor:
    return model(tokens_bl, use_cache=False, **given).logits


def tokens(length: int = 41, rows: int = 2) -> Tensor:
    return random_tokens(rows, length).long()


@torch.inference_mode()
def cached_logits(model: Any, tokens_bl: Tensor, lengths: list[int]) -> tuple[Tensor, Any]:
    """Logits of the pieces of `lengths`, one after the other through one cache; and the cache."""
    found, cache = [], None
    for piece_bl in tokens_bl.split(lengths, dim=1):
        out = model(piece_bl, cache_params=cache, use_cache=True)
        cache = out.cache_params
        found.append(out.logits)
    return torch.cat(found, dim=1), cache


@every_grouping
def test_identity_projections_give_the_stock_model(n_groups: int):
    torch.manual_seed(0)
    stock = randomize(Mamba2ForCausalLM(Mamba2Config(**fields(n_groups), state_size=N))).eval()
    model = GhostMamba2ForCausalLM(GhostMamba2Config(**fields(n_groups), state_size=N, projected_from=N)).eval()
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert {name.rpartition(".")[2] for name in missing} == {"B_proj", "C_proj"}
    # a fresh projection keeps the first r channels: for r = N that is the identity
    torch.testing.assert_close(logits(model, tokens()), logits(stock, tokens()), rtol=0, atol=1e-5)
    found, _ = cached_logits(model, tokens(), [11] + [1] * 30)
    torch.testing.assert_close(found, cached_logits(stock, tokens(), [11] + [1] * 30)[0], rtol=0, atol=1e-5)


@torch.inference_mode()
def by_steps(mixer: Any, hidden_blm: Tensor) -> Tensor:
    """The mixer's definition, one step at a time."""
    weights, groups = mixer.state_dict(), mixer.n_groups
    inner, heads = mixer.intermediate_size, mixer.num_heads
    z, xBC, dt = F.linear(hidden_blm, weights["in_proj.weight"]).split([inner, inner + 2 * groups * N, heads], dim=-1)
    taps = F.pad(xBC, (0, 0, 3, 0)).unfold(1, 4, 1) * weights["conv1d.weight"][:, 0]
    x, B, C = F.silu(taps.sum(-1) + weights["conv1d.bias"]).split([inner, groups * N, groups * N], dim=-1)
    B, C = (
        (weights[name] @ stacked.unflatten(-1, (groups, N, 1))).squeeze(-1).repeat_interleave(heads // groups, dim=2)
        for name, stacked in (("B_proj", B), ("C_proj", C))
    )
    x, dt = x.unflatten(-1, (heads, -1)), F.softplus(dt + weights["dt_bias"])
    H, y = torch.zeros(*x[:, 0].shape, B.shape[-1], dtype=x.dtype), []
    for t in range(x.shape[1]):
        decay = torch.exp(-dt[:, t] * weights["A_log"].exp())[..., None, None]
        H = decay * H + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        y.append((H @ C[:, t, ..., None]).squeeze(-1) + weights["D"][:, None] * x[:, t])
    gated = (torch.stack(y, dim=1).flatten(-2) * F.silu(z)).unflatten(-1, (groups, -1))
    normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + mixer.norm.variance_epsilon)
    return F.linear(normed.flatten(-2) * weights["norm.weight"], weights["out_proj.weight"])


@every_grouping
@pytest.mark.parametrize("length", [1, 45])
def test_a_made_up_projection_equals_the_step_recurrence_in_float64(n_groups: int, length: int):
    mixer = projected_model(n_groups).backbone.layers[0].mixer
    hidden_blm = torch.randn(2, length, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = mixer(hidden_blm)
    expected = by_steps(mixer.double(), hidden_blm.double())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@every_grouping
@pytest.mark.parametrize("lengths", [[17] + [1] * 24, [1] * 41, [16, 20, 5], [3, 1, 37]])
def test_logits_with_a_cache_equal_logits_without(n_groups: int, lengths: list[int]):
    model = projected_model(n_groups)
    found, cache = cached_logits(model, tokens(), lengths)
    torch.testing.assert_close(found, logits(model, tokens()), rtol=0, atol=2e-5)
    for layer in cache.layers:
        assert layer.recurrent_states[0].shape == (2, 4, 16, R)
        assert layer.conv_states[0].shape == (2, 64 + 2 * n_groups * N, 4)


@every_grouping
def test_left_padding_changes_nothing(n_groups: int):
    model, pad = projected_model(n_groups), 9
    padded_bl, mask_bl = F.pad(tokens(), (pad, 0), value=0), F.pad(torch.ones(2, 41), (pad, 0)).long()
    padded_bl[1], mask_bl[1] = tokens(41 + pad)[1], 1  # the second row needs no padding
    found, expected = logits(model, padded_bl, attention_mask=mask_bl), logits(model, tokens())
    torch.testing.assert_close(found[0, pad:], expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], logits(model, padded_bl[1:])[0], rtol=0, atol=1e-5)


@every_grouping
def test_greedy_generation_is_the_same_alone_and_in_a_padded_batch(n_groups: int):
    model = projected_model(n_groups)
    long_l, short_l = tokens(20)[0], tokens(20)[1, :13]
    batch_bl = torch.stack([long_l, F.pad(short_l, (7, 0))])
    mask_bl = torch.stack([torch.ones(20), F.pad(torch.ones(13), (7, 0))]).long()
    given: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": VOCAB}
    found = model.generate(batch_bl, attention_mask=mask_bl, **given)[:, 20:]
    for row_l, new_l in zip((long_l, short_l), found, strict=True):
        mask_bl = torch.ones_like(row_l[None])  # transformers would take token 0 for padding
        assert torch.equal(model.generate(row_l[None], attention_mask=mask_bl, **given)[0, len(row_l) :], new_l)
        for _ in range(8):  # the definition: the likeliest token, with no cache
            row_l = torch.cat([row_l, logits(model, row_l[None])[0, -1:].argmax(-1)])
        assert torch.equal(row_l[-8:], new_l)


@every_grouping
def test_bf16_is_as_close_to_fp32_as_in_the_stock_model(n_groups: int):
    """The error of bf16 in a projected model is at most 1.5 times that of the stock model of the same weights."""
    model, stock = projected_model(n_groups), Mamba2ForCausalLM(Mamba2Config(**fields(n_groups), state_size=N)).eval()
    stock.load_state_dict(model.state_dict(), strict=False)

    def error(exact: Any) -> float:
        expected = logits(exact, tokens())
        return float((logits(exact.bfloat16(), tokens()) - expected).norm() / expected.norm())

    assert 0 < error(model) <= 1.5 * error(stock)


@every_grouping
def test_the_projection_in_bf16_rounds_once_and_keeps_the_last_dimension_contiguous(n_groups: int):
    mixer = projected_model(n_groups).backbone.layers[0].mixer.bfloat16()
    for length in (1, 9):
        stacked_bwl = torch.randn(2, n_groups * N, length, generator=torch.Generator().manual_seed(2)).bfloat16()
        found = mixer._project(stacked_bwl.mT, mixer.C_proj)
        exact = torch.einsum("bgnl,grn->blgr", stacked_bwl.double().unflatten(1, (n_groups, N)), mixer.C_proj.double())
        assert found.dtype == torch.bfloat16
        assert found.stride(-1) == 1
        assert (found - exact).abs().max() <= 2**-8 * exact.abs().max()
        assert (found == exact.bfloat16()).float().mean() > 0.98


@every_grouping
def test_gradients_reach_every_tensor_and_agree_with_finite_differences(n_groups: int):
    model, batch_bl = projected_model(n_groups).double().train(), tokens(12)

    def loss() -> Tensor:
        return model(batch_bl, labels=batch_bl).loss

    loss().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    for name in ("B_proj", "C_proj"):
        proj_grn: Any = getattr(model.backbone.layers[0].mixer, name)
        along = proj_grn.grad / proj_grn.grad.norm()
        with torch.no_grad():
            proj_grn.add_(STEP * along)
            high = loss()
            proj_grn.sub_(2 * STEP * along)
            slope = float(high - loss()) / (2 * STEP)
            proj_grn.add_(STEP * along)
        assert slope == pytest.approx(float(proj_grn.grad.norm()), rel=0.01)


def test_a_state_larger_than_what_it_is_projected_from_is_refused():
    with pytest.raises(ValueError, match=r"state_size is 48; give 1 to 32, which is projected_from"):
        GhostMamba2Config(**fields(1), state_size=48, projected_from=32)
