"""The walk through a model: score a layer, choose its channels, go on through what is left.

One pass, not two: z, x, dt, B, C of a layer are computed once; its statistics, and then its pruned output with
B[..., kept] and C[..., kept], or both projected, come from the same tensors. in_proj and conv1d never run twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ghost.backbone import Backbone, Channels, Layer, batches, rms_norm
from ghost.errors import CheckpointError
from ghost.mixer import PROJECTIONS, MixerInputs, Weights
from ghost.pruning import Pruning
from ghost.recovery import DensePath, Pairs, Recovered, recover
from ghost.saliency import (
    LayerStatistics,
    Method,
    Survey,
    balance_of,
    find_method,
    row_norms,
    smallest_rank,
    survey,
    thin_mixer,
)
from ghost.selection import Masked, Projection, Selection, kept_count, select
from ghost.surgery import project_mixer, slice_mixer, zero_mixer


@dataclass(frozen=True, eq=False)
class LayerResult:
    """What the walk found out about one mixer."""

    layer: int
    statistics: LayerStatistics
    selection: Selection
    changed: Weights | None = None
    """The pruned mixer, where it is more than a cut of the source's: projected, recovered, zeroed weight by weight."""
    recovered: Recovered | None = None
    """What recovery came to, where the settings ask for it."""


class Walk:
    """Walks a model's mixers in order, on calibration tokens (samples, length).

    Activations are a cache, never the truth: after `restore(i, selection)` for layers that are known already, the
    inputs of the next layer are rebuilt from the checkpoint, the tokens and those selections, in the same operations
    and so in the same bits as when they were first computed.

    CheckpointError or SettingsError where this model, or these settings, don't go with the method.
    """

    def __init__(self, backbone: Backbone, tokens_bl: Tensor, settings: Pruning) -> None:
        self.backbone, self.tokens_bl, self.settings = backbone, tokens_bl, settings
        self.method = find_method(settings.method)
        _check(backbone, self.method, settings)
        if settings.energy is None:
            self.kept = kept_count(backbone.checkpoint.mixer_layout.d_state, settings.sparsity, settings.round_to)
        self._selections: list[Selection] = []
        self._stored: dict[int, Callable[[], Weights]] = {}
        self._dense: DensePath | None = None
        self._outlook: list[Channels] = []
        self._position = 0
        self._hidden_blm: Tensor | None = None
        self._held: tuple[Layer, list[MixerInputs]] | None = None
        self._surveyed: Survey | None = None

    @cached_property
    def kept(self) -> int:
        """Channels, or directions, that stay per group; by energy it takes a walk through the dense model."""
        assert self.settings.energy is not None
        plain = {"sequential": False, "recovery": "none", "energy": None, "sparsity": 0.5, "round_to": 1}
        dense = walk(self.backbone, self.tokens_bl, self.settings.model_copy(update=plain))
        spectra = [result.selection.saliency_gn for result in dense]
        return smallest_rank(spectra, self.settings.energy, self.settings.round_to)

    @torch.inference_mode()
    def statistics(self, i: int) -> LayerStatistics:
        """Statistics of layer i, as its method needs them. Layers before it must be pruned or restored."""
        if self.method.needs != "layer":
            norms = row_norms(self.backbone.checkpoint.mixer_layout, self.backbone.checkpoint.mixer(i))
            if self.method.needs == "inputs":
                self._reach(i)
                return replace(norms, tokens=self.tokens_bl.numel())
            return norms if self.method.needs == "weights" else self._with_survey(norms, i)
        layer, held = self._inputs(i)
        return self.method.measure(row_norms(layer.layout, layer.mixer), held, f"layer {i}")

    def _with_survey(self, norms: LayerStatistics, i: int) -> LayerStatistics:
        """One survey of the dense model serves every layer; a resumed walk repeats it, to the same bits."""
        if self._surveyed is None:
            tokens = [self.tokens_bl[part] for part in self._parts()]
            d_state = self.backbone.checkpoint.mixer_layout.d_state
            self._surveyed = survey(self.method, self.backbone, tokens, self.kept, d_state)
        return self._surveyed[i].means(norms, self.tokens_bl.numel(), f"layer {i}")

    def select(self, i: int, statistics: LayerStatistics) -> Selection:
        """The channels of layer i that stay."""
        saliency_gn = self.method.score(statistics, i, self.settings.seed)
        if self.method.form in ("zeroed", "unstructured"):
            return Selection(saliency_gn, saliency_gn == 1)  # all of a layer's channels, or none
        return select(saliency_gn, self.kept, self.settings.policy)

    @torch.inference_mode()
    def reduce(self, i: int, statistics: LayerStatistics, selection: Selection) -> dict[str, Tensor]:
        """Layer i's pruned tensors, by the form of its method, before any recovery."""
        source = self.backbone.checkpoint
        layout, mixer = source.mixer_layout, source.mixer(i)
        if self.method.form == "projected":
            balanced = balance_of(statistics)
            return project_mixer(layout, mixer, balanced.B_gnn[:, : self.kept], balanced.C_gnn[:, : self.kept])
        if self.method.thin is not None:
            return thin_mixer(layout, mixer, self.method.thin, self._normed(i), self.kept, f"layer {i}")
        if self.settings.soft or self.method.form == "zeroed":
            return zero_mixer(layout, mixer, selection)
        return slice_mixer(layout, mixer, selection)[1]

    def _normed(self, i: int) -> Iterator[Tensor]:
        """The normed inputs (b, l, m) of mixer i, batch by batch."""
        hidden_blm, backbone = self._reach(i), self.backbone
        norm_m = backbone.layer(i).norm_m
        return (rms_norm(hidden_blm[p], norm_m, backbone.norm_eps).to(backbone.dtype) for p in self._parts())

    @property
    def changes(self) -> bool:
        """Its mixers are more than cuts of the source's, so that those before a layer have to be given to `restore`."""
        return self.settings.recovery != "none" or self.method.form in ("projected", "unstructured")

    @torch.inference_mode()
    def recover(self, i: int, pruned: Weights) -> Recovered:
        """Layer i's pruned tensors, corrected as the settings say. Layers before it must be restored."""
        self._reach(i)
        self._held = None  # what follows goes through the mixer as it is stored
        assert self._hidden_blm is not None and self._dense is not None
        rows = torch.arange(len(self.tokens_bl))
        pairs = Pairs(self.backbone, self.tokens_bl, self._hidden_blm, self._dense.outputs(), rows, self._outlook)
        level, seed = self.settings.recovery, self.settings.seed
        return recover(pairs, i, pruned, local=level == "local", seed=seed, refit=level == "fit")

    def restore(self, i: int, selection: Selection, stored: Callable[[], Weights] | None = None) -> None:
        """Layer i keeps these channels from now on; the next layers see what it leaves. After the last one, the
        activations are let go. `stored` gives the pruned mixer to the last bit, where the walk `changes` mixers."""
        assert i == len(self._selections), f"layer {i} after {len(self._selections)} layers"
        assert (stored is not None) == self.changes, "stored weights, where they are more than a cut, and only there"
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
                self._outlook = [
                    self._channels(result.selection, result.changed)
                    for result in walk(self.backbone, self.tokens_bl, plain)
                ]
                self._dense = DensePath(self.backbone, self.tokens_bl)
            self._hidden_blm = self.backbone.embed(self.tokens_bl)
        while self._position < i:
            self._advance() if self._dense is None else self._advance_both(self._dense)
        return self._hidden_blm

    def _advance(self) -> None:
        """Carry the activations through the layer at the current position, in place and batch by batch."""
        assert self._hidden_blm is not None
        layer, held, channels = self._passage()
        for number, part in enumerate(self._parts()):
            hidden_blm = self._hidden_blm[part]
            inputs = held[number] if held else self.backbone.inputs(layer, hidden_blm)
            self._hidden_blm[part] = self.backbone.advance(layer, hidden_blm, inputs, channels)
        self._held, self._position = None, self._position + 1

    def _passage(self) -> tuple[Layer, list[MixerInputs], Channels | None]:
        """The layer at the current position, its inputs where they are still held, and what it does to B and C."""
        i = self._position
        stored = self._stored.pop(i)() if self.settings.sequential and self.changes else None
        if stored is not None and self.method.form == "unstructured":
            return self.backbone.layer(i, stored), [], None
        layer, held = self._held or (self.backbone.layer(i), [])
        return layer, held, self._channels(self._selections[i], stored) if self.settings.sequential else None

    def _channels(self, selection: Selection, changed: Weights | None) -> Channels:
        match self.method.form:
            case "projected":
                assert changed is not None
                return Projection(*(self.backbone.place(changed[name]) for name in PROJECTIONS))
            case "zeroed":
                return Masked(selection)
            case _:
                return selection

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


def walk(backbone: Backbone, tokens_bl: Tensor, settings: Pruning) -> Iterator[LayerResult]:
    """Score and select every mixer in order; holds one layer's weights and the running activations, nothing else."""
    steps = Walk(backbone, tokens_bl, settings)
    for i in range(backbone.layers):
        statistics = steps.statistics(i)
        selection = steps.select(i, statistics)
        changed = steps.reduce(i, statistics, selection) if steps.changes else None
        recovered = steps.recover(i, changed) if changed and settings.recovery != "none" else None
        changed = recovered.mixer if recovered else changed
        steps.restore(i, selection, partial(dict, changed) if changed else None)
        yield LayerResult(i, statistics, selection, changed, recovered)


def _check(backbone: Backbone, method: Method, settings: Pruning) -> None:
    method.check(settings)
    if backbone.checkpoint.mixer_layout.projected_from:
        where = backbone.checkpoint.folder
        raise CheckpointError(f"{where} is projected and can't be pruned again; give the model it was made from")
