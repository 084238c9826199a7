"""Models that have no Mamba2 mixer: one line that says what they have instead, and none of their code is run."""

from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ghost.checkpoint.families import FAMILIES, PRUNED, whole_config
from ghost.checkpoint.in_memory import in_memory
from ghost.checkpoint.others import INSTEAD
from ghost.checkpoint.source import open_checkpoint
from ghost.checkpoint.writer import write_json
from ghost.errors import CheckpointError
from tests.hybrids import VARIANTS, fields_of, model_type_of

LISTED = f"; ghost needs Mamba2, so give one of: {', '.join(PRUNED)}"
REFUSED = {
    "mamba": "has Mamba1 mixers, whose state is d_inner x d_state without heads or groups",
    "falcon_mamba": "has Mamba1 mixers, whose state is d_inner x d_state without heads or groups",
    "jamba": "has Mamba1 mixers, whose state is d_inner x d_state without heads or groups, and attention",
    "zamba": "has Mamba1 mixers, whose state is d_inner x d_state without heads or groups, and a shared attention",
    "qwen3_next": "has gated delta nets, whose state is a matrix of keys by values per head, and attention",
    "kimi_linear": "has delta nets with a gate per channel, whose state is a matrix of keys by values per head, and",
    "rwkv": "has RWKV's time mixing, whose state has no B and C to slice",
    "recurrent_gemma": "has gated linear recurrences (RG-LRU), whose state is a vector, and local attention",
    "lfm2": "has short convolutions and attention, and no recurrent state",
    "llama": "has attention and no recurrent state",
    "gpt2": "has attention and no recurrent state",
    "granitemoe": "has attention and no recurrent state",
    "t5": "is no language model that generates text",
    "gated_deltanet": "has linear recurrences of flash-linear-attention, whose state has no B and C to slice",
    "mamba7": "is none that ghost, or transformers ",
}
WRAPPED = {"qwen3_5": "qwen3_5_text", "nemotron_h_omni": "nemotron_h"}
NO_MIXER: dict[str, tuple[dict[str, Any], str]] = {
    "nemotron_h": ({"hybrid_override_pattern": "*-E*-"}, "2 attention, 2 MLP, 1 experts"),
    "granitemoehybrid": ({"layer_types": ["attention"] * 4}, "4 attention"),
    "bamba": ({"attn_layer_indices": [0, 1, 2, 3, 4]}, "5 attention"),
}


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        whole_config(raw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("model_type", "has"), REFUSED.items(), ids=REFUSED)
def test_a_family_is_refused_by_what_it_has(model_type: str, has: str) -> None:
    raw = CONFIG_MAPPING[model_type]().to_dict() if model_type in CONFIG_MAPPING else {"model_type": model_type}
    line = refusal(raw)
    assert line.startswith(f"model_type {model_type!r} {has}") and line.endswith(LISTED)


@pytest.mark.parametrize(("model_type", "part"), WRAPPED.items(), ids=WRAPPED)
def test_a_language_model_within_another_is_told(model_type: str, part: str) -> None:
    raw = CONFIG_MAPPING[model_type]().to_dict()
    assert refusal(raw).startswith(f"model_type {model_type!r} wraps a language model of model_type {part!r}, and")


def test_no_recurrence_that_transformers_has_is_called_a_transformer() -> None:
    recurrent = {name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if _is_recurrent(name)}
    assert {"jamba", "mamba2", "zamba", "qwen3_next", "minimax", "zaya"} <= recurrent
    assert recurrent <= FAMILIES.keys() | INSTEAD.keys()


def _is_recurrent(model_type: str) -> bool:
    """By the words for its layers; of a config without any, by the fields."""
    try:
        config = CONFIG_MAPPING[model_type]()
    except Exception:  # one that is not possible without arguments, and is of a transformer
        return False
    kinds = set(getattr(config, "layer_types", None) or ())
    return bool(kinds & {"linear_attention", "hybrid", "hybrid_sliding", "conv"}) or hasattr(config, "state_size")


@pytest.mark.parametrize(("model_type", "fields", "found"), [(t, *case) for t, case in NO_MIXER.items()], ids=NO_MIXER)
def test_a_hybrid_without_any_mixer_is_refused_with_its_layers(
    model_type: str, fields: dict[str, Any], found: str, tmp_path: Path
) -> None:
    raw = fields_of(model_type) | {"model_type": model_type} | fields
    write_json(tmp_path / "config.json", raw)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)  # there are no weights: nothing more was looked at
    layers = 4 if model_type == "granitemoehybrid" else 5
    assert f"{tmp_path / 'config.json'}: model_type {model_type!r} may have Mamba2 mixers" in str(caught.value)
    assert f"none of these {layers} layers does: {found}; give a model with one" in str(caught.value)
    with pytest.raises(CheckpointError, match="the model in memory: model_type"):
        in_memory(AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**fields_of(model_type) | fields)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_hybrid_of_the_table_is_taken(variant: str) -> None:
    assert whole_config(fields_of(variant) | {"model_type": model_type_of(variant)}).model_type in PRUNED


def test_code_that_a_config_names_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "modeling_other.py").write_text("raise SystemExit('was run')")
    raw = {"model_type": "other", "auto_map": {"AutoConfig": "modeling_other.Other"}}
    write_json(tmp_path / "config.json", raw)
    with pytest.raises(CheckpointError, match="'other' is none that ghost, or transformers 5"):
        open_checkpoint(tmp_path)
