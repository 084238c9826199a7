"""The decode benchmark: stock models of both formats, the bytes of their caches, rounds in turns."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ghost.checkpoint.source import open_checkpoint
from ghost.errors import CheckpointError
from ghost.evaluation import decode as decode_module
from ghost.evaluation.decode import PROMPT, ROUNDS, STEPS, decode, stock_model
from tests.hybrids import make_hybrid
from tests.models import make_model, make_native, random_tokens, stock_logits

CPU, HEADS, HEAD_DIM = torch.device("cpu"), 4, 16


def stock(folder: Path) -> Any:
    return stock_model(open_checkpoint(folder), CPU, torch.float32)


@pytest.mark.parametrize("as_bin", [True, False])
def test_a_native_folder_loads_in_stock_transformers_as_the_same_model(tmp_path: Path, as_bin: bool):
    folder = make_model(tmp_path / "model", layers=2, d_state=24, n_groups=2)
    native = make_native(tmp_path / "native", folder, as_bin=as_bin)
    tokens = random_tokens(2, 20)
    assert torch.equal(stock_logits(stock(native), tokens), stock_logits(stock(folder), tokens))


def test_a_smaller_state_has_fewer_bytes_and_rounds_come_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    models = {name: stock(make_model(tmp_path / name, layers=2, d_state=n)) for name, n in [("a", 32), ("b", 8)]}
    order, finished, timed = [], [], decode_module._round
    names = {id(model): name for name, model in models.items()}
    monkeypatch.setattr(decode_module, "_round", lambda model, ids: order.append(names[id(model)]) or timed(model, ids))
    found = decode(models, random_tokens(1, PROMPT)[0], 3, finished.append)
    assert order == ["a", "b"] * (ROUNDS + 1) and sum(finished) == ROUNDS + 1
    for name, n in [("a", 32), ("b", 8)]:
        assert found[name].ssm_bytes == 2 * 3 * HEADS * HEAD_DIM * n * 4
        assert found[name].conv_bytes == 2 * 3 * (HEADS * HEAD_DIM + 2 * n) * 4 * 4
        assert len(found[name].seconds) == ROUNDS and min(found[name].seconds) > 0


@torch.inference_mode()
@pytest.mark.parametrize("variant", ["mamba2-8-groups", "bamba", "zamba2-2-blocks-rope", "nemotron_h"])
def test_the_steps_that_are_timed_are_those_of_a_model_that_reads_its_own_output(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, prompt, caches = stock(make_hybrid(tmp_path, variant)), random_tokens(1, PROMPT), []
    monkeypatch.setattr(decode_module, "cache_bytes", lambda cache: caches.append(cache) or (0, 0, 0))
    decode_module._round(model, prompt.long())
    whole = prompt.long()
    for _ in range(STEPS):
        whole = torch.cat([whole, model(whole, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    out = model(whole, use_cache=True)
    expected = out.cache_params if "cache_params" in out else out.past_key_values
    for found, direct in zip(caches[0].layers, expected.layers, strict=True):
        for states in ("recurrent_states", "conv_states"):
            for at, state in getattr(direct, states, {}).items():
                torch.testing.assert_close(getattr(found, states)[at], state, rtol=1e-3, atol=1e-4)
        for held in ("keys", "values"):
            torch.testing.assert_close(getattr(found, held, None), getattr(direct, held, None), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["zamba2-2-blocks-rope", "nemotron_h", "falcon_h1", "bamba", "granitemoehybrid"])
def test_a_hybrids_cache_is_counted_by_what_it_holds(variant: str, tmp_path: Path):
    checkpoint = open_checkpoint(make_hybrid(tmp_path, variant))
    found = decode({"it": stock(tmp_path)}, random_tokens(1, PROMPT)[0], 2, lambda rounds: None)["it"]
    layout, mixers = checkpoint.mixer_layout, len(checkpoint.mixers)
    assert found.ssm_bytes == 2 * 4 * mixers * layout.state_elements
    assert found.conv_bytes == 2 * 4 * mixers * layout.conv_state_elements
    assert found.kv_bytes > 0 and found.kv_bytes % (2 * 2 * 4 * (PROMPT + STEPS)) == 0


def test_a_folder_that_transformers_refuses_is_one_line(tmp_path: Path):
    checkpoint = open_checkpoint(make_model(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"does not load in transformers \([^\n]*\); check the model, [^\n]*$"):
        stock_model(checkpoint, CPU, torch.float32)
