"""Sequences in chunks of Q steps: all that `ssd`, the energies and the Gramians compute from.

A chunk knows of the chunks before it by the state that it is entered with, and by nothing else. So the chunks stand on
an axis of their own, a short scan finds their entry states, and whatever is wanted is then a few large products, as in
mamba_ssm's ssd_minimal.py. Recurrence and shape suffixes are those of `ghost.ssd`; c is the chunk.
"""

from collections.abc import Callable, Iterator
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64
PIECE_BYTES, CACHE_BYTES = 256 << 20, 4 << 20
"""How much is computed at once, on a GPU and on a CPU: bytes of L, of u, of one (q, n) and of one (n, p) for each chunk
and head; the peak is a few times that. A GPU wants few large kernels, a CPU what its cache holds."""


Stored = Callable[[Tensor], Tensor]
"""From a state (b, g, n, r, p) to what is left of it where it is stored between chunks."""

STORED_CHUNKS = 16
"""At once, of a state that is stored between chunks: that takes several operations for each, so that it is done for
several sequences together, as far as that admits as many of each."""


class Steps(NamedTuple):
    """What the steps of some sequences bring to the recurrence; A is of all steps."""

    x_blhp: Tensor
    dt_blh: Tensor
    B_blgn: Tensor
    C_blgn: Tensor

    def split(self, sizes: int | list[int], dim: int) -> Iterator["Steps"]:
        """Parts of so many sequences (dim 0), or steps (dim 1)."""
        return map(Steps._make, zip(*(t.split(sizes, dim) for t in self), strict=True))


class Piece(NamedTuple):
    """Some chunks of some sequences: inputs, both projections, the decays inside the chunks, and the states before the
    first chunk and after each."""

    x_bcgqrp: Tensor
    u_bcgrqp: Tensor
    B_bcgqn: Tensor
    C_bcgqn: Tensor
    L_bcgrqs: Tensor  # L[t,s] = prod_{s<r<=t} a_r, zero above the diagonal
    alpha_bcgrq: Tensor  # prod_{r<=t} a_r, what is left of the entry state
    states_bgnrp: list[Tensor]

    def entry_states(self) -> Tensor:
        """H_0 of every chunk, (b, c, g, n, r, p)."""
        *entered_bgnrp, _ = self.states_bgnrp
        # A CPU's cache often holds one chunk: nothing to copy then.
        return entered_bgnrp[0].unsqueeze(1) if len(entered_bgnrp) == 1 else torch.stack(entered_bgnrp, dim=1)


def sequences(
    x_blhp: Tensor,
    dt_blh: Tensor,
    A_h: Tensor,
    B_blgn: Tensor,
    C_blgn: Tensor,
    Q: int = CHUNK,
    state_bhpn: Tensor | None = None,
    stored: Stored | None = None,
) -> Iterator[Iterator[Piece]]:
    """Some sequences at a time, each time their pieces from the first step to the last, in fp32 (fp64 for fp64 inputs).

    As many sequences, and of long ones as many chunks, as PIECE_BYTES or CACHE_BYTES admit; at least one chunk of one
    sequence. Where the length is no multiple of Q, the last chunk is shorter, and a piece of its own. `stored`: what
    becomes of the state after each chunk.
    """
    H_bgnrp = entry_state(x_blhp, B_blgn, state_bhpn)
    (_, length, h, p), n = x_blhp.shape, B_blgn.shape[3]
    admitted = CACHE_BYTES if x_blhp.device.type == "cpu" else PIECE_BYTES
    chunks = max(1, admitted // (H_bgnrp.itemsize * h * (Q + n) * (Q + p)))
    in_a_row = -(-length // Q) if stored is None else min(STORED_CHUNKS, -(-length // Q))
    rows = max(1, min(len(x_blhp), chunks // in_a_row))
    every = Steps(x_blhp, dt_blh, B_blgn, C_blgn).split(rows, dim=0)
    for steps, entered_bgnrp in zip(every, H_bgnrp.split(rows), strict=True):
        yield _pieces(steps, A_h, entered_bgnrp, Q, Q * max(1, chunks // rows), stored)


def entry_state(x_blhp: Tensor, B_blgn: Tensor, state_bhpn: Tensor | None = None) -> Tensor:
    """H_0 (b, g, n, r, p) in the dtype of the computation: zero, or a state as `ssd` returns it."""
    b, _, h, p = x_blhp.shape
    g, n = B_blgn.shape[2:]
    dtype = torch.promote_types(x_blhp.dtype, torch.float32)
    if state_bhpn is not None:
        return state_bhpn.to(dtype).unflatten(1, (g, h // g)).permute(0, 1, 4, 2, 3)
    return torch.zeros(b, g, n, h // g, p, dtype=dtype, device=x_blhp.device)


def _pieces(steps: Steps, A_h: Tensor, H_bgnrp: Tensor, Q: int, most: int, stored: Stored | None) -> Iterator[Piece]:
    """Pieces of up to `most` steps, a multiple of Q, the first of them entered with H."""
    length = steps.x_blhp.shape[1]
    whole = length - length % Q
    sizes = [size for size in (*[most] * (whole // most), whole % most, length % Q) if size]
    for size, part in zip(sizes, steps.split(sizes, dim=1), strict=True):
        piece = _piece(part, A_h, H_bgnrp, min(Q, size), stored)
        yield piece
        H_bgnrp = piece.states_bgnrp[-1]


def _piece(steps: Steps, A_h: Tensor, H_bgnrp: Tensor, Q: int, stored: Stored | None) -> Piece:
    dtype, heads = H_bgnrp.dtype, (H_bgnrp.shape[1], -1)
    x_bcqgrp, dt_bcqgr = (t.to(dtype).unflatten(2, heads).unflatten(1, (-1, Q)) for t in (steps.x_blhp, steps.dt_blh))
    B_bcgqn, C_bcgqn = (t.to(dtype).unflatten(1, (-1, Q)).transpose(2, 3) for t in (steps.B_blgn, steps.C_blgn))
    L_bcgrqs, alpha_bcgrq = _decays((dt_bcqgr * A_h.to(dtype).unflatten(0, heads)).permute(0, 1, 3, 4, 2))
    u_bcqgrp = x_bcqgrp * dt_bcqgr.unsqueeze(-1)
    decayed_bcqgrp = u_bcqgrp * L_bcgrqs[..., -1, :].permute(0, 1, 4, 2, 3).unsqueeze(-1)
    # The heads of a group share B: side by side, they are one product.
    written_bcgnk = B_bcgqn.mT @ decayed_bcqgrp.transpose(2, 3).flatten(4)
    states_bgnrp = _scan(H_bgnrp, alpha_bcgrq[..., -1], written_bcgnk.unflatten(-1, H_bgnrp.shape[3:]), stored)
    u_bcgrqp = u_bcqgrp.permute(0, 1, 3, 4, 2, 5).contiguous()
    return Piece(x_bcqgrp.transpose(2, 3), u_bcgrqp, B_bcgqn, C_bcgqn, L_bcgrqs, alpha_bcgrq, states_bgnrp)


def _decays(log_a_bcgrq: Tensor) -> tuple[Tensor, Tensor]:
    """L and alpha of `Piece`. Segment sums are differences in float64: in fp32 a strong decay early in the chunk
    would cost the later entries their last digits. Powers of two, because a CPU's exp is up to thirty times slower
    where it underflows."""
    cumulative = (log_a_bcgrq.to(torch.float64) / log(2)).cumsum(-1)
    segments = (cumulative.unsqueeze(-1) - cumulative.unsqueeze(-2)).to(log_a_bcgrq.dtype)
    segments += segments.new_full(segments.shape[-2:], -torch.inf).triu(1)  # masked_fill takes several times as long
    return segments.exp2_(), cumulative.to(log_a_bcgrq.dtype).exp2()


def _scan(H_bgnrp: Tensor, alpha_bcgr: Tensor, written_bcgnrp: Tensor, stored: Stored | None) -> list[Tensor]:
    """H, and the state after each chunk: what the chunk leaves of the state before it, and what it writes."""
    states_bgnrp = [H_bgnrp]
    for alpha_bgr, written_bgnrp in zip(alpha_bcgr.unbind(1), written_bcgnrp.unbind(1), strict=True):
        left_bgnrp = torch.addcmul(written_bgnrp, alpha_bgr[:, :, None, :, None], states_bgnrp[-1])
        states_bgnrp.append(left_bgnrp if stored is None else stored(left_bgnrp))
    return states_bgnrp
