"""Tiny random mixers of all six families, built with transformers: what ghost's own path is held against."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING
from transformers.models.bamba.modeling_bamba import BambaMixer
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer, compute_mup_vector
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridMambaLayer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer
from transformers.models.zamba2.modeling_zamba2 import Zamba2MambaMixer

from ghost.checkpoint.families import mixer_layout
from ghost.mixer import MixerLayout

D_MODEL, HEADS, HEADDIM, D_STATE = 16, 4, 8, 12
# Where a family ignores expand, rms_norm_eps or time_step_limit, a wrong value is there to be ignored.
_BAMBA = {"mamba_n_heads": HEADS, "mamba_d_head": HEADDIM, "mamba_d_state": D_STATE, "mamba_chunk_size": 8,
          "rms_norm_eps": 0.01}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": HEADS, "head_dim": HEADDIM, "state_size": D_STATE, "chunk_size": 8,
               "layer_norm_epsilon": 0.01},
    "zamba2": {"n_mamba_heads": HEADS, "mamba_d_state": D_STATE, "chunk_size": 8, "rms_norm_eps": 0.01},
    "bamba": _BAMBA,
    "falcon_h1": _BAMBA | {"mamba_d_ssm": HEADS * HEADDIM, "mamba_expand": 3, "ssm_in_multiplier": 1.7,
                           "ssm_multipliers": [0.7, 1.3, 0.5, 1.9, 0.3]},
    "granitemoehybrid": _BAMBA,
    "nemotron_h": {"mamba_num_heads": HEADS, "mamba_head_dim": HEADDIM, "ssm_state_size": D_STATE, "chunk_size": 8,
                   "expand": 3, "layer_norm_epsilon": 0.01, "time_step_limit": (0.3, 0.4)},
}  # fmt: skip
GROUPS = {"mamba2": "n_groups", "zamba2": "mamba_ngroups", "nemotron_h": "n_groups"}
BIASES = {
    "mamba2": ("use_bias", "use_conv_bias"),
    "zamba2": ("add_bias_linear",),
    "bamba": ("mamba_proj_bias", "mamba_conv_bias"),
    "falcon_h1": ("mamba_proj_bias", "mamba_conv_bias", "projectors_bias"),
    "granitemoehybrid": ("mamba_proj_bias", "mamba_conv_bias"),
    "nemotron_h": ("use_bias", "use_conv_bias"),
}
MIXERS: dict[str, type[nn.Module]] = {
    "mamba2": Mamba2Mixer,
    "zamba2": Zamba2MambaMixer,
    "bamba": BambaMixer,
    "falcon_h1": FalconH1Mixer,
    "granitemoehybrid": GraniteMoeHybridMambaLayer,
    "nemotron_h": NemotronHMamba2Mixer,
}


@dataclass(frozen=True)
class TinyMixer:
    """A transformers mixer with its config, and the same mixer as ghost sees it."""

    config: Any
    module: nn.Module
    layout: MixerLayout
    weights: dict[str, Tensor]

    def forward(self, hidden_blm: Tensor) -> Tensor:
        """What transformers computes."""
        with torch.no_grad():
            return self.module(hidden_blm)


def tiny_mixer(model_type: str, n_groups: int = 1, *, bias: bool = True, seed: int = 0, **fields: Any) -> TinyMixer:
    """A random mixer with d_inner 32; n_groups may be 1, 2 or 4, and `fields` override the config's."""
    config = tiny_config(model_type, n_groups, bias=bias, **fields)
    module = bare_mixer(config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random))
    return TinyMixer(config, module, mixer_layout(config), module.state_dict())


def tiny_config(model_type: str, n_groups: int = 1, *, bias: bool = True, **fields: Any) -> Any:
    groups = {GROUPS.get(model_type, "mamba_n_groups"): n_groups}
    biases = dict.fromkeys(BIASES[model_type], bias)
    config_class: Any = CONFIG_MAPPING[model_type]
    return config_class(hidden_size=D_MODEL, **SIZES[model_type] | groups | biases | fields)


def bare_mixer(config: Any) -> nn.Module:
    """The first mixer of a model, without the model; falcon_h1's model registers mup_vector, so it is done here."""
    module = MIXERS[config.model_type](config, layer_idx=0).eval()
    if config.model_type == "falcon_h1":
        module.register_buffer("mup_vector", compute_mup_vector(config), persistent=False)
    return module


def hidden_states(batch: int = 2, length: int = 21, seed: int = 1) -> Tensor:
    """A mixer's input (b, l, d_model); length is odd and no multiple of the tiny mixers' chunk of 8."""
    return torch.randn(batch, length, D_MODEL, generator=torch.Generator().manual_seed(seed))
