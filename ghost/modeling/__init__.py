"""The runtime of projected checkpoints: `import ghost.modeling`, and transformers' Auto classes load their folders.

    import ghost.modeling
    model = AutoModelForCausalLM.from_pretrained(folder)

transformers 5.23 has no entry point by which an installed package could register its models, so the import is a line
of one's own. Without this package, a folder loads with `trust_remote_code=True` from the file that it carries, which
is a copy of SOURCE. Where both are given the registered classes win, as transformers prefers them.
"""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from ghost.modeling import modeling_ghost_mamba2
from ghost.modeling.modeling_ghost_mamba2 import GhostMamba2Config, GhostMamba2ForCausalLM, GhostMamba2Model

__all__ = ["MODEL_TYPE", "SOURCE", "GhostMamba2Config", "GhostMamba2ForCausalLM", "auto_map"]

SOURCE = Path(modeling_ghost_mamba2.__file__)
"""The modeling file, to be copied byte for byte into a checkpoint's folder."""
MODEL_TYPE = GhostMamba2Config.model_type
_CLASSES = {
    "AutoConfig": GhostMamba2Config,
    "AutoModel": GhostMamba2Model,
    "AutoModelForCausalLM": GhostMamba2ForCausalLM,
}


def auto_map() -> dict[str, str]:
    """What config.json says under `auto_map`: by Auto class, the class of the folder's copy of SOURCE."""
    return {auto: f"{SOURCE.stem}.{found.__name__}" for auto, found in _CLASSES.items()}


def _register() -> None:
    AutoConfig.register(MODEL_TYPE, GhostMamba2Config, exist_ok=True)
    AutoModel.register(GhostMamba2Config, GhostMamba2Model, exist_ok=True)
    AutoModelForCausalLM.register(GhostMamba2Config, GhostMamba2ForCausalLM, exist_ok=True)
    for auto, found in _CLASSES.items():
        found.register_for_auto_class(auto)  # save_pretrained then writes SOURCE and auto_map too


_register()
