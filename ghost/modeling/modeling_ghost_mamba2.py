"""Mamba2 with a projected state: B and C pass through a small matrix each, and the recurrence keeps r of N directions.

This one file is the whole model. It lies in the folder of every projected checkpoint, for `trust_remote_code=True`,
and in the package ghost-ssm as `ghost.modeling`; both are the same bytes. Everything but the projection is
transformers' own Mamba2 (written against 5.23), with its kernels where they are installed.

Shape suffixes: b batch, l length, h heads, p headdim, g groups, n state size before the projection, r after it,
m hidden size, i inner width, c channels of the convolution (i + 2 * g * n).
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.integrations.accelerate import force_accelerate_hooks
from transformers.models.mamba2.configuration_mamba2 import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import (
    Mamba2Block,
    Mamba2ForCausalLM,
    Mamba2Mixer,
    Mamba2Model,
    Mamba2PreTrainedModel,
    Mamba2RMSNorm,
    apply_mask_to_padding_states,
    causal_conv1d_fn,
    causal_conv1d_update,
    mamba2_chunk_scan,
    mamba2_selective_state_update,
)


class GhostMamba2Config(Mamba2Config):
    """Mamba2Config whose `state_size` is r, the size of the state that is kept, and `projected_from` is N."""

    model_type = "ghost_mamba2"

    projected_from: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not 0 < self.state_size <= (most := self.projected_from):
            raise ValueError(f"state_size is {self.state_size}; give 1 to {most}, which is projected_from")


class GhostMamba2Mixer(Mamba2Mixer):
    """The stock mixer of state size N, and `B_proj`, `C_proj` (g, r, n): B_r = B_proj B_n, C_r = C_proj C_n.

    A_log, dt_bias and D are loaded in fp32 whatever the dtype of the model: rounded to bf16, A is off by up to 0.8%.

    Both apply after the convolution and SiLU, in the dtype of the model: a bf16 matrix product adds up in fp32 and
    rounds once, and the scan kernels pass states between chunks in the dtype of C, so that fp32 would cost them twice.
    """

    def __init__(self, config: GhostMamba2Config, layer_idx: int, initialize_mixer_weights: bool = True):
        unprojected = copy.copy(config)
        unprojected.state_size = config.projected_from
        super().__init__(unprojected, layer_idx, initialize_mixer_weights)
        shape_grn = (config.n_groups, config.state_size, config.projected_from)
        self.B_proj = nn.Parameter(torch.empty(shape_grn))
        self.C_proj = nn.Parameter(torch.empty(shape_grn))

    @force_accelerate_hooks("conv1d")
    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Cache | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Mamba2Mixer's, (b, l, m) to (b, l, m), without its fused path, which has no place for a projection."""
        masked_blm = apply_mask_to_padding_states(hidden_states, attention_mask)
        widths = [self.intermediate_size, self.conv_dim, self.num_heads]
        gate_bli, before_blc, dt_blh = self.in_proj(masked_blm).split(widths, dim=-1)
        after_blc = self._convolve(before_blc.mT, cache_params, **kwargs).mT
        after_blc = apply_mask_to_padding_states(after_blc, attention_mask)
        group_widths = [self.n_groups * self.ssm_state_size] * 2
        x_bli, B_blw, C_blw = after_blc.split([self.intermediate_size, *group_widths], dim=-1)
        B_blgr, C_blgr = self._project(B_blw, self.B_proj), self._project(C_blw, self.C_proj)
        x_blhp = x_bli.unflatten(-1, (self.num_heads, self.head_dim))
        y_blhp = self._recur(x_blhp, dt_blh, B_blgr, C_blgr, cache_params, **kwargs)
        return self.out_proj(self.norm(y_blhp.flatten(-2), gate_bli).to(hidden_states.dtype))

    def _convolve(self, x_bcl: Tensor, cache: Cache | None, **kwargs: Any) -> Tensor:
        length, taps, bias = x_bcl.shape[-1], self.conv1d.weight.squeeze(1), self.conv1d.bias
        if cache is not None:
            state_bck = cache.get_conv_state(self.layer_idx, state_idx=0)
            if state_bck is not None and length == 1 and not cache.is_recording_past(self.layer_idx):
                return causal_conv1d_update(x_bcl, state_bck, taps, bias, activation=self.activation)
            x_bcl = cache.update_conv_state(x_bcl, self.layer_idx, conv_kernel_size=self.conv_kernel_size)
        return causal_conv1d_fn(x_bcl, taps, bias, activation=self.activation, **kwargs)[..., -length:]

    def _project(self, stacked_blw: Tensor, proj_grn: Tensor) -> Tensor:
        stacked_blgn = stacked_blw.unflatten(-1, (self.n_groups, self.ssm_state_size))
        return torch.einsum("blgn,grn->blgr", stacked_blgn, proj_grn)

    def _recur(
        self, x_blhp: Tensor, dt_blh: Tensor, B_blgr: Tensor, C_blgr: Tensor, cache: Cache | None, **kwargs: Any
    ) -> Tensor:
        A_h, dt_blh = -torch.exp(self.A_log.float()), dt_blh.float()  # the scan adds dt_bias in the dtype of dt
        state_bhpr = None if cache is None else cache.get_recurrent_state(self.layer_idx, state_idx=0)
        if state_bhpr is not None and x_blhp.shape[1] == 1:
            inputs = (tensor.squeeze(1) for tensor in (x_blhp, dt_blh, B_blgr, C_blgr))
            return self._step(state_bhpr, A_h, *inputs, **kwargs).unsqueeze(1)
        scanned = mamba2_chunk_scan(
            x_blhp, dt_blh, A_h, B_blgr, C_blgr, chunk_size=self.chunk_size, D=self.D, z=None,
            return_final_states=cache is not None, dt_bias=self.dt_bias, dt_softplus=True,
            initial_states=state_bhpr, dt_limit=self.time_step_limit, **kwargs,
        )  # fmt: skip
        if cache is None:
            return scanned
        y_blhp, state_bhpr = scanned
        cache.update_recurrent_state(state_bhpr, layer_idx=self.layer_idx)
        return y_blhp

    def _step(
        self, state_bhpr: Tensor, A_h: Tensor, x_bhp: Tensor, dt_bh: Tensor, B_bgr: Tensor, C_bgr: Tensor, **kwargs: Any
    ) -> Tensor:
        """One token, the state changed in place. The kernel wants what is per head as views of stride 0."""
        dt_bhp, D_hp, bias_hp = (t.unsqueeze(-1).expand(*t.shape, self.head_dim) for t in (dt_bh, self.D, self.dt_bias))
        A_hpr = A_h[:, None, None].expand(state_bhpr.shape[1:])
        return mamba2_selective_state_update(
            state_bhpr, x_bhp, dt_bhp, A_hpr, B_bgr, C_bgr, D_hp, z=None, dt_bias=bias_hp, dt_softplus=True, **kwargs
        )


class GhostMamba2Block(Mamba2Block):
    """The stock block around a projected mixer."""

    def __init__(self, config: GhostMamba2Config, layer_idx: int):
        super().__init__(config, layer_idx)
        self.mixer = GhostMamba2Mixer(config, layer_idx, initialize_mixer_weights=False)


class GhostMamba2PreTrainedModel(Mamba2PreTrainedModel):
    """What the two models share: their config, and how weights that no file holds begin."""

    config: GhostMamba2Config
    _no_split_modules = ("GhostMamba2Block",)
    _keep_in_fp32_modules_strict = {"mixer.A_log", "mixer.dt_bias", "mixer.D"}  # noqa: RUF012 (transformers copies it)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GhostMamba2Mixer):
            for proj_grn in (module.B_proj, module.C_proj):
                init.copy_(proj_grn, torch.eye(*proj_grn.shape[1:]).expand_as(proj_grn))


class GhostMamba2Model(GhostMamba2PreTrainedModel, Mamba2Model):
    """Mamba2Model of projected mixers."""

    def __init__(self, config: GhostMamba2Config):
        Mamba2PreTrainedModel.__init__(self, config)  # Mamba2Model's would build the stock layers first
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([GhostMamba2Block(config, i) for i in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.norm_f = Mamba2RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.post_init()


class GhostMamba2ForCausalLM(GhostMamba2PreTrainedModel, Mamba2ForCausalLM):
    """Mamba2ForCausalLM of projected mixers: the head, generation and the loss are stock."""

    def __init__(self, config: GhostMamba2Config):
        Mamba2PreTrainedModel.__init__(self, config)
        self.backbone = GhostMamba2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
