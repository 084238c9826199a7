"""Random checkpoints of real hybrids' shapes: transformers loads them whole, and they are as large as the hub's."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.random_hybrid import SHAPES, cut, tensors, write_random_hybrid
from tests.hybrids import read_tensors
from tests.models import random_tokens

SMALL: dict[str, dict[str, Any]] = {
    "nemotron-nano-9b-v2": {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 16,
    },
    "granite-4.0-h-tiny": {
        "hidden_size": 32, "intermediate_size": 16, "shared_intermediate_size": 24, "num_local_experts": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_n_heads": 4, "mamba_d_head": 16,
        "mamba_d_state": 16, "pad_token_id": 0,
    },
    "zamba2-1.2b": {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4,
        "n_mamba_heads": 4, "mamba_d_state": 16, "adapter_rank": 6,
    },
    "falcon-h1-1.5b": {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "mamba_d_ssm": 48, "mamba_n_heads": 4, "mamba_d_head": 12, "mamba_d_state": 16,
    },
}  # fmt: skip
PARAMETERS = {
    "nemotron-nano-9b-v2": 8.89, "granite-4.0-h-tiny": 6.94, "zamba2-1.2b": 1.22, "falcon-h1-1.5b": 1.55,
}  # fmt: skip
"""Billions, as the hub shows them."""


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_loads_the_beginning_of_a_shape_whole(tmp_path: Path, shape: str) -> None:
    folder = write_random_hybrid(tmp_path / "model", shape, layers=16, vocab_size=304, **SMALL[shape])
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, output_loading_info=True)
    model, info = loaded
    assert not any(info.values())
    assert len(model.model.layers) == 16
    with torch.inference_mode():
        assert model(random_tokens(2, 12).long()).logits.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_the_parameters_that_the_hub_shows(shape: str) -> None:
    total = sum(math.prod(size) for _, size, _ in tensors(SHAPES[shape]))
    assert round(total / 1e9, 2) == PARAMETERS[shape]


def test_config_and_tensors_are_spelled_as_on_the_hub(tmp_path: Path) -> None:
    folder = write_random_hybrid(
        tmp_path / "model", "nemotron-nano-9b-v2", 4, vocab_size=304, **SMALL["nemotron-nano-9b-v2"]
    )
    assert json.loads((folder / "config.json").read_text())["hybrid_override_pattern"] == "M-M-"
    assert "backbone.layers.0.mixer.in_proj.weight" in read_tensors(folder)


def test_a_shape_that_is_not_cut_is_left_as_it_is() -> None:
    assert all(cut(fields, None) == fields for fields in SHAPES.values())
