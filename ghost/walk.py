"""The walk through a model: score a layer, choose its channels, go on through what is left.

One pass, not two: z, x, dt, B, C of a layer are computed once; its statistics, and then its pruned output with
B[..., kept] and C[..., kept], come from the same tensors. in_proj and conv1d never run twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ghost.backbone import Backbone, Layer, batches
from ghost.config import RunSettings
from ghost.mixer import MixerInputs, Weights
from ghost.recovery import DensePath, Pairs, Recovered, recover
from ghost.saliency import GateGradients, LayerStatistics, find_method, gate_gradients, row_norms
from ghost.selection import Selection, kept_count, select
from ghost.surgery import slice_mixer


@dataclass(frozen=True, eq=False)
class LayerResult:
    """What the walk found out about one mixer."""

    layer: int
    statistics: LayerStatistics
    selection: Selection
    recovered: Recovered | None = None
    """The corrected mixer, where the settings ask for recovery."""


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
        self._stored: dict[int, Callable[[], Weights]] = {}
        self._dense: DensePath | None = None
        self._outlook: list[Selection] = []
        self._position = 0
        self._hidden_blm: Tensor | None = None
        self._held: tuple[Layer, list[MixerInputs]] | None = None
        self._gradients: Sequence[GateGradients] | None = None

    @torch.inference_mode()
    def statistics(self, i: int) -> LayerStatistics:
        """Statistics of layer i, as its method needs them. Layers before it must be pruned or restored."""
        if self.method.needs != "layer":
            norms = row_norms(self.backbone.checkpoint.mixer_layout, self.backbone.checkpoint.mixer(i))
            return norms if self.method.needs == "weights" else self._with_gradients(norms, i)
        layer, held = self._inputs(i)
        return self.method.measure(row_norms(layer.layout, layer.mixer), held, f"layer {i}")

    def _with_gradients(self, norms: LayerStatistics, i: int) -> LayerStatistics:
        """One backward pass through the dense model serves every layer; a resumed walk repeats it, to the same bits."""
        if self._gradients is None:
            self._gradients = gate_gradients(self.backbone, (self.tokens_bl[part] for part in self._parts()))
        return self._gradients[i].means(norms, self.tokens_bl.numel(), f"layer {i}")

    def select(self, i: int, statistics: LayerStatistics) -> Selection:
        """The channels of layer i that stay."""
        return select(self.method.score(statistics, i, self.settings.seed), self.kept, self.settings.policy)

    @torch.inference_mode()
    def recover(self, i: int, pruned: Weights) -> Recovered:
        """Layer i's pruned tensors, corrected as the settings say. Layers before it must be restored."""
        self._reach(i)
        self._held = None  # what follows goes through the mixer as it is stored
        assert self._hidden_blm is not None and self._dense is not None
        rows = torch.arange(len(self.tokens_bl))
        pairs = Pairs(self.backbone, self.tokens_bl, self._hidden_blm, self._dense.outputs(), rows, self._outlook)
        return recover(pairs, i, pruned, local=self.settings.recovery == "local", seed=self.settings.seed)

    def restore(self, i: int, selection: Selection, stored: Callable[[], Weights] | None = None) -> None:
        """Layer i keeps these channels from now on; the next layers see what it leaves. After the last one,
        the activations are let go. With recovery `stored` gives the corrected mixer to the last bit."""
        assert i == len(self._selections), f"layer {i} after {len(self._selections)} layers"
        assert (stored is None) == (self.settings.recovery == "none"), "recovery and nothing else needs stored weights"
        self._selections.append(selection)
        if stored is not None:
            self._stored[i] = stored
        if len(self._selections) == self.backbone.layers:
            self._held = self._hidden_blm = self._dense = None
            self._stored.clear()

    @torch.inference_mode()
    def _inputs(self, i: int) -> tuple[Layer, list[MixerInputs]]:
        """The mixer inputs of layer i for every batch of the calibration tokens, and the layer itself."""
        hidden_blm = self._reach(i)
        if self._held is None:
            layer = self.backbone.layer(i)
            self._held = layer, [self.backbone.inputs(layer, hidden_blm[part]) for part in self._parts()]
        return self._held

    def _reach(self, i: int) -> Tensor:
        """The residual stream at the entry of layer i."""
        assert i == len(self._selections), f"layer {i} after {len(self._selections)} layers"
        if self._hidden_blm is None:
            if self.settings.recovery != "none":
                plain = self.settings.model_copy(update={"recovery": "none"})
                self._outlook = [result.selection for result in walk(self.backbone, self.tokens_bl, plain)]
                self._dense = DensePath(self.backbone, self.tokens_bl)
            self._hidden_blm = self.backbone.embed(self.tokens_bl)
        while self._position < i:
            self._advance() if self._dense is None else self._advance_both(self._dense)
        return self._hidden_blm

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

    def _advance_both(self, dense: DensePath) -> None:
        """Carry the dense path past the layer at the current position, and the activations through what was stored of
        it; one-shot runs score and fit every layer on the dense path."""
        assert self._hidden_blm is not None
        stored = self._stored.pop(self._position)
        dense.advance()
        self._held = None
        if self.settings.sequential:
            layer = self.backbone.layer(self._position, stored())
            for part in self._parts():
                inputs = self.backbone.inputs(layer, self._hidden_blm[part])
                self._hidden_blm[part] = self.backbone.advance(layer, self._hidden_blm[part], inputs)
        else:
            self._hidden_blm.copy_(dense.hidden_blm)
        self._position += 1

    def _parts(self) -> Iterator[slice]:
        return batches(*self.tokens_bl.shape)


def walk(backbone: Backbone, tokens_bl: Tensor, settings: RunSettings) -> Iterator[LayerResult]:
    """Score and select every mixer in order; holds one layer's weights and the running activations, nothing else."""
    steps = Walk(backbone, tokens_bl, settings)
    for i in range(backbone.layers):
        statistics = steps.statistics(i)
        selection = steps.select(i, statistics)
        recovered = _recovered(steps, i, selection)
        steps.restore(i, selection, partial(_mixer, recovered) if recovered else None)
        yield LayerResult(i, statistics, selection, recovered)


def _recovered(steps: Walk, i: int, selection: Selection) -> Recovered | None:
    if steps.settings.recovery == "none":
        return None
    source = steps.backbone.checkpoint
    return steps.recover(i, slice_mixer(source.mixer_layout, source.mixer(i), selection)[1])


def _mixer(recovered: Recovered) -> Weights:
    return recovered.mixer
