"""Tiny random whole models of every family with Mamba2 mixers, in folders that are spelled as the hub's.

A variant's name is its model_type, then what is special about it. No multiplier is 1, a bias is somewhere wherever the
family has one, and every tensor is random.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.models import RANDOM, VOCAB, make_tokenizer

Shard = dict[str, Tensor]
INDEX = "model.safetensors.index.json"
WIDE = ("conv1d.weight", "embeddings.weight", "embed_tokens.weight")
ALWAYS_FP32 = ("A_log", "e_score_correction_bias")

_COMMON = {
    "vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "hidden_size": 32,
    "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
_BAMBA = _COMMON | {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 16, "mamba_chunk_size": 8,
}  # fmt: skip
BASES: dict[str, dict[str, Any]] = {
    "mamba2": {
        "vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "hidden_size": 32,
        "num_hidden_layers": 3, "num_heads": 8, "head_dim": 8, "n_groups": 8, "state_size": 16, "chunk_size": 8,
        "tie_word_embeddings": False,
    },
    "zamba2": _COMMON | {
        "num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba", "hybrid"],
        "n_mamba_heads": 4, "mamba_ngroups": 2, "mamba_d_state": 16, "chunk_size": 8, "num_key_value_heads": 4,
        "adapter_rank": 6,
    },
    "bamba": _BAMBA | {"num_hidden_layers": 5, "attn_layer_indices": [1, 3]},
    "falcon_h1": _BAMBA | {
        "num_hidden_layers": 3, "mamba_d_ssm": 48, "mamba_d_head": 12, "mamba_expand": 3, "head_dim": 8,
        "embedding_multiplier": 2.5, "lm_head_multiplier": 0.4, "attention_in_multiplier": 0.8,
        "attention_out_multiplier": 0.6, "key_multiplier": 0.7, "ssm_in_multiplier": 1.3, "ssm_out_multiplier": 0.9,
        "ssm_multipliers": [0.7, 1.3, 0.5, 1.9, 0.3], "mlp_multipliers": [0.75, 1.2],
    },
    "granitemoehybrid": _BAMBA | {
        "num_hidden_layers": 4, "layer_types": ["mamba", "attention", "mamba", "mamba"], "num_local_experts": 4,
        "num_experts_per_tok": 2, "intermediate_size": 16, "shared_intermediate_size": 24,
        "position_embedding_type": "nope", "embedding_multiplier": 3.0, "residual_multiplier": 0.4,
        "logits_scaling": 2.5, "attention_multiplier": 0.2, "tie_word_embeddings": True,
    },
    "nemotron_h": _COMMON | {
        "head_dim": 8, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 8, "ssm_state_size": 16, "chunk_size": 8,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 24, "routed_scaling_factor": 2.5, "tie_word_embeddings": False,
    },
}  # fmt: skip
_GATED = {"mamba_rms_norm": True, "mamba_norm_before_gate": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "mamba2-8-groups": {},
    "zamba2": {},
    "zamba2-adapters-rope": {"use_shared_attention_adapter": True, "use_mem_rope": True},
    "zamba2-2-blocks-rope": {"num_mem_blocks": 2, "use_mem_rope": True, "add_bias_linear": True},
    "zamba2-2-blocks-adapters": {"num_mem_blocks": 2, "use_shared_attention_adapter": True},
    "bamba": {},
    "bamba-biases": {"mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "falcon_h1": {"mamba_rms_norm": False, "mamba_norm_before_gate": False},
    "falcon_h1-gate-norm": _GATED | {"tie_word_embeddings": True},
    "falcon_h1-norm-gate": {
        "mamba_rms_norm": True, "mamba_norm_before_gate": True, "mamba_proj_bias": True, "projectors_bias": True,
        "attention_bias": True, "mlp_bias": True,
    },
    "falcon_h1-256": {
        "mamba_rms_norm": False, "mamba_d_state": 256, "mamba_d_ssm": 8, "mamba_n_heads": 2, "mamba_d_head": 4,
        "mamba_n_groups": 1,
    },
    "granitemoehybrid": {},
    "granitemoehybrid-rope": {
        "position_embedding_type": "rope", "tie_word_embeddings": False, "mamba_proj_bias": True,
        "attention_bias": True,
    },
    "granitemoehybrid-dense": {"num_local_experts": 0},
    "granitemoehybrid-dense-rope": {"num_local_experts": 0, "position_embedding_type": "rope"},
    "nemotron_h": {"num_hidden_layers": 5, "hybrid_override_pattern": "ME*-M"},
    "nemotron_h-4-groups": {
        "layers_block_type": ["linear_attention", "mlp", "linear_attention", "full_attention", "moe"], "n_groups": 4,
        "moe_latent_size": 16, "n_group": 2, "topk_group": 1, "use_bias": True, "mlp_bias": True,
    },
}  # fmt: skip
PER_FAMILY: tuple[str, ...] = (
    "mamba2-8-groups", "zamba2-2-blocks-adapters", "bamba-biases", "falcon_h1-norm-gate", "granitemoehybrid-rope",
    "nemotron_h-4-groups",
)  # fmt: skip
"""One of each, for tests that take longer."""
MTP = ("mtp.layers.0.norm.weight", "mtp.layers.0.mixer.q_proj.weight")
"""In the files of every nemotron_h, as on the hub; transformers passes over them."""
FOREIGN = ("mtp.layers.0.weight", "extra.scale", "extra.count")
"""What `foreign` adds; the last is int64."""


def fields_of(variant: str) -> dict[str, Any]:
    """The config's fields, as the hub spells them."""
    return BASES[model_type_of(variant)] | VARIANTS[variant]


def model_type_of(variant: str) -> str:
    return variant.partition("-")[0]


def make_hybrid(
    folder: Path,
    variant: str,
    *,
    max_shard_size: str = "5GB",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    foreign: bool = False,
    **changes: Any,
) -> Path:
    """A folder that transformers loads, with a tokenizer; `changes` are fields of its config."""
    fields, model_type = fields_of(variant) | changes, model_type_of(variant)
    model: Any = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**fields))
    _randomise(model, seed)
    for parameter in model.parameters():  # not the buffers: the hub's one of a router stays fp32
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    _spell(folder / "config.json", fields)
    _add(folder, (MTP if model_type == "nemotron_h" else ()) + (FOREIGN if foreign else ()), dtype)
    make_tokenizer(folder)
    return folder


def _randomise(model: nn.Module, seed: int) -> None:
    """Every parameter and every buffer that is saved; a tied one is drawn twice, which does no harm.

    Matrices are small enough that rounding does not grow from layer to layer: a model agrees with itself to 1e-5.
    """
    generator = torch.Generator().manual_seed(seed)
    means = RANDOM | {"norm_f.weight": 1.0}
    for name, tensor in model.state_dict().items():
        mean = next((mean for ending, mean in means.items() if name.endswith(ending)), 0.0)
        std = 0.5 if tensor.ndim < 2 or name.endswith(WIDE) else 0.7 * tensor.shape[-1] ** -0.5
        tensor.copy_(mean + std * torch.randn(tensor.shape, generator=generator))


def _spell(path: Path, fields: dict[str, Any]) -> None:
    """config.json says it with `fields`; transformers has saved its own newer names for the same."""
    saved = json.loads(path.read_text())
    if "hybrid_override_pattern" in fields:
        del saved["layers_block_type"]
    path.write_text(json.dumps(saved | fields, indent=2))


def _add(folder: Path, names: tuple[str, ...], dtype: torch.dtype) -> None:
    if names:
        shards = read_shards(folder)
        shards[-1] |= {n: torch.tensor([3, 4]) if n == FOREIGN[-1] else torch.ones(4, 4, dtype=dtype) for n in names}
        write_shards(folder, shards)


def read_shards(folder: Path) -> list[Shard]:
    """The tensors of each safetensors file, in the order of their names."""
    return [load_file(path) for path in sorted(folder.glob("*.safetensors"))]


def read_tensors(folder: Path) -> Shard:
    return {name: tensor for shard in read_shards(folder) for name, tensor in shard.items()}


def write_shards(folder: Path, shards: list[Shard]) -> None:
    """In place of the folder's weights: one file without an index, or several with it."""
    for path in [*folder.glob("*.safetensors"), *folder.glob(INDEX)]:
        path.unlink()
    count = len(shards)
    files = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    if count == 1:
        files = ["model.safetensors"]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
    if count > 1:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        size = sum(tensor.nbytes for shard in shards for tensor in shard.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2))


def recut(folder: Path, cuts: int) -> None:
    """The same tensors, dealt to `cuts` files in turn, so that every layer lies in several of them."""
    tensors = sorted(read_tensors(folder).items())
    write_shards(folder, [dict(tensors[i::cuts]) for i in range(cuts)])


def mix_dtypes(folder: Path) -> None:
    """Every other tensor is bf16, the rest fp32, A_log and a router's correction always; integers stay."""

    def mixed(i: int, name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.bfloat16 if i % 2 and not name.endswith(ALWAYS_FP32) else torch.float32)

    shards = [{n: mixed(i, n, t) for i, (n, t) in enumerate(sorted(s.items()))} for s in read_shards(folder)]
    write_shards(folder, shards)
