"""What a pruned mixer is corrected on: its inputs on the pruned path, and what it should put out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.kernels import scan
from ghost.mixer import gated_norm, mixer_inputs
from ghost.stack import Stack
from ghost.stream import batches
from ghost.team import ALONE, Team

HELD_BACK = 8
"""One window in so many is never fitted on."""
FITTED_MOST, HELD_MOST = 1 << 16, 1 << 12
"""Tokens to fit on, and to hold back, in whole windows. Of longer calibrations recovery takes a part, spread over the
text, so that it costs no more than that in time and memory."""


def share(rows: int, length: int, most: int) -> int:
    """One window in how many makes up at most so many tokens, if there is more than one."""
    return max(1, ceil(rows * length / most))


def split(first: int, rows: int, total: int, length: int) -> tuple[Tensor, Tensor]:
    """Of the windows `first` to `first + rows` of `total`, those to fit on and those held back, counted from `first`:
    whole windows, spread over the text. Some of many are neither."""
    windows, every = torch.arange(first, first + rows), max(HELD_BACK, share(total, length, HELD_MOST))
    held = windows % every == min(total, every) - 1
    fitted = ~held & (windows % share(total, length, FITTED_MOST) == 0)
    return fitted.nonzero()[:, 0], held.nonzero()[:, 0]


def by_batch(rows: Tensor, windows: int, length: int, *, batch_tokens: int) -> Iterator[Tensor]:
    """Rows in ascending order, those of a batch of the walk at a time."""
    for part in batches(windows, length, batch_tokens=batch_tokens):
        within = rows[(rows >= part.start) & (rows < part.stop)]
        if len(within):
            yield within


@dataclass(frozen=True, eq=False)
class Pairs:
    """Some windows of the calibration set at the entry of one layer, on the pruned path.

    `inputs_blm` is what the mixer is given there and `target_blm` what it should put out: what the dense mixer does on
    the dense path. None for `fit`, which asks the dense mixer for the same inputs. `rows` picks the windows that count.
    """

    stack: Stack
    inputs_blm: Tensor
    target_blm: Tensor | None
    rows: Tensor
    team: Team = ALONE
    first: int = 0
    """Of a team, the number of this process's first window among those of all."""

    def split(self) -> tuple["Pairs", "Pairs"]:
        """The windows to fit on and those held back."""
        rows, length = self.inputs_blm.shape[:2]
        fitted, held = split(self.first, rows, self.team.count([rows]), length)
        return replace(self, rows=fitted), replace(self, rows=held)

    def parts(self) -> Iterator[Tensor]:
        """Rows, those of a batch of the walk at a time."""
        return by_batch(self.rows, *self.inputs_blm.shape[:2], batch_tokens=self.stack.batch_tokens)

    def gathered(self) -> "Pairs":
        """At rank 0 the windows of all processes."""
        inputs_blm = self.team.gather(self.inputs_blm)
        target_blm = None if self.target_blm is None else self.team.gather(self.target_blm)
        return Pairs(self.stack, inputs_blm, target_blm, torch.arange(len(inputs_blm)))

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The mixer's inputs and its targets for some windows, (b, l, d_model) each."""
        assert self.target_blm is not None, "a recovery that has targets"
        return self.inputs_blm[rows], self.target_blm[rows].float()

    def features(self, layer: DecoderLayer) -> Iterator[tuple[Tensor, Tensor]]:
        """What enters out_proj, and the targets, batch by batch: (tokens, d_inner) and (tokens, d_model), fp32."""
        for rows in self.parts():
            inputs_blm, target_blm = self.take(rows)
            z_bli, *recurrence = mixer_inputs(layer.layout, layer.mixer, inputs_blm)
            y_blhp, _ = scan(*recurrence)
            features_bli = gated_norm(layer.layout, layer.mixer, y_blhp.flatten(-2), z_bli)
            yield features_bli.flatten(0, 1), target_blm.flatten(0, 1)
