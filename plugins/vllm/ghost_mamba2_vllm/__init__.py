"""ghost's projected Mamba2 for vLLM, which calls `register` in each of its processes (vllm.general_plugins)."""

ARCHITECTURE, MODEL_TYPE = "GhostMamba2ForCausalLM", "ghost_mamba2"


def register() -> None:
    """Make architecture and config known. Called again, it changes nothing. The model is imported when it is used."""
    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from ghost_mamba2_vllm.config import GhostMamba2Config

    AutoConfig.register(MODEL_TYPE, GhostMamba2Config, exist_ok=True)
    ModelRegistry.register_model(ARCHITECTURE, f"ghost_mamba2_vllm.model:{ARCHITECTURE}")
    # cache modes and graph modes by architecture, for which vLLM has no public way
    MODELS_CONFIG_MAP.setdefault(ARCHITECTURE, MODELS_CONFIG_MAP["Mamba2ForCausalLM"])
