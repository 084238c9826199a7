"""The Mamba2 mixer: its layout, and the tensors that enter the recurrence after in_proj, conv1d and SiLU.

One layout serves every family: in_proj rows `[z | x | B | C | dt]`, conv1d channels `[x | B | C]`, B and C group-major.
What differs is in `MixerLayout`. Weights are a mapping with the names that transformers gives a mixer's own tensors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.errors import CheckpointError, SettingsError
from ghost.kernels import conv_silu, scan

Weights = Mapping[str, Tensor]
Gating = Literal["gate-then-norm", "norm-then-gate", "gate"]
BIASES = ("in_proj.bias", "conv1d.bias", "out_proj.bias")
RECURRENT = ("A_log", "dt_bias", "D")
"""The recurrence's own parameters, a few numbers per head: they keep the precision of the file in every computation.
Rounded to bf16, A would be off by up to 0.8%, and with it how long a state lasts."""
PROJECTIONS = ("B_proj", "C_proj")
"""What a projected mixer carries besides a stock one's tensors, (g, r, n) each."""


@dataclass(frozen=True, kw_only=True)
class MixerLayout:
    """Sizes and conventions of one Mamba2 mixer; every tensor's shape follows from it."""

    d_model: int
    """Width of the residual stream."""
    nheads: int
    """Heads of the recurrence (H)."""
    headdim: int
    """Channels of a head (P); d_inner is H * P."""
    n_groups: int
    """Groups that share B and C (G); head h belongs to group h // (H / G)."""
    d_state: int
    """State channels of a group, what ghost prunes (N, or r where projected)."""
    d_conv: int
    """Taps of the depthwise convolution."""
    norm_eps: float
    """Epsilon of the gated RMS norm."""
    gating: Gating = "gate-then-norm"
    """How z enters: before the norm, after it, or with no norm at all (falcon_h1 without mamba_rms_norm)."""
    dt_limit: tuple[float, float] = (0.0, float("inf"))
    """Clamp on dt after softplus, in prefill."""
    multipliers: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Factors on the rows z, x, B, C, dt of in_proj's output (falcon_h1's mup_vector)."""
    in_multiplier: float = 1.0
    """Factor on the mixer's input (falcon_h1's ssm_in_multiplier)."""
    projected_from: int | None = None
    """Channels of a group that conv1d gives (N), where B_proj and C_proj project them to d_state directions (r)."""
    biases: frozenset[str] = frozenset({"conv1d.bias"})
    """Those of BIASES that there are."""

    def __post_init__(self) -> None:
        for name in ("d_model", "nheads", "headdim", "n_groups", "d_state", "d_conv"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; a Mamba2 mixer needs at least 1")
        if self.nheads % self.n_groups:
            raise SettingsError(f"nheads {self.nheads} is not a multiple of n_groups {self.n_groups}")
        if self.projected_from is not None and self.projected_from < self.d_state:
            raise SettingsError(f"d_state {self.d_state} is more than the {self.projected_from} it is projected from")

    @property
    def d_inner(self) -> int:
        return self.nheads * self.headdim

    @property
    def bc_channels(self) -> int:
        """Channels of B, and of C, that a group's in_proj and conv1d give."""
        return self.projected_from or self.d_state

    def projected_to(self, d_state: int) -> "MixerLayout":
        """The layout of the mixer projected to `d_state` directions."""
        return replace(self, d_state=d_state, projected_from=self.bc_channels)

    @property
    def in_proj_sections(self) -> list[int]:
        """Rows of in_proj that make z, x, B, C and dt."""
        bc = self.n_groups * self.bc_channels
        return [self.d_inner, self.d_inner, bc, bc, self.nheads]

    @property
    def conv_sections(self) -> list[int]:
        """Channels of conv1d that make x, B and C."""
        return self.in_proj_sections[1:4]

    @property
    def state_elements(self) -> int:
        """Elements of the recurrent state of one sequence, H * P * N."""
        return self.d_inner * self.d_state

    @property
    def conv_state_elements(self) -> int:
        """Elements of the convolution's state of one sequence."""
        return sum(self.conv_sections) * self.d_conv

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the mixer, with its shape."""
        rows, channels = sum(self.in_proj_sections), sum(self.conv_sections)
        shapes: dict[str, tuple[int, ...]] = {
            "in_proj.weight": (rows, self.d_model),
            "in_proj.bias": (rows,),
            "conv1d.weight": (channels, 1, self.d_conv),
            "conv1d.bias": (channels,),
            "dt_bias": (self.nheads,),
            "A_log": (self.nheads,),
            "D": (self.nheads,),
            "out_proj.weight": (self.d_model, self.d_inner),
            "out_proj.bias": (self.d_model,),
        }
        if self.gating != "gate":
            shapes["norm.weight"] = (self.d_inner,)
        projection = (self.n_groups, self.d_state, self.bc_channels)
        shapes |= dict.fromkeys(PROJECTIONS, projection) if self.projected_from else {}
        return {name: shape for name, shape in shapes.items() if name not in BIASES or name in self.biases}

    def check(self, weights: Weights, where: str = "mixer") -> None:
        """Raise CheckpointError where a tensor is missing, unknown, or of another shape than the layout says."""
        shapes = self.shapes()
        for name in sorted(shapes.keys() | weights.keys()):
            if name not in weights:
                raise CheckpointError(f"{where}: tensor {name} is missing; the checkpoint is incomplete")
            elif name not in shapes:
                raise CheckpointError(f"{where}: unexpected tensor {name}; this is not a Mamba2 mixer that ghost knows")
            elif tuple(weights[name].shape) != shapes[name]:
                raise CheckpointError(
                    f"{where}: {name} has shape {tuple(weights[name].shape)}, but config.json asks for {shapes[name]}; "
                    "check that config and weights belong together"
                )


class MixerInputs(NamedTuple):
    """What enters the recurrence, after in_proj, conv1d and SiLU, plus the gate z (b, l, d_inner)."""

    z: Tensor
    x_blhp: Tensor
    dt_blh: Tensor
    A_h: Tensor
    B_blgn: Tensor
    C_blgn: Tensor
    D_h: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes in memory for as long as this is there; its tensors may be parts of larger ones."""
        storages = [tensor.untyped_storage() for tensor in self]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def after(self, steps: int) -> "MixerInputs":
        """Without the first steps."""
        return self._with_steps([tensor[:, steps:] for tensor in self._of_steps()]) if steps else self

    def _of_steps(self) -> tuple[Tensor, ...]:
        return self.z, self.x_blhp, self.dt_blh, self.B_blgn, self.C_blgn

    def _with_steps(self, tensors: Iterable[Tensor]) -> "MixerInputs":
        return self._replace(**dict(zip(("z", "x_blhp", "dt_blh", "B_blgn", "C_blgn"), tensors, strict=True)))


def joined(pieces: Sequence[MixerInputs]) -> MixerInputs:
    """Pieces that follow each other, as one."""
    if len(pieces) == 1:
        return pieces[0]
    return pieces[0]._with_steps(torch.cat(parts, 1) for parts in zip(*(p._of_steps() for p in pieces), strict=True))


def mixer_inputs(layout: MixerLayout, weights: Weights, hidden_blm: Tensor) -> MixerInputs:
    """z, x, dt, A, B, C of a mixer for its (normed) input (b, l, d_model)."""
    if layout.in_multiplier != 1.0:
        hidden_blm = hidden_blm * layout.in_multiplier
    projected = F.linear(hidden_blm, weights["in_proj.weight"], weights.get("in_proj.bias"))
    z, xBC, dt_blh = projected.split([layout.d_inner, sum(layout.conv_sections), layout.nheads], dim=-1)
    if layout.multipliers != (1.0,) * 5:
        z, dt_blh = z * layout.multipliers[0], dt_blh * layout.multipliers[4]
        xBC = xBC * _per_channel(layout.multipliers[1:4], layout.conv_sections, xBC)
    xBC = conv_silu(xBC, weights["conv1d.weight"], weights.get("conv1d.bias"))
    x, B, C = xBC.split(layout.conv_sections, dim=-1)
    groups = (layout.n_groups, layout.bc_channels)
    B_blgn, C_blgn = B.unflatten(-1, groups), C.unflatten(-1, groups)
    if layout.projected_from:
        B_blgn, C_blgn = (project(*pair) for pair in ((B_blgn, weights["B_proj"]), (C_blgn, weights["C_proj"])))
    return MixerInputs(
        z=z,
        x_blhp=x.unflatten(-1, (layout.nheads, layout.headdim)),
        dt_blh=F.softplus(dt_blh.float() + weights["dt_bias"].float()).clamp(*layout.dt_limit),
        A_h=-weights["A_log"].float().exp(),
        B_blgn=B_blgn,
        C_blgn=C_blgn,
        D_h=weights["D"].float(),
    )


def project(B_blgn: Tensor, projection_grn: Tensor) -> Tensor:
    """B or C after the convolution, group by group from n channels to r directions: (b, l, g, r)."""
    return torch.einsum("blgn,grn->blgr", B_blgn, projection_grn)


def _per_channel(factors: tuple[float, ...], sections: list[int], like: Tensor) -> Tensor:
    return torch.cat([like.new_full((width,), factor) for factor, width in zip(factors, sections, strict=True)])


def gated_norm(layout: MixerLayout, weights: Weights, y_bli: Tensor, z_bli: Tensor) -> Tensor:
    """RMS norm per group with the gate silu(z) before it, after it, or alone; computed in fp32."""
    y_bli, gate = y_bli.float(), F.silu(z_bli.float())
    if layout.gating == "gate":
        return y_bli * gate
    if layout.gating == "gate-then-norm":
        y_bli = y_bli * gate
    grouped = y_bli.unflatten(-1, (layout.n_groups, -1))
    normed = F.rms_norm(grouped, grouped.shape[-1:], eps=layout.norm_eps).flatten(-2) * weights["norm.weight"].float()
    return normed * gate if layout.gating == "norm-then-gate" else normed


def mixer_output(layout: MixerLayout, weights: Weights, y_blhp: Tensor, z_bli: Tensor) -> Tensor:
    """From the recurrence's y and the gate to the mixer's output (b, l, d_model), in out_proj's dtype."""
    normed = gated_norm(layout, weights, y_blhp.flatten(-2), z_bli)
    return F.linear(
        normed.to(weights["out_proj.weight"].dtype), weights["out_proj.weight"], weights.get("out_proj.bias")
    )


def mixer_forward(layout: MixerLayout, weights: Weights, hidden_blm: Tensor) -> Tensor:
    """The whole mixer on a fresh sequence, (b, l, d_model) to (b, l, d_model)."""
    z, *recurrence = mixer_inputs(layout, weights, hidden_blm)
    y_blhp, _ = scan(*recurrence)
    return mixer_output(layout, weights, y_blhp, z)
