"""Pruned hybrids generate as stock transformers lets them: from a cache as without one, left-padded as alone."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ghost.checkpoint.source import open_checkpoint
from tests.hybrids import VARIANTS, make_hybrid
from tests.models import load_stock, mask_stock, prune, random_tokens

PADDING = (0, 5, 9)
LENGTH, NEW = 21, 6


@pytest.fixture(scope="module", params=VARIANTS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The pruned folder's model, and the original with the dropped channels silenced."""
    made = tmp_path_factory.mktemp("hybrid")
    source = open_checkpoint(make_hybrid(made / "model", request.param))
    selections = prune(source, made / "out")
    return load_stock(made / "out"), mask_stock(load_stock(source.folder), source, selections)


def left_padded() -> tuple[Tensor, Tensor]:
    """Tokens of three sequences and their mask."""
    tokens_bl = random_tokens(len(PADDING), LENGTH, seed=3).long()
    mask_bl = (torch.arange(LENGTH) >= torch.tensor(PADDING)[:, None]).long()
    return tokens_bl * mask_bl, mask_bl


@torch.inference_mode()
def generate(model: Any, *, use_cache: bool) -> tuple[Tensor, Tensor]:
    """The tokens that follow, and the logits (b, NEW, vocab) that they were chosen by."""
    tokens_bl, mask_bl = left_padded()
    done = model.generate(
        tokens_bl, attention_mask=mask_bl, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
        use_cache=use_cache, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    return done.sequences[:, LENGTH:], torch.stack(done.logits, dim=1)


def test_a_left_padded_batch_continues_from_the_cache_as_without_it(models: tuple[Any, Any]) -> None:
    """Stock clamps dt in prefill and not while it decodes (zamba2 and nemotron_h by time_step_min, the others by
    time_step_limit). These models have the families' defaults and a dt that stays above them, so that both are the
    same; what tests/test_hybrid_models.py says of the dense ones, this says of the pruned."""
    pruned, _ = models
    cached, cached_blv = generate(pruned, use_cache=True)
    plain, plain_blv = generate(pruned, use_cache=False)
    assert cached.equal(plain) and cached.shape == (len(PADDING), NEW)
    assert_close(cached_blv, plain_blv, rtol=0, atol=1e-4)


def test_it_continues_as_the_original_without_the_dropped_channels(models: tuple[Any, Any]) -> None:
    """The cache of the one is smaller, and holds the same."""
    (found, found_blv), (expected, expected_blv) = (generate(model, use_cache=True) for model in models)
    assert found.equal(expected)
    assert_close(found_blv, expected_blv, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_cache_has_room_for_the_channels_that_are_kept(models: tuple[Any, Any]) -> None:
    tokens_bl = random_tokens(2, 5).long()
    caches = [getattr(out, "past_key_values", None) or out.cache_params
              for out in (model(tokens_bl, use_cache=True) for model in models)]  # fmt: skip
    pruned, dense = ([state for layer in cache.layers for state in states(layer)] for cache in caches)
    assert len(pruned) == len(dense) > 0
    assert all(2 * small.numel() == large.numel() for small, large in zip(pruned, dense, strict=True))


def states(layer: Any) -> list[Tensor]:
    """The recurrent states (b, h, p, n) that one decoder layer keeps."""
    return list(getattr(layer, "recurrent_states", {}).values())
