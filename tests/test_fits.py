"""What a model costs in the runtimes that serve it: held against stock caches, vLLM's own calculator and real files."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from ghost.checkpoint.families import FAMILIES, PROJECTED
from ghost.checkpoint.sizes import parameters
from ghost.checkpoint.source import open_checkpoint
from ghost.errors import SettingsError
from ghost.mixer import MixerLayout
from ghost.serving.memory import parse_memory
from ghost.serving.opened import open_model, serving_dtype
from ghost.serving.room import UTILIZATION, hybrid_blocks, room
from ghost.serving.rules import RULES, findings, padded, warnings
from ghost.serving.runtimes import RUNTIMES, unknown
from ghost.serving.sequence import Model, sequence
from tests.hybrids import PER_FAMILY, VARIANTS, fields_of, make_hybrid, model_type_of

GIB = 2**30
BF16 = torch.bfloat16
LARGE = MixerLayout(d_model=2048, nheads=64, headdim=64, n_groups=1, d_state=128, d_conv=4, norm_eps=1e-5)
"""Of mamba2-1.3b."""
PURE = Model("mamba2", LARGE, mixers=48, caches=(), elements=1_343_000_000, positions=None)
CALCULATED = {128: 51_585_024, 96: 38_983_680, 64: 26_382_336, 32: 13_780_992, 16: 7_480_320}
"""Bytes of its state in bf16, by vLLM 0.32's MambaStateShapeCalculator and MambaStateDtypeCalculator."""
NEMOTRON = {
    "model_type": "nemotron_h", "hidden_size": 4480, "intermediate_size": 15680, "num_hidden_layers": 52,
    "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", "num_attention_heads": 40,
    "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8,
    "ssm_state_size": 128, "vocab_size": 131072, "tie_word_embeddings": False,
}  # fmt: skip
"""The shape of an 8B hybrid."""


def config_only(folder: Path, fields: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sequence_takes_what_the_stock_cache_holds(variant: str, tmp_path: Path) -> None:
    family, tokens = model_type_of(variant), 5
    config = CONFIG_MAPPING[family](**fields_of(variant))
    stock = AutoModelForCausalLM.from_config(config, dtype=BF16).eval()
    with torch.inference_mode():
        output = stock(input_ids=torch.arange(tokens)[None], use_cache=True)
    cache = getattr(output, "past_key_values", None) or output.cache_params
    held = dict.fromkeys(("recurrent_states", "conv_states", "keys", "values"), 0)
    for layer in cache.layers:
        for name in held:
            found = getattr(layer, name, None)
            tensors = [found] if isinstance(found, torch.Tensor) else (found or {}).values()
            held[name] += sum(tensor.nbytes for tensor in tensors if tensor is not None)
    opened = open_model(config_only(tmp_path, fields_of(variant) | {"model_type": family}))
    one = sequence(RUNTIMES["transformers"], opened.model, BF16)
    assert (one.state, one.conv) == (held["recurrent_states"], held["conv_states"])
    assert tokens * one.token == held["keys"] + held["values"]
    assert opened.model.elements == sum(parameter.numel() for parameter in stock.parameters()) + _saved_buffers(stock)


def _saved_buffers(model: Any) -> int:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return sum(tensor.numel() for name, tensor in model.state_dict().items() if name not in parameters)


@pytest.mark.parametrize("variant", PER_FAMILY)
def test_config_alone_says_what_the_files_say(variant: str, tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "whole", variant)
    alone = config_only(tmp_path / "alone", json.loads((folder / "config.json").read_text()))
    whole, reckoned = open_model(folder), open_model(alone)
    assert (whole.counted, reckoned.counted) == (True, False)
    assert whole.model == reckoned.model
    assert whole.model.elements == parameters(open_checkpoint(folder))


@pytest.mark.parametrize(("d_state", "calculated"), CALCULATED.items())
def test_a_state_in_vllm_is_what_its_calculator_says(d_state: int, calculated: int) -> None:
    assert sequence(RUNTIMES["vllm"], PURE.with_state(d_state), BF16).fixed == calculated


def test_a_smaller_state_takes_its_weights_with_it(tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", "nemotron_h")
    smaller = make_hybrid(tmp_path / "smaller", "nemotron_h", ssm_state_size=6)
    assert open_model(folder).model.with_state(6) == open_model(smaller).model


def test_runtimes_keep_the_state_in_precisions_of_their_own() -> None:
    found = {name: sequence(runtime, PURE, BF16) for name, runtime in RUNTIMES.items()}
    fp32 = {name for name, one in found.items() if one.state_dtype == torch.float32}
    assert fp32 == {"sglang", "llama.cpp", "transformers"}
    assert found["llama.cpp"].conv == 48 * (4096 + 256) * 3 * 4
    assert found["mamba-ssm"].conv == 48 * (4096 + 256) * 4 * 2
    nemotron = replace(PURE, family="nemotron_h")
    assert sequence(RUNTIMES["vllm"], nemotron, BF16).state_dtype == torch.float32


def test_vllm_fills_its_share_of_the_memory_with_blocks() -> None:
    weights = PURE.elements * 2
    left = int(24 * GIB * UTILIZATION) - weights
    assert room(RUNTIMES["vllm"], PURE, BF16, 24 * GIB, 1).sequences == left // CALCULATED[128] - 1
    assert room(RUNTIMES["vllm"], PURE, BF16, GIB, 1).sequences == 0


@pytest.mark.parametrize("name", RUNTIMES)
def test_smaller_states_and_more_memory_fit_more_sequences(name: str) -> None:
    fit = [room(RUNTIMES[name], PURE.with_state(n), BF16, 12 * GIB, 1).sequences for n in CALCULATED]
    assert fit == sorted(fit) and 0 < fit[0] < fit[-1]
    assert room(RUNTIMES[name], PURE, BF16, 24 * GIB, 1).sequences > fit[0]


@given(d_state=st.integers(1, 256), mixers=st.integers(1, 60), attention=st.integers(1, 60), kept=st.integers(1, 64))
def test_a_hybrids_block_is_the_smallest_that_a_state_goes_into(
    d_state: int, mixers: int, attention: int, kept: int
) -> None:
    model = replace(PURE.with_state(d_state), mixers=mixers, caches=(16 * kept,) * attention)
    one = sequence(RUNTIMES["vllm"], model, BF16)
    blocks, token = hybrid_blocks(model, one), 32 * kept
    state = one.fixed // mixers
    assert blocks.tokens % 16 == 0 and blocks.page == blocks.tokens * token
    assert blocks.page - 16 * token < state <= blocks.page and blocks.padding == blocks.page - state
    assert blocks.layers * (blocks.state_groups - 1) < mixers <= blocks.layers * blocks.state_groups
    assert blocks.layers * (blocks.cache_groups - 1) < attention <= blocks.layers * blocks.cache_groups


def test_a_hybrids_pages_are_those_that_vllm_made(tmp_path: Path) -> None:
    """vLLM 0.32 ran this model on a CPU, where blocks are of 128 tokens: it padded a state by 444.68% to a page of
    32,768 bytes, and made 4 groups of states and one of caches, of a layer each."""
    fields = fields_of("nemotron_h") | {"head_dim": 32, "num_hidden_layers": 7, "hybrid_override_pattern": "MM*M-M-"}
    model = open_model(config_only(tmp_path, fields | {"model_type": "nemotron_h"})).model
    blocks = hybrid_blocks(model, sequence(RUNTIMES["vllm"], model, BF16), smallest=128)
    assert (blocks.tokens, blocks.page) == (128, 32768)
    assert round(100 * blocks.padding / (blocks.page - blocks.padding), 2) == 444.68
    assert (blocks.layers, blocks.state_groups, blocks.cache_groups) == (1, 4, 1)


def test_a_hybrid_in_vllm_gains_blocks_with_its_state(tmp_path: Path) -> None:
    model = open_model(config_only(tmp_path, NEMOTRON)).model
    assert (model.mixers, model.caches) == (24, (2048,) * 4)
    one = sequence(RUNTIMES["vllm"], model, BF16)
    assert (one.token, one.state) == (4 * 4096, 24 * 128 * 64 * 128 * 4)
    found = {n: room(RUNTIMES["vllm"], model.with_state(n), BF16, 80 * GIB, 8192) for n in (128, 64)}
    blocks = {n: each.blocks for n, each in found.items()}
    assert {n: each and each.tokens for n, each in blocks.items()} == {128: 1040, 64: 528}
    assert all(each and (each.layers, each.state_groups, each.cache_groups) == (4, 6, 1) for each in blocks.values())
    assert found[64].sequences > 1.4 * found[128].sequences > 0


def test_tiles_are_powers_of_two() -> None:
    assert [padded(n) for n in (1, 13, 16, 17, 40, 48, 64, 72, 96, 128)] == [16, 16, 16, 32, 64, 64, 64, 128, 128, 128]


@pytest.mark.parametrize(
    ("d_state", "n_groups", "broken"),
    [(128, 1, set()), (256, 1, set()),
     (96, 1, {"Triton scan", "CUDA convolution", "Vulkan, SYCL scan", "AVX-512 scan"}),
     (96, 2, {"Triton scan", "Vulkan, SYCL scan", "AVX-512 scan"}),
     (64, 1, {"CUDA scan", "Vulkan, SYCL scan"}),
     (32, 2, {"--mamba-backend flashinfer", "CUDA scan", "Vulkan, SYCL scan", "AVX-512 scan"}),
     (13, 1, {rule.kernel for rule in RULES if rule.grade != "note"})],
)  # fmt: skip
def test_each_size_breaks_the_rules_that_were_read(d_state: int, n_groups: int, broken: set[str]) -> None:
    layout = replace(LARGE, d_state=d_state, n_groups=n_groups)
    assert {each.rule.kernel for each in findings(layout, "mamba2") if each.rule.grade != "note"} == broken


def test_a_run_is_warned_of_what_its_model_did_not_break_before() -> None:
    half = replace(LARGE, d_state=64)
    lines = warnings(LARGE, half, "mamba2")
    assert len(lines) == 2 and all("N = 64 it falls back to the CPU" in line for line in lines)
    assert lines[0].startswith("llama.cpp, CUDA scan (0.5.0) takes 96, 128 and 256")
    assert warnings(half, replace(LARGE, d_state=32), "zamba2") == [
        "vLLM, --mamba-backend flashinfer (FlashInfer 0.7.2) takes 64, 96, 128 and 256; at N = 32 it is not tested; "
        "leave the backend at triton, the default"
    ]
    assert warnings(LARGE, LARGE, "mamba2") == [] and warnings(LARGE, half, "zamba2") == []


def test_every_rule_is_of_a_runtime_and_says_its_source() -> None:
    assert {rule.runtime for rule in RULES} <= RUNTIMES.keys()
    assert all(rule.source and rule.version and rule.wants for rule in RULES)
    families = {family for runtime in RUNTIMES.values() for family in runtime.families}
    assert families == FAMILIES.keys()


def test_what_a_runtime_does_not_know_is_said() -> None:
    assert unknown(RUNTIMES["vllm"], "bamba").endswith("since 0.23 (models/registry.py)")
    assert unknown(RUNTIMES["llama.cpp"], "zamba2") == "does not know zamba2"
    assert "vLLM with ghost's plugin" in unknown(RUNTIMES["mamba-ssm"], PROJECTED)
    assert {name for name, each in RUNTIMES.items() if not unknown(each, PROJECTED)} == {"vllm", "transformers"}


@pytest.mark.parametrize(
    ("written", "size"), [("24GiB", 24 * GIB), ("80 GB", 80 * 10**9), ("512mib", 2**29), ("1.5TiB", 3 * 2**39)]
)
def test_memory_is_read_as_people_write_it(written: str, size: int) -> None:
    assert parse_memory(written) == size


@pytest.mark.parametrize("written", ["24", "GiB", "-1GiB", "0GiB", "1e3GiB", "9" * 400 + "GiB", "24GiBs", "nanGB", ""])
def test_no_memory_is_refused(written: str) -> None:
    with pytest.raises(SettingsError, match=r"^memory: .* is no amount of memory; give a number and its unit"):
        parse_memory(written)


def test_auto_serves_in_half_precision() -> None:
    asked = {"bfloat16": BF16, "float16": torch.float16, "float32": BF16, None: BF16}
    for own, computed in asked.items():
        config = CONFIG_MAPPING["mamba2"](dtype=own)
        assert serving_dtype("auto", config) == computed
    assert serving_dtype("float32", config) == torch.float32
    with pytest.raises(SettingsError, match="dtype: 'int8' is no precision to serve in"):
        serving_dtype("int8", config)


def test_sglang_keeps_three_states_of_a_sequence_in_its_share() -> None:
    one = sequence(RUNTIMES["sglang"], PURE, BF16)
    left = 24 * GIB - 2 * PURE.elements
    slots = math.floor(left * 0.9 / 1.9 / one.fixed) - 1
    assert room(RUNTIMES["sglang"], PURE, BF16, 24 * GIB, 1).sequences == slots // 3
