"""The walk through a model: score a layer, choose its channels, go on through what is left.

One pass, not two: z, x, dt, B, C of a layer are computed once; its statistics, and then its pruned output with
B[..., kept] and C[..., kept], come from the same tensors. in_proj and conv1d never run twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ghost.backbone import Backbone, Layer, batches
from ghost.config import RunSettings
from ghost.mixer import MixerInputs
from ghost.saliency import LayerStatistics, find_method, row_norms
from ghost.selection import Selection, kept_count, select
from ghost.ssd import energies


@dataclass(frozen=True, eq=False)
class LayerResult:
    """What the walk found out about one mixer."""

    layer: int
    statistics: LayerStatistics
    selection: Selection


class Walk:
    """Walks a model's mixers in order, on calibration tokens (samples, length).

    Activations are a cache, never the truth: after `restore(i, selection)` for layers that are known already, the
    inputs of the next layer are rebuilt from the checkpoint, the tokens and those selections, in the same operations
    and so in the same bits as when they were first computed.
    """

    def __init__(self, backbone: Backbone, tokens_bl: Tensor, settings: RunSettings) -> None:
        self.backbone, self.tokens_bl, self.settings = backbone, tokens_bl, settings
        self.method = find_method(settings.method)
        layout = backbone.checkpoint.mixer_layout
        self.kept = kept_count(layout.d_state, settings.sparsity, settings.round_to)
        self._selections: list[Selection] = []
        self._position = 0
        self._hidden_blm: Tensor | None = None
        self._held: tuple[Layer, list[MixerInputs]] | None = None

    @torch.inference_mode()
    def statistics(self, i: int) -> LayerStatistics:
        """Statistics of layer i, as its method needs them. Layers before it must be pruned or restored."""
        if not self.method.calibrates:
            return row_norms(self.backbone.checkpoint.mixer_layout, self.backbone.checkpoint.mixer(i))
        layer, held = self._inputs(i)
        sums = [energies(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn) for x in held]
        total = sum(sums[1:], start=sums[0])
        return row_norms(layer.layout, layer.mixer).with_energies(total, where=f"layer {i}")

    def select(self, i: int, statistics: LayerStatistics) -> Selection:
        """The channels of layer i that stay."""
        return select(self.method.score(statistics, i, self.settings.seed), self.kept, self.settings.policy)

    def restore(self, i: int, selection: Selection) -> None:
        """Layer i keeps these channels from now on; the next layers see what it leaves. After the last one,
        the activations are let go."""
        assert i == len(self._selections), f"layer {i} after {len(self._selections)} layers"
        self._selections.append(selection)
        if len(self._selections) == self.backbone.layers:
            self._held = self._hidden_blm = None

    @torch.inference_mode()
    def _inputs(self, i: int) -> tuple[Layer, list[MixerInputs]]:
        """The mixer inputs of layer i for every batch of the calibration tokens, and the layer itself."""
        assert i == len(self._selections), f"layer {i} after {len(self._selections)} layers"
        if self._hidden_blm is None:
            self._hidden_blm = self.backbone.embed(self.tokens_bl)
        while self._position < i:
            self._advance()
        if self._held is None:
            layer = self.backbone.layer(i)
            self._held = layer, [self.backbone.inputs(layer, self._hidden_blm[part]) for part in self._parts()]
        return self._held

    def _advance(self) -> None:
        """Carry the activations through the layer at the current position, in place and batch by batch."""
        assert self._hidden_blm is not None
        layer, held = self._held or (self.backbone.layer(self._position), None)
        channels = self._selections[self._position] if self.settings.sequential else None
        for number, part in enumerate(self._parts()):
            hidden_blm = self._hidden_blm[part]
            inputs = held[number] if held else self.backbone.inputs(layer, hidden_blm)
            self._hidden_blm[part] = self.backbone.advance(layer, hidden_blm, inputs, channels)
        self._held, self._position = None, self._position + 1

    def _parts(self) -> Iterator[slice]:
        return batches(*self.tokens_bl.shape)


def walk(backbone: Backbone, tokens_bl: Tensor, settings: RunSettings) -> Iterator[LayerResult]:
    """Score and select every mixer in order; holds one layer's weights and the running activations, nothing else."""
    steps = Walk(backbone, tokens_bl, settings)
    for i in range(backbone.layers):
        statistics = steps.statistics(i)
        selection = steps.select(i, statistics)
        steps.restore(i, selection)
        yield LayerResult(i, statistics, selection)
