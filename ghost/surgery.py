"""Cutting state channels out of a mixer's weights: pure functions from state dict to state dict.

The convolution is depthwise and SiLU is elementwise, so cutting B and C after them equals cutting rows of in_proj and
channels of conv1d, bias included (SiLU of a forgotten bias would remain).
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ghost.mixer import MixerLayout, Weights
from ghost.selection import Selection
from ghost.ssd import STATISTICS
from ghost.team import ALONE, Team

ROWS = ("in_proj.weight", "in_proj.bias")
CHANNELS = ("conv1d.weight", "conv1d.bias")
PADDING = -1

Thin = Callable[[Tensor, Iterable[Tensor], int, str, Team], Tensor]
"""Rows (o, m), the batches of X (b, l, m) that this process has, how many weights of each row go, where they are, for
errors, and the processes that have X; gives the rows with exactly so many weights zero. CheckpointError where X
overflowed."""


def slice_mixer(
    layout: MixerLayout, weights: Weights, selection: Selection, width: int | None = None
) -> tuple[MixerLayout, dict[str, Tensor]]:
    """The smaller mixer: d_state is `width`, by default the selection's own; channels beyond a group's own are zero."""
    indices_gk = selection.indices_gk(width)
    channels = _conv_positions(layout, indices_gk)
    sliced = _cut(weights, _row_positions(layout, channels), channels)
    return replace(layout, d_state=indices_gk.shape[1]), sliced


def zero_mixer(layout: MixerLayout, weights: Weights, selection: Selection) -> dict[str, Tensor]:
    """The same mixer with the dropped channels' rows, taps and biases zeroed: same shapes, same output as slicing."""
    every_gn = torch.arange(layout.d_state).expand(layout.n_groups, -1)
    channels = _conv_positions(layout, every_gn.masked_fill(~selection.kept_gn.cpu(), PADDING))
    return _cut(weights, _row_positions(layout, channels), channels)


def project_mixer(layout: MixerLayout, weights: Weights, B_grn: Tensor, C_grn: Tensor) -> dict[str, Tensor]:
    """The same mixer with B_proj and C_proj behind its convolution, in in_proj's dtype; the state has r directions."""
    assert layout.projected_from is None, "a projected mixer is not projected again"
    like = weights["in_proj.weight"]
    return dict(weights) | {"B_proj": B_grn.to(like), "C_proj": C_grn.to(like)}


def thin_mixer(
    layout: MixerLayout,
    weights: Weights,
    thin: Thin,
    inputs: Iterable[Tensor],
    kept: int,
    where: str,
    team: Team = ALONE,
) -> dict[str, Tensor]:
    """The same mixer with the B and C rows of in_proj thinned to kept / d_state of their weights, in their dtype."""
    z, x, B, C, _ = layout.in_proj_sections
    rows, projection_om = slice(z + x, z + x + B + C), weights["in_proj.weight"].clone()
    stay = int(layout.d_model * kept / layout.d_state + 0.5)
    thinned_om = thin(projection_om[rows].to("cpu", STATISTICS), inputs, layout.d_model - stay, where, team)
    projection_om[rows] = thinned_om.to(projection_om)
    return dict(weights) | {"in_proj.weight": projection_om}


def pad_mixer(layout: MixerLayout, weights: Weights) -> dict[str, Tensor]:
    """Widen a mixer to the layout's d_state with channels that are zero; one that has that size, or is projected to
    it, comes back as it is."""
    if layout.projected_from:
        return dict(weights)
    bc = (weights["conv1d.weight"].shape[0] - layout.d_inner) // 2
    narrow = replace(layout, d_state=bc // layout.n_groups)
    if narrow == layout:
        return dict(weights)
    every_gn = torch.ones(narrow.n_groups, narrow.d_state, dtype=torch.bool)
    return slice_mixer(narrow, weights, Selection(every_gn.double(), every_gn), layout.d_state)[1]


def _conv_positions(layout: MixerLayout, indices_gk: Tensor) -> Tensor:
    """For every conv1d channel [x | B | C] of the new mixer, its channel in the old one, or PADDING."""
    x, bc, _ = layout.conv_sections
    of_group = torch.arange(layout.n_groups).unsqueeze(-1) * layout.d_state
    B = torch.where(indices_gk < 0, PADDING, x + of_group + indices_gk).flatten()
    C = torch.where(B < 0, PADDING, B + bc)
    return torch.cat([torch.arange(x), B, C])


def _row_positions(layout: MixerLayout, channels: Tensor) -> Tensor:
    """The same for in_proj's rows [z | x | B | C | dt]."""
    z, x, B, C, dt = layout.in_proj_sections
    xBC = torch.where(channels < 0, PADDING, z + channels)
    return torch.cat([torch.arange(z), xBC, z + x + B + C + torch.arange(dt)])


def _cut(weights: Weights, rows: Tensor, channels: Tensor) -> dict[str, Tensor]:
    positions = dict.fromkeys(ROWS, rows) | dict.fromkeys(CHANNELS, channels)
    return {name: _gather(t, positions[name]) if name in positions else t for name, t in weights.items()}


def _gather(tensor: Tensor, positions: Tensor) -> Tensor:
    positions = positions.to(tensor.device)
    taken = tensor.index_select(0, positions.clamp(min=0))
    taken[positions < 0] = 0
    return taken
