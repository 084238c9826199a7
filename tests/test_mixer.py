"""ghost's mixer against transformers' own, for all six families, on tiny random mixers; layouts and their errors."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, MambaConfig

from ghost.checkpoint.families import mixer_layout
from ghost.checkpoint.names import find_names
from ghost.errors import CheckpointError, SettingsError
from ghost.mixer import Gating, mixer_forward, mixer_inputs, mixer_output
from ghost.ssd import recurrence
from tests.families import MIXERS, TinyMixer, hidden_states, tiny_config, tiny_mixer

every_family = pytest.mark.parametrize("model_type", sorted(MIXERS))


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the largest element; two fp32 paths through the gated norm differ by up to 2e-6."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def assert_forward_equal(tiny: TinyMixer, hidden_blm: Tensor) -> None:
    tiny.layout.check(tiny.weights)
    assert_same(mixer_forward(tiny.layout, tiny.weights, hidden_blm), tiny.forward(hidden_blm))


@every_family
@pytest.mark.parametrize("n_groups", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 8, 21])
def test_forward_equals_transformers(model_type: str, n_groups: int, length: int):
    assert_forward_equal(tiny_mixer(model_type, n_groups), hidden_states(length=length))


@every_family
def test_forward_without_biases_equals_transformers(model_type: str):
    assert_forward_equal(tiny_mixer(model_type, 2, bias=False), hidden_states())


@pytest.mark.parametrize("taps", [2, 3])
def test_forward_with_fewer_taps_equals_transformers(taps: int):
    assert_forward_equal(tiny_mixer("mamba2", conv_kernel=taps), hidden_states())


@every_family
def test_inputs_through_the_float64_recurrence_equal_transformers(model_type: str):
    tiny, hidden_blm = tiny_mixer(model_type, 2), hidden_states()
    z_bli, *inputs = mixer_inputs(tiny.layout, tiny.weights, hidden_blm)
    y_blhp, _ = recurrence(*(tensor.double() for tensor in inputs))
    assert_same(mixer_output(tiny.layout, tiny.weights, y_blhp, z_bli), tiny.forward(hidden_blm))


@every_family
def test_bf16_mixers_are_as_close_to_fp32_as_transformers(model_type: str):
    tiny, hidden_blm = tiny_mixer(model_type, 2), hidden_states().bfloat16()
    tiny.module.bfloat16()
    weights = tiny.module.state_dict()
    exact = mixer_forward(tiny.layout, {name: tensor.float() for name, tensor in weights.items()}, hidden_blm.float())
    found = mixer_forward(tiny.layout, weights, hidden_blm)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() <= 2 * (tiny.forward(hidden_blm) - exact).norm()


@pytest.mark.parametrize(
    ("model_type", "limit"),
    [(name, {"time_step_limit": (0.1, 0.2)}) for name in ("mamba2", "bamba", "falcon_h1", "granitemoehybrid")]
    + [(name, {"time_step_min": 0.3}) for name in ("zamba2", "nemotron_h")],
)
def test_dt_is_clamped_as_transformers_does(model_type: str, limit: dict[str, Any]):
    tiny, hidden_blm = tiny_mixer(model_type, 2, **limit), hidden_states()
    free = replace(tiny.layout, dt_limit=(0.0, float("inf")))
    low, high = tiny.layout.dt_limit
    free_dt = mixer_inputs(free, tiny.weights, hidden_blm).dt_blh
    assert free_dt.min() < low
    assert free_dt.max() > high or high == float("inf")
    torch.testing.assert_close(mixer_inputs(tiny.layout, tiny.weights, hidden_blm).dt_blh, free_dt.clamp(low, high))
    assert_forward_equal(tiny, hidden_blm)
    with pytest.raises(AssertionError):
        assert_same(mixer_forward(free, tiny.weights, hidden_blm), tiny.forward(hidden_blm))


def test_a_config_without_time_step_limit_does_not_clamp():
    assert mixer_layout(tiny_config("bamba", time_step_limit=None)).dt_limit == (0.0, float("inf"))


@pytest.mark.parametrize(
    ("rms_norm", "before_gate", "gating"),
    [(False, True, "gate"), (False, False, "gate"), (True, True, "norm-then-gate"), (True, False, "gate-then-norm")],
)
def test_falcon_h1_gates_as_its_config_says(rms_norm: bool, before_gate: bool, gating: str):
    tiny = tiny_mixer("falcon_h1", 2, mamba_rms_norm=rms_norm, mamba_norm_before_gate=before_gate)
    assert tiny.layout.gating == gating
    assert_forward_equal(tiny, hidden_states())


def test_falcon_h1_takes_its_width_from_expand_where_mamba_d_ssm_is_not_given():
    assert_forward_equal(tiny_mixer("falcon_h1", 2, mamba_d_ssm=None, mamba_expand=2), hidden_states())


@every_family
def test_states_have_the_size_that_transformers_caches(model_type: str):
    tiny = tiny_mixer(model_type, 2)
    cache: Any = DynamicCache(config=tiny.config)
    tiny.module(hidden_states(batch=1), cache_params=cache)
    assert tiny.layout.state_elements == cache.get_recurrent_state(0, state_idx=0).numel()
    assert tiny.layout.conv_state_elements == cache.get_conv_state(0, state_idx=0).numel()


SMALL = {"vocab_size": 32, "num_hidden_layers": 2}
HYBRID = SMALL | {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
WHOLE: dict[str, tuple[dict[str, Any], int]] = {
    "mamba2": (SMALL, 2),
    "zamba2": (HYBRID | {"layers_block_type": ["linear_attention", "hybrid"]}, 2),
    "bamba": (HYBRID | {"attn_layer_indices": [1]}, 1),
    "falcon_h1": (HYBRID, 2),
    "granitemoehybrid": (HYBRID | {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 0}, 1),
    "nemotron_h": (HYBRID | {"head_dim": 8, "layers_block_type": ["mlp", "linear_attention"]}, 1),
}


@every_family
def test_paths_find_every_mixer_of_a_model_in_memory_and_on_disk(model_type: str, tmp_path: Path):
    fields, mixers = WHOLE[model_type]
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **fields))
    model.save_pretrained(tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    names = find_names(model.config, files)
    assert {f"{path}.A_log" for path in names.mixers.values()} == a_logs(model.state_dict())
    assert {names.mixer(i)["A_log"] for i in names.mixers} == a_logs(files)
    assert len(names.mixers) == mixers and sorted(names.mixers) == list(names.mixers)


def a_logs(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.endswith(".A_log")}


def test_check_accepts_a_mixer_without_biases():
    tiny = tiny_mixer("mamba2", bias=False)
    assert not any(name.endswith(".bias") for name in tiny.weights)
    tiny.layout.check(tiny.weights)


@pytest.mark.parametrize("name", ["in_proj.weight", "conv1d.weight", "A_log", "D", "dt_bias", "norm.weight"])
def test_check_names_a_missing_tensor(name: str):
    tiny = tiny_mixer("mamba2")
    without = {key: tensor for key, tensor in tiny.weights.items() if key != name}
    with pytest.raises(CheckpointError, match=rf"^layer 3: tensor {name} is missing"):
        tiny.layout.check(without, where="layer 3")


@pytest.mark.parametrize(("gating", "name"), [("gate-then-norm", "x_proj.weight"), ("gate", "norm.weight")])
def test_check_names_an_unexpected_tensor(gating: Gating, name: str):
    tiny = tiny_mixer("mamba2")
    with pytest.raises(CheckpointError, match=f"unexpected tensor {name}"):
        replace(tiny.layout, gating=gating).check(tiny.weights | {name: torch.ones(32)})


@pytest.mark.parametrize("name", ["in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "out_proj.bias"])
def test_check_names_a_tensor_of_another_shape(name: str):
    tiny = tiny_mixer("mamba2")
    found, expected = tiny.weights[name][1:], tuple(tiny.weights[name].shape)
    message = re.escape(f"{name} has shape {tuple(found.shape)}, but config.json asks for {expected}")
    with pytest.raises(CheckpointError, match=message):
        tiny.layout.check(tiny.weights | {name: found})


@pytest.mark.parametrize("field", ["d_model", "nheads", "headdim", "n_groups", "d_state", "d_conv"])
@pytest.mark.parametrize("size", [0, -8])
def test_layout_refuses_sizes_below_one(field: str, size: int):
    with pytest.raises(SettingsError, match=f"^{field} is {size};"):
        replace(tiny_mixer("mamba2").layout, **{field: size})


def test_layout_refuses_heads_that_the_groups_cannot_share():
    with pytest.raises(SettingsError, match="nheads 4 is not a multiple of n_groups 3"):
        replace(tiny_mixer("mamba2").layout, n_groups=3)


def test_models_without_a_mamba2_mixer_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r"model_type 'gpt2' has attention .* give one of: mamba2, zamba2, "):
        mixer_layout(GPT2Config())
    with pytest.raises(
        CheckpointError, match=r"model_type 'mamba' has Mamba1 mixers, .* d_inner x d_state .* needs Mamba2"
    ):
        mixer_layout(MambaConfig())


@pytest.mark.parametrize(
    ("model_type", "field", "value", "message"),
    [
        ("mamba2", "head_dim", 7, "expand * hidden_size is 32, but num_heads * head_dim is 28"),
        ("zamba2", "n_mamba_heads", 5, "mamba_expand * hidden_size is 32, but n_mamba_heads * mamba_headdim is 40"),
        ("falcon_h1", "mamba_d_ssm", 40, "mamba_d_ssm is 40, but mamba_n_heads * mamba_d_head is 32"),
        ("granitemoehybrid", "hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("nemotron_h", "mamba_hidden_act", "relu2", "mamba_hidden_act is 'relu2'"),
    ],
)
def test_contradictory_configs_are_refused_by_field(model_type: str, field: str, value: Any, message: str):
    config = tiny_config(model_type)
    setattr(config, field, value)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        mixer_layout(config)
