"""Checkpoints of real hybrid models' shapes with random weights, in the files' names of the hub.

`python -m bench.random_hybrid FOLDER SHAPE [--layers N]`
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from bench.random_checkpoint import random_values
from ghost.checkpoint.writer import SINGLE, Planned, write_json, write_weights

SHARD_BYTES = 1_000_000_000
PER_LAYER = ("hybrid_override_pattern", "layers_block_type", "layer_types")
"""Fields with an entry for each layer."""

# As spelled on the hub. Sizes were looked up in public code that quotes the config.json of each, and their parameters
# add up to what the hub says (tests/test_random_hybrid.py). From memory are: time steps, chunk sizes, token ids,
# rotary bases, Granite's attention and residual multipliers, and that Falcon's mixers have no norm; its multipliers
# are those of Falcon-H1-1.5B-Deep. None of these changes a tensor's shape, but for Falcon's norm of d_inner.
SHAPES: dict[str, dict[str, Any]] = {
    "nemotron-nano-9b-v2": {
        "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "num_hidden_layers": 56,
        "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
        "hidden_size": 4480, "intermediate_size": 15680, "vocab_size": 131072, "num_attention_heads": 40,
        "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 80, "n_groups": 8,
        "ssm_state_size": 128, "conv_kernel": 4, "expand": 2, "chunk_size": 128, "use_conv_bias": True,
        "use_bias": False, "mlp_bias": False, "attention_bias": False, "mlp_hidden_act": "relu2",
        "mamba_hidden_act": "silu", "layer_norm_epsilon": 1e-5, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 12, "pad_token_id": 0,
    },
    "granite-4.0-h-tiny": {
        "architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid", "num_hidden_layers": 40,
        "layer_types": ["attention" if i % 10 == 5 else "mamba" for i in range(40)],
        "hidden_size": 1536, "intermediate_size": 512, "shared_intermediate_size": 1024, "vocab_size": 100352,
        "num_local_experts": 64, "num_experts_per_tok": 6, "num_attention_heads": 12, "num_key_value_heads": 4,
        "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_d_conv": 4,
        "mamba_expand": 2, "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_proj_bias": False,
        "embedding_multiplier": 12.0, "logits_scaling": 6.0, "residual_multiplier": 0.22,
        "attention_multiplier": 0.0078125, "position_embedding_type": "nope", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "tie_word_embeddings": True, "bos_token_id": 100257,
        "eos_token_id": 100257, "pad_token_id": 100256,
    },
    "zamba2-1.2b": {
        "architectures": ["Zamba2ForCausalLM"], "model_type": "zamba2", "num_hidden_layers": 38,
        "layers_block_type": ["hybrid" if i % 6 == 5 else "mamba" for i in range(38)],
        "hidden_size": 2048, "intermediate_size": 8192, "vocab_size": 32000, "num_attention_heads": 32,
        "num_key_value_heads": 32, "n_mamba_heads": 64, "mamba_ngroups": 1, "mamba_d_state": 128, "mamba_d_conv": 4,
        "mamba_expand": 2, "chunk_size": 256, "num_mem_blocks": 1, "adapter_rank": 128,
        "use_shared_attention_adapter": True, "use_mem_rope": True, "rope_theta": 10000, "hidden_act": "gelu",
        "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "tie_word_embeddings": True, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    },
    "falcon-h1-1.5b": {
        "architectures": ["FalconH1ForCausalLM"], "model_type": "falcon_h1", "num_hidden_layers": 24,
        "hidden_size": 2048, "intermediate_size": 4608, "vocab_size": 65537, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 128, "mamba_d_ssm": 3072, "mamba_n_heads": 48, "mamba_d_head": 64,
        "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 128,
        "mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_rms_norm": False, "mamba_norm_before_gate": False,
        "embedding_multiplier": 5.656854249492381, "lm_head_multiplier": 0.03125,
        "key_multiplier": 0.17677669529663687, "attention_in_multiplier": 1.0, "attention_out_multiplier": 0.5,
        "ssm_in_multiplier": 1.0, "ssm_out_multiplier": 0.23570226039551587,
        "ssm_multipliers": [0.3535533905932738, 0.25, 0.1767766952966369, 0.5, 0.3535533905932738],
        "mlp_multipliers": [0.7071067811865476, 0.3125], "rope_theta": 1e11, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 11,
        "pad_token_id": 0,
    },
}  # fmt: skip


def write_random_hybrid(folder: Path, shape: str, layers: int | None = None, **changes: Any) -> Path:
    """A bf16 folder of `shape` (a name in SHAPES), or of its first `layers`, one tensor in memory at a time; `changes`
    are fields of its config."""
    fields = cut(SHAPES[shape], layers) | changes
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", fields | {"torch_dtype": "bfloat16"})
    plan = [
        Planned(name, size, dtype, partial(random_values, name, size, dtype)) for name, size, dtype in tensors(fields)
    ]
    write_weights(folder, _shards(plan))
    return folder


def _shards(plan: list[Planned]) -> dict[str, list[Planned]]:
    """Files of about SHARD_BYTES, by name; one that is enough has the usual name."""
    shards: list[list[Planned]] = [[]]
    for planned in plan:
        if shards[-1] and sum(each.size for each in shards[-1]) + planned.size > SHARD_BYTES:
            shards.append([])
        shards[-1].append(planned)
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    return dict(zip(names, shards, strict=True))


def cut(fields: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """The same config with the first `layers` only."""
    if layers is None:
        return dict(fields)
    return (
        fields | {"num_hidden_layers": layers} | {name: fields[name][:layers] for name in PER_LAYER if name in fields}
    )


def tensors(fields: dict[str, Any]) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name in the file, shape and dtype of every tensor, from the model on the meta device."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(CONFIG_MAPPING[fields["model_type"]](**fields))
    saved: dict[str, Tensor] = remove_tied_weights_from_state_dict(model.state_dict(), model)
    saved = revert_weight_conversion(model, saved)
    return [(name, tuple(tensor.shape), _dtype(name)) for name, tensor in saved.items()]


def _dtype(name: str) -> torch.dtype:
    """A router's correction is fp32 in a bf16 checkpoint."""
    return torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--layers", type=int, help="only so many, from the beginning")
    given = parser.parse_args()
    write_random_hybrid(given.folder, given.shape, given.layers)


if __name__ == "__main__":
    main()
