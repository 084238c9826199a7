"""Model types that have no Mamba2 mixer, and what they have instead: for the line that refuses them."""

from collections.abc import Mapping

MAMBA1 = "Mamba1 mixers, whose state is d_inner x d_state without heads or groups"
DELTA = "gated delta nets, whose state is a matrix of keys by values per head, and attention"
KIMI = "delta nets with a gate per channel, whose state is a matrix of keys by values per head, and attention"
SHORT = "short convolutions and attention, and no recurrent state"
RWKV = "RWKV's time mixing, whose state has no B and C to slice"
FLA = "linear recurrences of flash-linear-attention, whose state has no B and C to slice"
TRANSFORMER = "attention and no recurrent state"

INSTEAD = {
    "mamba": MAMBA1,
    "falcon_mamba": MAMBA1,
    "jamba": f"{MAMBA1}, and attention",
    "zamba": f"{MAMBA1}, and a shared attention block",
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen4_exp_text", "olmo_hybrid"), DELTA),
    **dict.fromkeys(("kimi_linear", "bailing_hybrid", "glm5_next_text"), KIMI),
    "minimax": "lightning attention, whose state is a matrix of keys by values per head, and attention",
    "recurrent_gemma": "gated linear recurrences (RG-LRU), whose state is a vector, and local attention",
    "xlstm": "mLSTM cells, whose state is a matrix of keys by values per head",
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3", "zaya", "inkling_text", "inkling2_text"), SHORT),
    **dict.fromkeys(("rwkv", "rwkv5", "rwkv6", "rwkv7"), RWKV),
    **dict.fromkeys(
        ("abc", "comba", "delta_net", "deltaformer", "gated_deltanet", "gated_deltaproduct", "gla", "gsa", "hgrn",
         "hgrn2", "kda", "lightnet", "linear_attn", "log_linear_mamba2", "mesa_net", "mom", "retnet", "samba"), FLA,
    ),
}  # fmt: skip
"""By model_type. Those of fla and the later RWKVs are not transformers'; they come with code of their own."""
PARTS = ("text_config", "llm_config", "language_config")
"""Where the config of a model of pictures or sounds has that of its language model."""


def what_it_has(model_type: object, raw: Mapping[str, object]) -> str:
    """What a model of this type, which has no Mamba2 mixer, has instead, as the rest of a sentence that begins with
    it. `raw` is its config.json. No code of the model is imported."""
    if not isinstance(model_type, str):
        return "is no name of a model"
    if part := next((part for name in PARTS if (part := _type_in(raw.get(name)))), None):
        return f"wraps a language model of model_type {part!r}, and ghost takes language models by themselves"
    if model_type in INSTEAD:
        return f"has {INSTEAD[model_type]}"
    from transformers import CONFIG_MAPPING, __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"has {TRANSFORMER}"
    if model_type in CONFIG_MAPPING:
        return "is no language model that generates text"
    return f"is none that ghost, or transformers {__version__}, knows"


def _type_in(part: object) -> str | None:
    found = part.get("model_type") if isinstance(part, Mapping) else None
    return found if isinstance(found, str) else None
