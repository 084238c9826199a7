"""Values that config.json can't have, and fields that ghost does not compute with: one line by name, at once."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import ghost
from ghost.checkpoint.in_memory import in_memory
from ghost.checkpoint.native import to_transformers
from ghost.checkpoint.source import open_checkpoint
from ghost.errors import GhostError
from tests.costs import refusal
from tests.models import (
    load_stock,
    make_model,
    make_native,
    open_stack,
    random_tokens,
    stack_logits,
    stock_logits,
)

pytest_plugins = ["tests.refusals"]

INFINITY = float("inf")
COUNTS = ("hidden_size", "num_heads", "head_dim", "n_groups", "state_size", "conv_kernel", "expand", "chunk_size",
          "vocab_size", "num_hidden_layers")  # fmt: skip
FLAGS = ("use_bias", "use_conv_bias", "tie_word_embeddings", "residual_in_fp32")
LIMITS: list[Any] = [[0.0], [], [0.0, 1.0, 2.0], [0.3, 0.1], [math.nan, 1.0], [0.0, "1"], "0.0", 0.1, {"low": 0}, None]
MALFORMED: list[tuple[str, Any]] = [
    *((name, value) for name in COUNTS for value in (0, -8, 2.5, "8", None, [8], True)),
    *((name, value) for name in FLAGS for value in ("false", 2, None)),
    *(("time_step_limit", value) for value in LIMITS),
    *(("layer_norm_epsilon", value) for value in (-1e-5, "small", math.nan, INFINITY, None)),
    ("hidden_act", "gelu"), ("hidden_act", None), ("hidden_act", 3),
    ("quantization_config", {"quant_method": "bitsandbytes"}), ("per_layer_config", {"0": {"state_size": 8}}),
]  # fmt: skip
NATIVE: list[tuple[str, Any]] = [
    *((f"ssm_cfg.{name}", value) for name in ("d_state", "d_conv", "expand", "headdim", "ngroups", "chunk_size")
      for value in (0, "8", None)),
    *((name, value) for name in ("d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple") for value in (0, "8")),
    *(("ssm_cfg.dt_limit", value) for value in LIMITS),
    ("ssm_cfg.bias", "no"), ("ssm_cfg.conv_bias", 2), ("tie_embeddings", "yes"), ("residual_in_fp32", None),
    ("ssm_cfg", ["Mamba2"]),
    ("ssm_cfg.norm_before_gate", True), ("ssm_cfg.rmsnorm", False), ("ssm_cfg.D_has_hdim", True),
    ("ssm_cfg.activation", "relu"), ("ssm_cfg.gate_scale", 2.0), ("ssm_cfg.use_qk_norm", False),
    ("logit_scale", 0.5), ("norm_epsilon", 1e-6),
]  # fmt: skip
HARMLESS: list[tuple[str, Any]] = [
    ("ssm_cfg.norm_before_gate", False), ("ssm_cfg.rmsnorm", True), ("ssm_cfg.D_has_hdim", False),
    ("ssm_cfg.activation", "silu"), ("ssm_cfg.A_init_range", [1, 8]), ("ssm_cfg.conv_init", 0.1), ("ssm_cfg.dt_min", 1),
    ("ssm_cfg.dt_max", 2), ("ssm_cfg.dt_init_floor", 1e-3), ("ssm_cfg.use_mem_eff_path", False), ("ssm_cfg.d_ssm", 64),
    ("ssm_cfg.d_ssm", None), ("ssm_cfg.chunk_size", 64), ("fused_add_norm", False), ("attn_cfg", {"num_heads": 4}),
    ("transformers_version", "4.40.0"), ("torch_dtype", "float32"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, and `native`, which is the same."""
    folder = tmp_path_factory.mktemp("folders")
    make_native(folder / "native", make_model(folder / "model"))
    return folder


def changed(source: Path, folder: Path, name: str, value: Any) -> Path:
    """The same weights under a config that differs in one field, at any depth."""
    folder.mkdir(exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    *parents, field = name.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    place[field] = value
    (folder / "config.json").write_text(json.dumps(config))
    for path in source.iterdir():
        if path.name != "config.json":
            (folder / path.name).hardlink_to(path)
    return folder


def assert_names(line: str, name: str) -> None:
    assert name.rpartition(".")[-1] in line and "\n" not in line, line
    assert any(remedy in line for remedy in ("mend config.json", "give ", "download", "remove it", "belong together"))


@pytest.mark.parametrize(("name", "value"), MALFORMED, ids=str)
def test_a_value_that_a_field_cannot_have_is_refused_by_name(name: str, value: Any, folders: Path, tmp_path: Path):
    assert_names(refusal(open_checkpoint, changed(folders / "model", tmp_path / "changed", name, value)), name)


@pytest.mark.parametrize(("name", "value"), NATIVE, ids=str)
def test_a_native_field_that_is_malformed_or_unknown_is_refused_by_name(
    name: str, value: Any, folders: Path, tmp_path: Path
):
    assert_names(refusal(open_checkpoint, changed(folders / "native", tmp_path / "changed", name, value)), name)


@pytest.mark.parametrize(("name", "value"), HARMLESS, ids=str)
def test_native_fields_that_change_nothing_are_read_past(name: str, value: Any, folders: Path, tmp_path: Path):
    tokens = random_tokens(1, 40)
    expected = stack_logits(open_stack(folders / "native"), tokens)
    found = open_stack(changed(folders / "native", tmp_path / "changed", name, value))
    assert stack_logits(found, tokens).equal(expected)


def test_every_argument_of_mamba_ssm_is_sorted():
    """Those of mamba_ssm 2.3.2's Mamba2 that JSON can hold, each one read, fixed or harmless at its default."""
    arguments = {
        "d_state": 128, "d_conv": 4, "conv_init": None, "expand": 2, "headdim": 64, "d_ssm": None, "ngroups": 1,
        "A_init_range": [1, 16], "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False, "dt_min": 0.001,
        "dt_max": 0.1, "dt_init_floor": 1e-4, "dt_limit": [0.0, INFINITY], "bias": False, "conv_bias": True,
        "chunk_size": 256, "use_mem_eff_path": True, "sequence_parallel": True,
    }  # fmt: skip
    native = {"d_model": 128, "n_layer": 2, "vocab_size": 100, "ssm_cfg": {"layer": "Mamba2"}}
    assert to_transformers(native | {"ssm_cfg": {"layer": "Mamba2"} | arguments}).to_dict() == (
        to_transformers(native).to_dict()
    )


@pytest.mark.parametrize("value", [[0.0], [0.3, 0.1], None])
def test_a_config_changed_in_memory_is_read_as_strictly(value: Any, folders: Path):
    model: Any = AutoModelForCausalLM.from_pretrained(folders / "model")
    object.__setattr__(model.config, "time_step_limit", value)
    if value is None:
        assert in_memory(model).mixer_layout.dt_limit == (0.0, INFINITY)
        return
    with pytest.raises(GhostError, match="time_step_limit is"):
        in_memory(model)


BIASES = [("use_bias", "in_proj.bias"), ("use_bias", "out_proj.bias"), ("use_conv_bias", "conv1d.bias")]


@pytest.mark.parametrize(("field", "tensor"), BIASES)
@pytest.mark.parametrize("says", [True, False])
def test_a_bias_that_the_config_contradicts_is_refused_in_both_directions(
    field: str, tensor: str, says: bool, tmp_path: Path, refused: Any
):
    model = make_model(tmp_path / "model", use_bias=True, use_conv_bias=True)
    if says:
        weights = load_file(model / "model.safetensors")
        del weights[f"backbone.layers.1.mixer.{tensor}"]
        save_file(weights, model / "model.safetensors", {"format": "pt"})
    else:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {field: False}))
    line = refused(model)
    # of use_bias in_proj's is told first
    assert f"{field} is {str(says).lower()} in config.json, but tensor" in line and "belong together" in line
    assert (tensor in line) == (says or tensor != "out_proj.bias")


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("use_conv_bias", [True, False])
def test_biases_are_used_as_stock_uses_them(use_bias: bool, use_conv_bias: bool, tmp_path: Path):
    model, tokens = make_model(tmp_path, use_bias=use_bias, use_conv_bias=use_conv_bias), random_tokens(1, 40)
    expected = stock_logits(load_stock(model), tokens)
    torch.testing.assert_close(stack_logits(open_stack(model), tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("content", ["{", "[]", '{"max_new_tokens": {', "version https://git-lfs.github.com/spec/v1"])
def test_generation_settings_that_are_none_are_refused_in_one_line(content: str, tmp_path: Path):
    model = make_model(tmp_path / "model", layers=1)
    (model / "generation_config.json").write_text(content)
    with pytest.raises(GhostError, match=r"generation_config\.json") as refused:
        ghost.prune(model, calibration=random_tokens(2, 8), round_to=8)
    assert "\n" not in str(refused.value)
