"""vLLM's Mamba2 with a projected state: its mixer, model and weight loading, and two small matrices a layer."""

import copy

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2
from vllm.model_executor.models.mamba2 import Mamba2ForCausalLM
from vllm.model_executor.utils import set_weight_attrs

from ghost_mamba2_vllm.projection import project, share


class GhostMamba2Mixer(MambaMixer2):
    """The stock mixer of state size N up to the convolution, and of r from there on. vLLM takes x, B and C out of the
    convolution's output by `split_hidden_states_B_C_fn`, in prefill and in decoding: the projection is there."""

    def project_to(self, kept: int) -> None:
        """Make the projected mixer of a stock one. ValueError with ReplaySSM, whose ring has a shape of its own."""
        if self.use_replayssm:
            raise ValueError("use_replayssm is on, and a projected Mamba2 can't be run with it; leave it out")
        groups = self.n_groups // self.tp_size
        self.B_proj, self.C_proj = (_projection(groups, kept, self.ssm_state_size) for _ in range(2))
        self.projected_from, self.ssm_state_size = self.ssm_state_size, kept
        split = self.split_hidden_states_B_C_fn

        def split_and_project(x_B_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x, B, C = split(x_B_C)
            return x, project(B, self.B_proj), project(C, self.C_proj)

        self.split_hidden_states_B_C_fn = split_and_project

    def get_state_shape(self) -> tuple[tuple[int, ...], ...]:
        """The convolution's has the channels of N, the recurrent one of r."""
        kept, self.ssm_state_size = self.ssm_state_size, self.projected_from
        conv, recurrent = super().get_state_shape()
        self.ssm_state_size = kept
        return conv, (*recurrent[:-1], kept)


class GhostMamba2ForCausalLM(Mamba2ForCausalLM):
    """Mamba2ForCausalLM of projected mixers. `state_size` of its config is r, `projected_from` is N."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=_unprojected(vllm_config), prefix=prefix)
        self.vllm_config, self.model_config = vllm_config, vllm_config.model_config
        self.config = self.model_config.hf_config
        for module in self.modules():
            if isinstance(module, MambaMixer2):
                # vLLM's layers make their mixer themselves, and a second one by the same name is an error
                module.__class__ = GhostMamba2Mixer
                module.project_to(self.config.state_size)

    @classmethod
    def get_mamba_state_shape_from_config(cls, vllm_config: VllmConfig) -> tuple[tuple[int, int], tuple[int, int, int]]:
        """As the mixers have it."""
        conv, recurrent = super().get_mamba_state_shape_from_config(_unprojected(vllm_config))
        return conv, (*recurrent[:-1], vllm_config.model_config.hf_config.state_size)


def _projection(*shape_grn: int) -> nn.Parameter:
    matrices = nn.Parameter(torch.empty(shape_grn), requires_grad=False)
    set_weight_attrs(matrices, {"weight_loader": _load_share})
    return matrices


def _load_share(parameter: nn.Parameter, whole_grn: Tensor) -> None:
    parameter.data.copy_(share(whole_grn, parameter.shape[0], get_tensor_model_parallel_rank()))


def _unprojected(vllm_config: VllmConfig) -> VllmConfig:
    """The same, sharing all else, of a model whose state size is N."""
    changed, model = copy.copy(vllm_config), copy.copy(vllm_config.model_config)
    model.hf_config = copy.copy(model.hf_config)
    model.hf_config.state_size = model.hf_config.projected_from
    changed.model_config = model
    return changed
