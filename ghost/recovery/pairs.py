"""What a pruned mixer is fitted on: its inputs on the pruned path, and the dense mixer's outputs on the dense path."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.kernels import scan
from ghost.mixer import gated_norm, mixer_inputs
from ghost.selection import Channels
from ghost.stack import Stack
from ghost.stream import Stream, batches
from ghost.team import ALONE, Team

HELD_BACK = 8
"""One window in so many is never fitted on."""
FITTED_MOST, HELD_MOST = 1 << 16, 1 << 12
"""Tokens to fit on, and to hold back, in whole windows. Of longer calibrations recovery takes a part, spread over the
text, so that it costs no more than that in time and memory."""


def share(rows: int, length: int, most: int) -> int:
    """One window in how many makes up at most so many tokens, if there is more than one."""
    return max(1, ceil(rows * length / most))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Some windows of the calibration set at the entry of one layer.

    `stream` is the pruned path's and `dense` the dense model's, `inputs_blm` what the mixer is given on the pruned path
    and `target_blm` what it should put out, `tokens_bl` the windows themselves; `rows` picks the windows that count.
    `outlook` says what later layers are going to keep, by number: corrections are judged in the model as it will be.
    """

    stack: Stack
    tokens_bl: Tensor
    stream: Stream
    dense: Stream
    inputs_blm: Tensor
    target_blm: Tensor
    rows: Tensor
    outlook: Mapping[int, Channels]
    team: Team = ALONE
    first: int = 0
    """Of a team, the number of this process's first window among those of all."""

    def split(self) -> tuple["Pairs", "Pairs"]:
        """The windows to fit on and those held back: whole windows, spread over the text. Some of many are neither."""
        total, length = self.team.count([len(self.rows)]), self.tokens_bl.shape[1]
        windows, every = self.first + self.rows, max(HELD_BACK, share(total, length, HELD_MOST))
        held = windows % every == min(total, every) - 1
        fitted = ~held & (windows % share(total, length, FITTED_MOST) == 0)
        return replace(self, rows=self.rows[fitted]), replace(self, rows=self.rows[held])

    def parts(self) -> Iterator[Tensor]:
        """Rows, those of a batch of the walk at a time."""
        for part in batches(*self.tokens_bl.shape, batch_tokens=self.stack.batch_tokens):
            within = self.rows[(self.rows >= part.start) & (self.rows < part.stop)]
            if len(within):
                yield within

    def gathered(self) -> "Pairs":
        """At rank 0 the windows of all processes, without the stream."""
        tokens_bl, inputs_blm, target_blm = map(self.team.gather, (self.tokens_bl, self.inputs_blm, self.target_blm))
        rows = torch.arange(len(tokens_bl))
        return Pairs(self.stack, tokens_bl, self.stream, self.dense, inputs_blm, target_blm, rows, self.outlook)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mixer's inputs and its targets for some windows, (b, l, d_model) each."""
        return self.inputs_blm[rows], self.target_blm[rows].float()

    def features(self, layer: DecoderLayer) -> Iterator[tuple[Tensor, Tensor]]:
        """What enters out_proj, and the targets, batch by batch: (tokens, d_inner) and (tokens, d_model), fp32."""
        for rows in self.parts():
            inputs_blm, target_blm = self.take(rows)
            z_bli, *recurrence = mixer_inputs(layer.layout, layer.mixer, inputs_blm)
            y_blhp, _ = scan(*recurrence)
            features_bli = gated_norm(layer.layout, layer.mixer, y_blhp.flatten(-2), z_bli)
            yield features_bli.flatten(0, 1), target_blm.flatten(0, 1)
