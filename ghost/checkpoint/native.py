"""The native state-spaces format (mamba_ssm's MambaLMHeadModel): its config in transformers' words."""

from typing import Any

from ghost.errors import CheckpointError


def is_native(config: dict[str, Any]) -> bool:
    return "model_type" not in config and "d_model" in config and "n_layer" in config


def to_transformers(config: dict[str, Any]) -> Any:
    """A `Mamba2Config`. CheckpointError where the model is not a plain stack of Mamba2 mixers."""
    ssm: dict[str, Any] = config.get("ssm_cfg") or {}
    _refuse_others(config, ssm)
    d_model, expand, headdim = config["d_model"], ssm.get("expand", 2), ssm.get("headdim", 64)
    multiple = config.get("pad_vocab_size_multiple", 8)
    from transformers import Mamba2Config

    fields = {
        "architectures": ["Mamba2ForCausalLM"],
        "hidden_size": d_model,
        "num_hidden_layers": config["n_layer"],
        "vocab_size": -(-config["vocab_size"] // multiple) * multiple,
        "state_size": ssm.get("d_state", 128),
        "head_dim": headdim,
        "num_heads": expand * d_model // headdim,
        "n_groups": ssm.get("ngroups", 1),
        "expand": expand,
        "conv_kernel": ssm.get("d_conv", 4),
        "use_bias": ssm.get("bias", False),
        "use_conv_bias": ssm.get("conv_bias", True),
        "chunk_size": ssm.get("chunk_size", 256),
        "time_step_limit": list(ssm.get("dt_limit", (0.0, float("inf")))),
        "layer_norm_epsilon": 1e-5,
        "residual_in_fp32": config.get("residual_in_fp32", True),
        "tie_word_embeddings": config.get("tie_embeddings", True),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return Mamba2Config(**fields)


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
    if ssm.get("d_ssm") not in (None, ssm.get("expand", 2) * config["d_model"]):
        raise CheckpointError(
            f"ssm_cfg.d_ssm is {ssm['d_ssm']}, less than d_inner; give a model whose whole d_inner is recurrent"
        )
