"""Model folders opened by ghost against stock transformers: every spelling of a checkpoint computes the same."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ghost.checkpoint.native import to_transformers
from ghost.checkpoint.source import open_checkpoint
from ghost.mixer import RECURRENT
from tests.models import (
    VOCAB,
    load_stock,
    make_model,
    make_native,
    open_stack,
    random_tokens,
    stack_logits,
    stock_logits,
)

TOKENS = random_tokens(2, 70)
FOLDERS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "two groups": {"n_groups": 2},
    "two groups, untied": {"n_groups": 2, "tie_word_embeddings": False},
    "bf16": {"dtype": torch.bfloat16, "n_groups": 2},
    "bf16, untied": {"dtype": torch.bfloat16, "tie_word_embeddings": False},
    "fp16": {"dtype": torch.float16},
    "sharded": {"max_shard_size": "20KB"},
    "biases": {"use_bias": True},
    "no biases": {"use_conv_bias": False},
    "two channels, one tap": {"d_state": 2, "conv_kernel": 1, "chunk_size": 1},
    "many channels and taps, odd chunks": {"d_state": 256, "conv_kernel": 8, "chunk_size": 7, "n_groups": 4},
    "other sizes": {"d_state": 20, "conv_kernel": 3, "layer_norm_epsilon": 0.01, "time_step_limit": (0.3, 0.9)},
}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), layers=2, **FOLDERS[request.param])


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest element: two fp32 implementations."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_logits_equal_those_of_transformers(folder: Path):
    assert_same(stack_logits(open_stack(folder), TOKENS), stock_logits(load_stock(folder), TOKENS))


def test_parameters_are_counted_as_transformers_does(folder: Path):
    assert open_checkpoint(folder).parameters == sum(p.numel() for p in load_stock(folder).parameters())


@pytest.mark.parametrize("in_fp32", [True, False])
def test_bf16_logits_are_as_close_to_fp32_as_those_of_transformers(in_fp32: bool, tmp_path: Path):
    folder = make_model(tmp_path, n_groups=2, dtype=torch.bfloat16, residual_in_fp32=in_fp32)
    exact = stock_logits(load_stock(folder), TOKENS)
    stock = stock_logits(load_stock(folder, torch.bfloat16), TOKENS)
    found = stack_logits(open_stack(folder, torch.bfloat16), TOKENS)
    assert found.dtype == torch.float32
    stream = open_stack(folder, torch.bfloat16).run(TOKENS)
    assert stream.hidden_blm.dtype == (torch.float32 if in_fp32 else torch.bfloat16)
    assert 0 < (found - exact).norm() <= 1.5 * (stock - exact).norm()


def test_in_bf16_the_recurrence_keeps_the_parameters_of_the_file(tmp_path: Path):
    folder = make_model(tmp_path, n_groups=2, layers=6)
    coarse, source = open_stack(folder, torch.bfloat16), open_checkpoint(folder)
    for i in range(source.layers):
        placed, stored = coarse.layer(i).mixer, source.mixer(i)
        assert all(placed[name].dtype == stored[name].dtype and placed[name].equal(stored[name]) for name in RECURRENT)
        assert {tensor.dtype for name, tensor in placed.items() if name not in RECURRENT} == {torch.bfloat16}


def test_rounding_them_too_costs_bf16_a_part_of_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = make_model(tmp_path, n_groups=2, layers=6)
    exact = stack_logits(open_stack(folder), TOKENS)
    kept = stack_logits(open_stack(folder, torch.bfloat16), TOKENS)
    monkeypatch.setattr("ghost.stack.RECURRENT", ())
    rounded = stack_logits(open_stack(folder, torch.bfloat16), TOKENS)
    assert (kept - exact).norm() < (rounded - exact).norm()


def test_shards_are_read_with_nothing_else_in_the_folder(tmp_path: Path):
    folder = make_model(tmp_path, **FOLDERS["sharded"])
    assert not (folder / "model.safetensors").exists()
    assert len(open_checkpoint(folder).tensors.files) == len(list(folder.glob("model-*.safetensors"))) > 3


@pytest.mark.parametrize("as_bin", [True, False])
@pytest.mark.parametrize("fields", [{}, {"n_groups": 2, "tie_word_embeddings": False}, {"dtype": torch.bfloat16}])
def test_native_folders_compute_the_same_bits(fields: dict[str, Any], as_bin: bool, tmp_path: Path):
    source = open_stack(make_model(tmp_path / "model", **fields))
    native = open_stack(make_native(tmp_path / "native", tmp_path / "model", as_bin=as_bin))
    assert stack_logits(native, TOKENS).equal(stack_logits(source, TOKENS))
    assert native.checkpoint.mixer_layout == source.checkpoint.mixer_layout
    assert native.checkpoint.parameters == source.checkpoint.parameters
    assert native.checkpoint.raw_config["model_type"] == "mamba2"


def test_native_sizes_default_to_those_of_mamba_ssm():
    config = to_transformers({"d_model": 128, "n_layer": 2, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}})
    assert (config.state_size, config.head_dim, config.num_heads) == (128, 64, 4)
    assert (config.n_groups, config.conv_kernel, config.vocab_size) == (1, 4, 50280)
    assert config.tie_word_embeddings and config.use_conv_bias and not config.use_bias
    assert tuple(config.time_step_limit) == (0, math.inf)


def test_native_sizes_are_taken_from_the_config():
    ssm = {"layer": "Mamba2", "d_state": 40, "headdim": 16, "ngroups": 4, "expand": 3, "d_conv": 3}
    ssm |= {"bias": True, "conv_bias": False, "dt_limit": [0.1, 2.0]}
    native = {"d_model": 32, "n_layer": 5, "vocab_size": 100, "pad_vocab_size_multiple": 16, "tie_embeddings": False}
    config = to_transformers(native | {"ssm_cfg": ssm, "residual_in_fp32": False})
    assert (config.state_size, config.head_dim, config.num_heads, config.n_groups) == (40, 16, 6, 4)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size, config.expand) == (32, 5, 112, 3)
    assert (config.conv_kernel, tuple(config.time_step_limit)) == (3, (0.1, 2.0))
    assert config.use_bias and not (config.use_conv_bias or config.tie_word_embeddings or config.residual_in_fp32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_come_as_they_are_stored(dtype: torch.dtype, tmp_path: Path):
    checkpoint = open_checkpoint(make_model(tmp_path, dtype=dtype))
    stored = load_stock(tmp_path, dtype).state_dict()
    for name, tensor in checkpoint.tensors.load(checkpoint.tensors.home).items():
        assert tensor.equal(stored[name]) and checkpoint.tensors.dtypes[name] == tensor.dtype == dtype
        assert checkpoint.tensors.shapes[name] == stored[name].shape
    for name, tensor in checkpoint.mixer(1).items():
        assert tensor.equal(stored[f"backbone.layers.1.mixer.{name}"]) and tensor.dtype == dtype
    assert checkpoint.names.source("lm_head.weight") == "backbone.embeddings.weight"
    assert (checkpoint.layers, checkpoint.mixers, checkpoint.vocab_size) == (3, (0, 1, 2), VOCAB)


def test_an_untied_head_is_not_the_embeddings(tmp_path: Path):
    checkpoint = open_checkpoint(make_model(tmp_path, tie_word_embeddings=False))
    assert checkpoint.names.source("lm_head.weight") == "lm_head.weight"


def test_the_digest_is_of_contents_and_not_of_the_place(tmp_path: Path):
    folder = make_model(tmp_path / "model")
    digest = open_checkpoint(folder).digest
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "README.md").write_text("A model card is not part of the model.")
    assert open_checkpoint(copied).digest == digest


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_digest_changes_with_weights_config_and_tokenizer(name: str, tmp_path: Path):
    digest = open_checkpoint(make_model(tmp_path)).digest
    path = tmp_path / name
    data = path.read_bytes()
    if name.endswith(".json"):
        path.write_text(json.dumps(json.loads(data)))
    else:
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    assert open_checkpoint(tmp_path).digest != digest
