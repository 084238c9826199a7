"""The tiny whole models in stock transformers: what the files of tests/hybrids.py are, and where stock is right."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.hybrids import (
    FOREIGN,
    MTP,
    VARIANTS,
    fields_of,
    make_hybrid,
    mix_dtypes,
    model_type_of,
    read_shards,
    read_tensors,
    recut,
)
from tests.models import random_tokens

PADDING = (0, 5, 9)
LENGTH = 21
IN_PROJ_BIAS = {"zamba2": "add_bias_linear", "nemotron_h": "use_bias", "mamba2": "use_bias"}
SPREAD = ("zamba2-2-blocks-adapters", "granitemoehybrid", "nemotron_h")


@dataclass(frozen=True)
class Loaded:
    variant: str
    folder: Path
    model: Any
    info: dict[str, set[Any]]


@pytest.fixture(scope="module", params=VARIANTS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = make_hybrid(tmp_path_factory.mktemp("hybrid") / "model", request.param, foreign=True)
    model, info = load(folder)
    yield Loaded(request.param, folder, model, info)


def load(folder: Path) -> tuple[Any, dict[str, set[Any]]]:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    return model.eval(), info


def left_padded() -> tuple[Tensor, Tensor]:
    """Tokens (3, LENGTH) and their mask, with PADDING on the left."""
    tokens_bl = random_tokens(len(PADDING), LENGTH, seed=3).long()
    mask_bl = (torch.arange(LENGTH) >= torch.tensor(PADDING)[:, None]).long()
    return tokens_bl * mask_bl, mask_bl


def generate(model: Any, tokens_bl: Tensor, mask_bl: Tensor, *, use_cache: bool) -> tuple[Tensor, Tensor]:
    """Six tokens per row, and the logits (b, 6, vocabulary) that they were chosen by."""
    with torch.inference_mode():
        done = model.generate(
            tokens_bl, attention_mask=mask_bl, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=use_cache,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    return done.sequences[:, tokens_bl.shape[1] :], torch.stack(done.logits, dim=1)


def has_in_proj_bias(variant: str) -> bool:
    return fields_of(variant).get(IN_PROJ_BIAS.get(model_type_of(variant), "mamba_proj_bias"), False)


def test_every_tensor_of_the_model_comes_from_the_files(loaded: Loaded) -> None:
    foreign = {name for name in FOREIGN if model_type_of(loaded.variant) != "nemotron_h" or name[:4] != "mtp."}
    wrong = {kind: names for kind, names in loaded.info.items() if names and kind != "unexpected_keys"}
    assert not wrong and loaded.info["unexpected_keys"] == foreign
    constant = [name for name, tensor in loaded.model.state_dict().items() if tensor.std() == 0]
    assert constant == []


def test_the_cache_changes_nothing_in_a_left_padded_batch(loaded: Loaded) -> None:
    tokens_bl, mask_bl = left_padded()
    cached, cached_blv = generate(loaded.model, tokens_bl, mask_bl, use_cache=True)
    plain, plain_blv = generate(loaded.model, tokens_bl, mask_bl, use_cache=False)
    assert cached_blv.isfinite().all() and cached.equal(plain)
    torch.testing.assert_close(cached_blv, plain_blv, atol=1e-4, rtol=0)


def test_left_padding_changes_a_row_only_where_in_proj_has_a_bias(loaded: Loaded) -> None:
    """Stock zeroes a padded position before in_proj, whose bias then reaches the first tokens' convolution."""
    tokens_bl, mask_bl = left_padded()
    with torch.inference_mode():
        padded_blv = loaded.model(tokens_bl, attention_mask=mask_bl, use_cache=False).logits
        alone = [loaded.model(tokens_bl[i : i + 1, n:], use_cache=False).logits[0] for i, n in enumerate(PADDING)]
    worst = max((padded_blv[i, n:] - alone[i]).abs().max() for i, n in enumerate(PADDING))
    assert worst > 0.01 if has_in_proj_bias(loaded.variant) else worst < 1e-4


def test_nemotrons_files_are_named_as_on_the_hub(tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", "nemotron_h", dtype=torch.bfloat16)
    tensors = read_tensors(folder)
    assert {"backbone.layers.1.mixer.experts.3.up_proj.weight", "backbone.embeddings.weight", *MTP} <= tensors.keys()
    wide = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert wide == {"backbone.layers.1.mixer.gate.e_score_correction_bias"}
    assert '"hybrid_override_pattern": "ME*-M"' in (folder / "config.json").read_text()


@pytest.mark.parametrize("variant", SPREAD)
def test_shards_are_cut_anew_and_dtypes_mixed_without_a_change_to_the_model(tmp_path: Path, variant: str) -> None:
    folder = make_hybrid(tmp_path / "model", variant, max_shard_size="50KB", dtype=torch.bfloat16)
    assert len(read_shards(folder)) > 1
    before, _ = load(folder)
    recut(folder, 3)
    mix_dtypes(folder)
    after, info = load(folder)
    assert {t.dtype for t in read_tensors(folder).values()} == {torch.bfloat16, torch.float32}
    assert not any(info.values())
    assert all(tensor.equal(after.state_dict()[name]) for name, tensor in before.state_dict().items())
