"""The native state-spaces format (mamba_ssm's MambaLMHeadModel): its config in transformers' words, and back.

mamba_ssm 2.3 hands ssm_cfg to its Mamba2 module as arguments. Each of them is read, has to be at the value that
transformers' Mamba2 is written for, or is harmless; any other may change the mathematics, and is refused.
"""

import math
from typing import Any

from ghost.checkpoint.fields import count, flag, interval
from ghost.errors import CheckpointError

SIZES = {"d_state": ("state_size", 128), "d_conv": ("conv_kernel", 4), "expand": ("expand", 2),
         "headdim": ("head_dim", 64), "ngroups": ("n_groups", 1), "chunk_size": ("chunk_size", 256)}  # fmt: skip
BIASES = {"bias": ("use_bias", False), "conv_bias": ("use_conv_bias", True)}
"""Arguments of mamba_ssm's Mamba2, in ssm_cfg: transformers' field, and the value of an argument that is not there."""
STREAM = {"residual_in_fp32": ("residual_in_fp32", True), "tie_embeddings": ("tie_word_embeddings", True)}
"""Flags of the model, likewise."""
NORM_EPS = 1e-5
"""That of all norms: the native config has no field for it."""
UNLIMITED = (0.0, math.inf)
MODEL = {"d_model", "n_layer", "vocab_size", "ssm_cfg", "residual_in_fp32", "pad_vocab_size_multiple", "tie_embeddings",
         "attn_layer_idx", "d_intermediate", "rms_norm"}  # fmt: skip
MODEL_HARMLESS = {"attn_cfg", "fused_add_norm", "architectures", "auto_map", "dtype", "torch_dtype",
                  "transformers_version", "_name_or_path"}  # fmt: skip
"""Of attention, of which there is none; how it is computed, not what; and what others note about a model."""
MIXER = {"layer", "d_state", "d_conv", "expand", "headdim", "ngroups", "d_ssm", "dt_limit", "bias", "conv_bias",
         "chunk_size"}  # fmt: skip
MIXER_FIXED = {"norm_before_gate": False, "rmsnorm": True, "D_has_hdim": False, "activation": "silu"}
MIXER_HARMLESS = {"conv_init", "A_init_range", "dt_min", "dt_max", "dt_init_floor", "use_mem_eff_path",
                  "sequence_parallel"}  # fmt: skip
"""How weights begin, and how the module computes."""


def is_native(config: dict[str, Any]) -> bool:
    return "model_type" not in config and "d_model" in config and "n_layer" in config


def to_transformers(config: dict[str, Any]) -> Any:
    """A `Mamba2Config`. CheckpointError where the model is not a plain stack of Mamba2 mixers, or a value is none that
    its field can have."""
    ssm = config.get("ssm_cfg") or {}
    if not isinstance(ssm, dict):
        raise CheckpointError(
            f"config.json: ssm_cfg is a {type(ssm).__name__}, and has to be an object; mend config.json"
        )
    _refuse_others(config, ssm)
    d_model, multiple = count("d_model", config["d_model"]), config.get("pad_vocab_size_multiple", 8)
    vocabulary, padded = count("vocab_size", config["vocab_size"]), count("pad_vocab_size_multiple", multiple)
    from transformers import Mamba2Config

    fields: dict[str, Any] = {
        "architectures": ["Mamba2ForCausalLM"],
        "hidden_size": d_model,
        "num_hidden_layers": count("n_layer", config["n_layer"]),
        "vocab_size": -(-vocabulary // padded) * padded,
        "layer_norm_epsilon": NORM_EPS,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    fields |= {theirs: flag(ours, config.get(ours, usual)) for ours, (theirs, usual) in STREAM.items()}
    return Mamba2Config(**fields | _mixer(ssm, d_model))


def to_native(config: Any) -> dict[str, Any]:
    """The native config.json of a `Mamba2Config`, with every field of mamba_ssm's own and no other, since it takes no
    other. CheckpointError for a norm that it can't say."""
    if (eps := config.layer_norm_epsilon) != NORM_EPS:
        raise CheckpointError(
            f"layer_norm_epsilon is {eps}, but the native format knows {NORM_EPS} only; keep transformers' format"
        )
    ssm = {ours: getattr(config, theirs) for ours, (theirs, _) in (SIZES | BIASES).items()}
    if (limit := tuple(config.time_step_limit or UNLIMITED)) != UNLIMITED:
        ssm["dt_limit"] = list(limit)
    return {
        "d_model": config.hidden_size,
        "d_intermediate": 0,
        "n_layer": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {"layer": "Mamba2"} | ssm,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        **{ours: getattr(config, theirs) for ours, (theirs, _) in STREAM.items()},
    }


def _mixer(ssm: dict[str, Any], d_model: int) -> dict[str, Any]:
    found = {ours: count(f"ssm_cfg.{ours}", ssm.get(ours, usual)) for ours, (_, usual) in SIZES.items()}
    if ssm.get("d_ssm") not in (None, found["expand"] * d_model):
        raise CheckpointError(
            f"ssm_cfg.d_ssm is {ssm['d_ssm']}, less than d_inner; give a model whose whole d_inner is recurrent"
        )
    sizes = {SIZES[ours][0]: size for ours, size in found.items()}
    biases = {theirs: flag(f"ssm_cfg.{ours}", ssm.get(ours, usual)) for ours, (theirs, usual) in BIASES.items()}
    return (
        sizes
        | biases
        | {
            "num_heads": found["expand"] * d_model // found["headdim"],
            "time_step_limit": list(interval("ssm_cfg.dt_limit", ssm.get("dt_limit", UNLIMITED))),
        }
    )


def _refuse_others(config: dict[str, Any], ssm: dict[str, Any]) -> None:
    if (layer := ssm.get("layer", "Mamba1")) != "Mamba2":
        raise CheckpointError(f"ssm_cfg.layer is {layer!r}, whose state has no heads to share; give a Mamba2 model")
    for field in ("attn_layer_idx", "d_intermediate"):
        if config.get(field):
            raise CheckpointError(f"{field} is {config[field]}, so not all layers are Mamba2; give a pure Mamba2 model")
    if not config.get("rms_norm", True):
        raise CheckpointError(
            "rms_norm is false, but transformers' Mamba2 has no other norm; give a model with RMS norm"
        )
    _refuse_unknown(config, MODEL | MODEL_HARMLESS, "")
    _refuse_unknown(ssm, MIXER | MIXER_FIXED.keys() | MIXER_HARMLESS, "ssm_cfg.")
    for name, value in MIXER_FIXED.items():
        if ssm.get(name, value) != value:
            raise CheckpointError(
                f"ssm_cfg.{name} is {ssm[name]!r}, but ghost and transformers know Mamba2 with {value!r} only; give a "
                "model of that kind"
            )


def _refuse_unknown(config: dict[str, Any], known: set[str], prefix: str) -> None:
    for name in sorted(config.keys() - known):
        raise CheckpointError(
            f"config.json: {prefix}{name} is a field that mamba_ssm's Mamba2 does not have, and may change what the "
            "model computes; remove it if it does not"
        )
