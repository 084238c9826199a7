"""Mamba2's state space duality and the exact energies of its state channels, in plain torch.

Per head, with `u_t = dt_t x_t` and `a_t = exp(dt_t A)`, the state H_t (N x P) follows

    H_t = a_t H_{t-1} + B_t (x) u_t        y_t = C_t^T H_t + D x_t

`recurrence` is that definition, one step at a time. `ssd` and `energies` are the same numbers from matrix
products over chunks of Q steps, which `ghost.chunks` cuts (Dao & Gu 2024, section 6; GHOST, arXiv:2602.11408, for the
energies).

Shape suffixes, here and in all of ghost: b batch, l length, h heads, p headdim, g groups, r heads per group,
n d_state, c chunk, q step in a chunk, s source step in a chunk. Head h belongs to group h // r, so h reads as (g, r).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from ghost.chunks import CHUNK, Piece, Stored, entry_state, sequences

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
    stored: Stored | None = None,
) -> tuple[Tensor, Tensor]:
    """Output y (b, l, h, p) and the state after the last step (b, h, p, n), from any entry state, for any length.

    dt is positive (after softplus), A negative. bf16 inputs are computed, and returned, in fp32. `stored`: what becomes
    of the state after each chunk and the last step, with which the next chunk goes on; outputs inside a chunk come of
    the state as it is computed.
    """
    outputs, states_bhpn = [], []
    for pieces in sequences(x_blhp, dt_blh, A_h, B_blgn, C_blgn, chunk, state_bhpn, stored):
        done = [(_output(piece, D_h), piece.states_bgnrp[-1]) for piece in pieces]
        outputs.append(_joined([y_blhp for y_blhp, _ in done], dim=1))
        states_bhpn.append(done[-1][1].permute(0, 1, 3, 4, 2).flatten(1, 2))
    return _joined(outputs, dim=0), _joined(states_bhpn, dim=0)


def _output(p: Piece, D_h: Tensor | None) -> Tensor:
    """C_t^T H_t at every step of a piece, (b, l, h, p): what the entry states give, and what its steps write."""
    scores_bcgrqs = (p.C_bcgqn @ p.B_bcgqn.mT).unsqueeze(3) * p.L_bcgrqs
    entry_bcgqk = p.C_bcgqn @ p.entry_states().flatten(4)
    y_bcgqrp = entry_bcgqk.view(p.x_bcgqrp.shape) * p.alpha_bcgrq.transpose(3, 4).unsqueeze(-1)
    y_bcgqrp += (scores_bcgrqs @ p.u_bcgrqp).transpose(3, 4)
    if D_h is not None:
        y_bcgqrp.addcmul_(D_h.to(y_bcgqrp.dtype).view(y_bcgqrp.shape[2], 1, -1, 1), p.x_bcgqrp)
    return y_bcgqrp.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _joined(tensors: list[Tensor], dim: int) -> Tensor:
    return torch.cat(tensors, dim) if len(tensors) > 1 else tensors[0]


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
    """The exact energies of every state channel without the states: memory O(Q^2 + Q N + N P) per chunk and head.

    With E_t[n] = |H_t[n]|^2, `E_t = a_t^2 E_{t-1} + F_t`, `F_t[n] = B_t[n] (2 <a_t H_{t-1}[n], u_t> + B_t[n] |u_t|^2)`;
    for a chunk entered with H_0 that is

        E = (L * L) F + alpha^2 |H_0|^2      F = 2 B * ((W * U U^T) B + alpha * (U H_0^T))

    with W = L below the diagonal and 1/2 on it. Only the sum over the heads of a group is wanted, so (L * L) F is one
    product for all of them. The sums kept are C_t^2 E_t (energy) and E_t (controllability).
    """
    g, n = B_blgn.shape[2:]
    energy_gn = torch.zeros(g, n, dtype=STATISTICS, device=x_blhp.device)
    controllability_gn = torch.zeros_like(energy_gn)
    for piece in chain.from_iterable(sequences(x_blhp, dt_blh, A_h, B_blgn, C_blgn, chunk, state_bhpn)):
        E_bcgqn = _step_energies(piece)
        energy_gn += (E_bcgqn * piece.C_bcgqn.square()).sum((0, 1, 3), dtype=STATISTICS)
        controllability_gn += E_bcgqn.sum((0, 1, 3), dtype=STATISTICS)
    observability_gn = C_blgn.to(STATISTICS).square().sum((0, 1))
    return Energies(energy_gn, controllability_gn, observability_gn, x_blhp.shape[0] * x_blhp.shape[1])


def _step_energies(p: Piece) -> Tensor:
    """E_t (b, c, g, q, n) after every step of a piece, summed over the heads of the group; see `energies`."""
    gram_bcgrqs = (p.u_bcgrqp @ p.u_bcgrqp.mT).mul_(p.L_bcgrqs)
    gram_bcgrqs.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    F_bcgrqn = (gram_bcgrqs.flatten(3, 4) @ p.B_bcgqn).unflatten(3, p.u_bcgrqp.shape[3:5])
    met_bcgrqp, H_bcgrnp = p.u_bcgrqp * p.alpha_bcgrq.unsqueeze(-1), p.entry_states().transpose(3, 4)
    F_bcgrqn.flatten(0, 3).baddbmm_(met_bcgrqp.flatten(0, 3), H_bcgrnp.flatten(0, 3).mT)
    F_bcgrqn *= p.B_bcgqn.unsqueeze(3)
    L2_bcgqk = p.L_bcgrqs.square().transpose(3, 4).flatten(4)
    E_bcgqn = (L2_bcgqk @ F_bcgrqn.flatten(3, 4)).mul_(2)
    return E_bcgqn.add_(p.alpha_bcgrq.square().mT @ torch.linalg.vector_norm(H_bcgrnp, dim=-1).square())


def states(
    x_blhp: Tensor, dt_blh: Tensor, A_h: Tensor, B_blgn: Tensor, C_blgn: Tensor, *, every: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """C_t (b, c, g, n) and H_t (b, c, g, n, r, p) after every `every` steps and after the last; none in between are
    formed. For statistics that have no closed form over a chunk; a piece's states are in memory at a time.
    """
    for p in chain.from_iterable(sequences(x_blhp, dt_blh, A_h, B_blgn, C_blgn, every)):
        yield p.C_bcgqn[:, :, :, -1], torch.stack(p.states_bgnrp[1:], dim=1)


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
    H_bgnrp = entry_state(x_blhp, B_blgn, state_bhpn)
    dtype, heads = H_bgnrp.dtype, (H_bgnrp.shape[1], -1)
    energy_gn = torch.zeros(B_blgn.shape[2:], dtype=STATISTICS, device=x_blhp.device)
    controllability_gn = torch.zeros_like(energy_gn)
    outputs = []
    for t in range(x_blhp.shape[1]):
        x_bgrp, dt_bgr = x_blhp[:, t].to(dtype).unflatten(1, heads), dt_blh[:, t].to(dtype).unflatten(1, heads)
        B_bgn, C_bgn = B_blgn[:, t].to(dtype), C_blgn[:, t].to(dtype)
        a_bgr = (dt_bgr * A_h.to(dtype).unflatten(0, heads)).exp()
        written_bgnrp = B_bgn[..., None, None] * (dt_bgr.unsqueeze(-1) * x_bgrp).unsqueeze(2)
        H_bgnrp = a_bgr[:, :, None, :, None] * H_bgnrp + written_bgnrp
        E_bgn = H_bgnrp.square().sum((3, 4))
        energy_gn += (E_bgn * C_bgn.square()).to(STATISTICS).sum(0)
        controllability_gn += E_bgn.to(STATISTICS).sum(0)
        y_bgrp = (C_bgn[..., None, None] * H_bgnrp).sum(2)
        outputs.append(y_bgrp.flatten(1, 2))
    y_blhp = torch.stack(outputs, dim=1)
    if D_h is not None:
        y_blhp = y_blhp + D_h.to(dtype)[:, None] * x_blhp.to(dtype)
    observability_gn = C_blgn.to(STATISTICS).square().sum((0, 1))
    tokens = x_blhp.shape[0] * x_blhp.shape[1]
    return y_blhp, Energies(energy_gn, controllability_gn, observability_gn, tokens)
