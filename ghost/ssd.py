"""Mamba2's state space duality and the exact energies of its state channels, in plain torch.

Per head, with `u_t = dt_t x_t` and `a_t = exp(dt_t A)`, the state H_t (N x P) follows

    H_t = a_t H_{t-1} + B_t (x) u_t        y_t = C_t^T H_t + D x_t

`recurrence` is that definition, one step at a time. `ssd` and `energies` are the same numbers from matrix
products over chunks of Q steps (Dao & Gu 2024, section 6; GHOST, arXiv:2602.11408, for the energies).

Shape suffixes, here and in all of ghost: b batch, l length, h heads, p headdim, g groups, r heads per group,
n d_state, q step in a chunk, s source step in a chunk. Head h belongs to group h // r, so h reads as (g, r).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64
STATISTICS = torch.float64


@dataclass(frozen=True)
class Energies:
    """Sums over every (sample, step), in float64; divide by `tokens` for the means.

    `energy_gn` is sum C_t[n]^2 |H_t[n]|^2, the squared saliency; `controllability_gn` is sum |H_t[n]|^2;
    `observability_gn` is sum C_t[n]^2. |H|^2 sums over the heads of the group and over headdim.
    """

    energy_gn: Tensor
    controllability_gn: Tensor
    observability_gn: Tensor
    tokens: int

    def __add__(self, other: "Energies") -> "Energies":
        return Energies(
            self.energy_gn + other.energy_gn,
            self.controllability_gn + other.controllability_gn,
            self.observability_gn + other.observability_gn,
            self.tokens + other.tokens,
        )


class Chunk(NamedTuple):
    """Q steps of every sequence: scaled inputs, both projections, and the decays inside the chunk."""

    u_bgrqp: Tensor
    B_bgqn: Tensor
    C_bgqn: Tensor
    L_bgrqs: Tensor  # L[t,s] = prod_{s<r<=t} a_r, zero above the diagonal
    alpha_bgrq: Tensor  # prod_{r<=t} a_r, what is left of the entry state

    def next_state(self, H_bgrnp: Tensor) -> Tensor:
        u_decayed_bgrqp = self.u_bgrqp * self.L_bgrqs[..., -1, :, None]
        written_bgrnp = self.B_bgqn.unsqueeze(2).mT @ u_decayed_bgrqp
        return self.alpha_bgrq[..., -1:, None] * H_bgrnp + written_bgrnp


def _decays(log_a_bgrq: Tensor) -> tuple[Tensor, Tensor]:
    """L and alpha of `Chunk`. Segment sums are differences in float64: in fp32 a strong decay early in the chunk
    would cost the later entries their last digits."""
    cumulative = log_a_bgrq.to(torch.float64).cumsum(-1)
    segments = (cumulative.unsqueeze(-1) - cumulative.unsqueeze(-2)).to(log_a_bgrq.dtype)
    above = torch.ones(segments.shape[-2:], dtype=torch.bool, device=segments.device).triu(1)
    return segments.masked_fill(above, -torch.inf).exp(), cumulative.to(log_a_bgrq.dtype).exp()


def chunks(x_blhp: Tensor, dt_blh: Tensor, A_h: Tensor, B_blgn: Tensor, C_blgn: Tensor, Q: int) -> Iterator[Chunk]:
    """Cut along the length; the last chunk is simply shorter. Computes in fp32 (fp64 for fp64 inputs)."""
    dtype = torch.promote_types(x_blhp.dtype, torch.float32)
    length, h, g = x_blhp.shape[1], x_blhp.shape[2], B_blgn.shape[2]
    for start in range(0, length, Q):
        x_bqhp, dt_bqh, B_bqgn, C_bqgn = (t[:, start : start + Q].to(dtype) for t in (x_blhp, dt_blh, B_blgn, C_blgn))
        u_bgrqp = (x_bqhp * dt_bqh.unsqueeze(-1)).unflatten(2, (g, h // g)).permute(0, 2, 3, 1, 4)
        log_a_bgrq = (dt_bqh * A_h.to(dtype)).unflatten(2, (g, h // g)).permute(0, 2, 3, 1)
        yield Chunk(u_bgrqp, B_bqgn.transpose(1, 2), C_bqgn.transpose(1, 2), *_decays(log_a_bgrq))


def entry_state(x_blhp: Tensor, B_blgn: Tensor, state_bhpn: Tensor | None = None) -> Tensor:
    """H_0 (b, g, r, n, p) in the dtype of the computation: zero, or a state as `ssd` returns it."""
    b, _, h, p = x_blhp.shape
    g, n = B_blgn.shape[2:]
    dtype = torch.promote_types(x_blhp.dtype, torch.float32)
    if state_bhpn is not None:
        return state_bhpn.to(dtype).mT.unflatten(1, (g, h // g))
    return torch.zeros(b, g, h // g, n, p, dtype=dtype, device=x_blhp.device)


def ssd(
    x_blhp: Tensor,
    dt_blh: Tensor,
    A_h: Tensor,
    B_blgn: Tensor,
    C_blgn: Tensor,
    D_h: Tensor | None = None,
    *,
    chunk: int = CHUNK,
    state_bhpn: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output y (b, l, h, p) and the state after the last step (b, h, p, n), from any entry state, for any length.

    dt is positive (after softplus), A negative. bf16 inputs are computed, and returned, in fp32.
    """
    H_bgrnp = entry_state(x_blhp, B_blgn, state_bhpn)
    outputs = []
    for c in chunks(x_blhp, dt_blh, A_h, B_blgn, C_blgn, chunk):
        scores_bgrqs = (c.C_bgqn @ c.B_bgqn.mT).unsqueeze(2) * c.L_bgrqs
        y_bgrqp = scores_bgrqs @ c.u_bgrqp + c.alpha_bgrq.unsqueeze(-1) * (c.C_bgqn.unsqueeze(2) @ H_bgrnp)
        H_bgrnp = c.next_state(H_bgrnp)
        outputs.append(y_bgrqp.permute(0, 3, 1, 2, 4).flatten(2, 3))
    y_blhp = torch.cat(outputs, dim=1)
    if D_h is not None:
        y_blhp = y_blhp + D_h.to(y_blhp.dtype)[:, None] * x_blhp.to(y_blhp.dtype)
    return y_blhp, H_bgrnp.flatten(1, 2).mT


def energies(
    x_blhp: Tensor,
    dt_blh: Tensor,
    A_h: Tensor,
    B_blgn: Tensor,
    C_blgn: Tensor,
    *,
    chunk: int = CHUNK,
    state_bhpn: Tensor | None = None,
) -> Energies:
    """The exact energies of every state channel without the states: memory O(Q^2 + Q N) per head.

    With E_t[n] = |H_t[n]|^2, `E_t = a_t^2 E_{t-1} + F_t`, `F_t[n] = B_t[n] (2 <a_t H_{t-1}[n], u_t> + B_t[n] |u_t|^2)`;
    for a chunk entered with H_0 that is

        F = B * R,   R = (W * U U^T) B + 2 alpha * (U H_0^T),   W = 2 L below the diagonal and 1 on it
        sum_t v_t E_t = sum_s F_s * (sum_t L[t,s]^2 v_t) + |H_0|^2 sum_t alpha_t^2 v_t      for any weights v

    and the two sums kept are v = C^2 (energy) and v = 1 (controllability).
    """
    H_bgrnp = entry_state(x_blhp, B_blgn, state_bhpn)
    g, n = B_blgn.shape[2:]
    energy_gn = torch.zeros(g, n, dtype=STATISTICS, device=x_blhp.device)
    controllability_gn = torch.zeros_like(energy_gn)
    for c in chunks(x_blhp, dt_blh, A_h, B_blgn, C_blgn, chunk):
        energy_bgn, controllability_bgn = _chunk_energies(c, H_bgrnp)
        energy_gn += energy_bgn.to(STATISTICS).sum(0)
        controllability_gn += controllability_bgn.to(STATISTICS).sum(0)
        H_bgrnp = c.next_state(H_bgrnp)
    observability_gn = C_blgn.to(STATISTICS).square().sum((0, 1))
    return Energies(energy_gn, controllability_gn, observability_gn, x_blhp.shape[0] * x_blhp.shape[1])


def _chunk_energies(c: Chunk, H_bgrnp: Tensor) -> tuple[Tensor, Tensor]:
    """sum_t C_t^2 E_t and sum_t E_t of one chunk that is entered with H; see `energies` for the equations."""
    heads, steps = c.u_bgrqp.shape[2:4]
    gram_bgrqs = (c.u_bgrqp @ c.u_bgrqp.mT) * (2 * c.L_bgrqs)
    gram_bgrqs.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    R_bgrqn = (gram_bgrqs.flatten(2, 3) @ c.B_bgqn).unflatten(2, (heads, steps))
    R_bgrqn += (c.u_bgrqp * (2 * c.alpha_bgrq).unsqueeze(-1)) @ H_bgrnp.mT

    later_bgrsq, entry_bgrq, entry_bgrn = c.L_bgrqs.square().mT, c.alpha_bgrq.square(), H_bgrnp.square().sum(-1)
    C2_bgqn = c.C_bgqn.square()
    G_bgrsn = (later_bgrsq.flatten(2, 3) @ C2_bgqn).unflatten(2, (heads, steps))
    energy_bgn = ((R_bgrqn * G_bgrsn).sum(2) * c.B_bgqn).sum(2) + ((entry_bgrq @ C2_bgqn) * entry_bgrn).sum(2)

    weighted_bgqn = (R_bgrqn * later_bgrsq.sum(-1).unsqueeze(-1)).sum(2)
    controllability_bgn = (weighted_bgqn * c.B_bgqn).sum(2) + (entry_bgrq.sum(-1, keepdim=True) * entry_bgrn).sum(2)
    return energy_bgn, controllability_bgn


def states(
    x_blhp: Tensor, dt_blh: Tensor, A_h: Tensor, B_blgn: Tensor, C_blgn: Tensor, *, every: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """C_t (b, g, n) and H_t (b, g, r, n, p) after every `every` steps and after the last; none in between are formed.

    For statistics that have no closed form over a chunk; one state of the batch is in memory at a time.
    """
    H_bgrnp = entry_state(x_blhp, B_blgn)
    for c in chunks(x_blhp, dt_blh, A_h, B_blgn, C_blgn, every):
        H_bgrnp = c.next_state(H_bgrnp)
        yield c.C_bgqn[:, :, -1], H_bgrnp


def recurrence(
    x_blhp: Tensor,
    dt_blh: Tensor,
    A_h: Tensor,
    B_blgn: Tensor,
    C_blgn: Tensor,
    D_h: Tensor | None = None,
    *,
    state_bhpn: Tensor | None = None,
) -> tuple[Tensor, Energies]:
    """The definition, step by step: y (b, l, h, p) and the energies. What `ssd` and `energies` are held against."""
    H_bgrnp = entry_state(x_blhp, B_blgn, state_bhpn)
    dtype, (g, r) = H_bgrnp.dtype, H_bgrnp.shape[1:3]
    energy_gn = torch.zeros(B_blgn.shape[2:], dtype=STATISTICS, device=x_blhp.device)
    controllability_gn = torch.zeros_like(energy_gn)
    outputs = []
    for t in range(x_blhp.shape[1]):
        x_bgrp, dt_bgr = x_blhp[:, t].to(dtype).unflatten(1, (g, r)), dt_blh[:, t].to(dtype).unflatten(1, (g, r))
        B_bgn, C_bgn = B_blgn[:, t].to(dtype), C_blgn[:, t].to(dtype)
        a_bgr = (dt_bgr * A_h.to(dtype).unflatten(0, (g, r))).exp()
        written_bgrnp = B_bgn[:, :, None, :, None] * (dt_bgr.unsqueeze(-1) * x_bgrp).unsqueeze(-2)
        H_bgrnp = a_bgr[..., None, None] * H_bgrnp + written_bgrnp
        E_bgn = H_bgrnp.square().sum((2, 4))
        energy_gn += (E_bgn * C_bgn.square()).to(STATISTICS).sum(0)
        controllability_gn += E_bgn.to(STATISTICS).sum(0)
        y_bgrp = (C_bgn[:, :, None, :, None] * H_bgrnp).sum(-2)
        outputs.append(y_bgrp.flatten(1, 2))
    y_blhp = torch.stack(outputs, dim=1)
    if D_h is not None:
        y_blhp = y_blhp + D_h.to(dtype)[:, None] * x_blhp.to(dtype)
    observability_gn = C_blgn.to(STATISTICS).square().sum((0, 1))
    tokens = x_blhp.shape[0] * x_blhp.shape[1]
    return y_blhp, Energies(energy_gn, controllability_gn, observability_gn, tokens)
