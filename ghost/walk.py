"""The walk through a model: score a layer, choose its channels, go on through what is left.

One pass, not two: z, x, dt, B, C of a layer are computed once; its statistics, and then its pruned output with B and C
as the form of the method leaves them, come from the same tensors. in_proj and conv1d never run twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ghost.checkpoint.families import FAMILIES, family_of
from ghost.checkpoint.source import Checkpoint
from ghost.errors import CheckpointError, SettingsError
from ghost.forms import Dense, Evidence
from ghost.kernels import exact_products
from ghost.mixer import Weights
from ghost.pruned_path import PrunedPath
from ghost.pruning import Pruning
from ghost.recovery import DensePath, Judge, Pairs, Recovered, check_room, recover
from ghost.recovery.pairs import HELD_MOST, share, split
from ghost.saliency import (
    LayerStatistics,
    Survey,
    check_pruning,
    find_method,
    form_of,
    row_norms,
    smallest_rank,
    survey,
)
from ghost.selection import Channels, Selection, kept_count
from ghost.stack import Stack
from ghost.stream import batches
from ghost.team import ALONE, Team


@dataclass(frozen=True, eq=False)
class LayerResult:
    """What the walk found out about one mixer."""

    layer: int
    """The decoder layer that it belongs to."""
    statistics: LayerStatistics
    selection: Selection
    changed: Weights | None = None
    """The pruned mixer, where it is more than a cut of the source's: projected, recovered, zeroed weight by weight."""
    recovered: Recovered | None = None
    """What recovery came to, where the settings ask for it."""


class Walk:
    """Walks a model's mixers in order, on calibration tokens (samples, length). They go by the decoder layers that have
    one; those without are passed through as they are.

    Activations are a cache, never the truth: after `restore(i, selection)` for layers that are known already, the
    inputs of the next layer are rebuilt from the checkpoint, the tokens and those selections, in the same operations
    and so in the same bits as when they were first computed.

    Of a `team` of processes each walks with its share of the windows: all take the same steps in the same order, and
    all have what comes of them. Where there are fewer batches than processes, each of them takes all.

    CheckpointError or SettingsError where this model, or these settings, don't go with the method.
    """

    def __init__(self, stack: Stack, tokens_bl: Tensor, settings: Pruning, team: Team = ALONE) -> None:
        check_pruning(settings)
        check_source(stack.checkpoint, settings)
        settings = settings.resolved(stack.checkpoint.mixer_layout.d_state)
        self.stack, self.tokens_bl, self.settings = stack, tokens_bl, settings
        self.method, self.form = find_method(settings.method), form_of(settings.method, soft=settings.soft)
        self.recovers = settings.recovery != "none"
        if self.recovers or self.method.calibrates:
            check_room(stack.checkpoint.mixer_layout, stack.device, stack.dtype, tokens_bl.numel(), settings.recovery)
        every = [*batches(*tokens_bl.shape, batch_tokens=stack.batch_tokens)]
        self.team = team if len(every) >= team.size else ALONE
        own = self.team.share(every)
        self._first, self.share_bl = own[0].start, tokens_bl[own[0].start : own[-1].stop]
        if settings.energy is None:
            self.kept = kept_count(stack.checkpoint.mixer_layout.d_state, settings.sparsity, settings.round_to)
        self._selections: dict[int, Selection] = {}
        self._stored: dict[int, Callable[[], Weights]] = {}
        self._path: PrunedPath | None = None
        self._dense: DensePath | None = None
        self._judge: Judge | None = None
        self._surveyed: Survey | None = None

    @cached_property
    def kept(self) -> int:
        """Channels, or directions, that stay per group; by energy it takes a walk through the dense model."""
        assert self.settings.energy is not None
        plain = {"sequential": False, "recovery": "none", "energy": None, "sparsity": 0.5, "round_to": 1}
        dense = walk(self.stack, self.tokens_bl, self.settings.model_copy(update=plain), self.team)
        spectra = [result.selection.saliency_gn for result in dense]
        return smallest_rank(spectra, self.settings.energy, self.settings.round_to)

    @torch.inference_mode()
    @exact_products()
    def statistics(self, i: int) -> LayerStatistics:
        """Statistics of layer i, as its method needs them. Layers before it must be pruned or restored."""
        if self.method.needs != "layer":
            norms = row_norms(self.stack.checkpoint.mixer_layout, self.stack.checkpoint.mixer(i))
            if self.method.needs == "inputs":
                self._reach(i)
                return replace(norms, tokens=self.tokens_bl.numel())
            return norms if self.method.needs == "weights" else self._with_survey(norms, i)
        inputs = self._reach(i).inputs()
        norms = replace(row_norms(inputs.layer.layout, inputs.layer.mixer), tokens=self.tokens_bl.numel())
        return self.method.measure(norms, inputs, f"layer {i}", self.team)

    def _with_survey(self, norms: LayerStatistics, i: int) -> LayerStatistics:
        """One survey of the dense model serves every layer; a resumed walk repeats it, to the same bits."""
        if self._surveyed is None:
            parts = batches(*self.share_bl.shape, batch_tokens=self.stack.batch_tokens)
            tokens = [self.share_bl[part] for part in parts]
            d_state = self.stack.checkpoint.mixer_layout.d_state
            self._surveyed = survey(self.method, self.stack, tokens, self.kept, d_state, self.team)
        return self._surveyed[i].means(norms, self.tokens_bl.numel(), f"layer {i}")

    def select(self, i: int, statistics: LayerStatistics) -> Selection:
        """The channels of layer i that stay."""
        saliency_gn = self.method.score(statistics, i, self.settings.seed)
        return self.form.select(saliency_gn, self.kept, self.settings.policy)

    @torch.inference_mode()
    @exact_products()
    def reduce(self, i: int, statistics: LayerStatistics, selection: Selection) -> dict[str, Tensor]:
        """Layer i's pruned tensors, before any recovery."""
        source = self.stack.checkpoint
        evidence = Evidence(statistics, lambda: self._reach(i).mixer_inputs(), self.kept, f"layer {i}", self.team)
        return self.form.reduce(Dense(source.mixer_layout, source.mixer(i), selection, evidence))

    @property
    def changes(self) -> bool:
        """Its mixers are more than cuts of the source's, so that those before a layer have to be given to `restore`."""
        return self.recovers or self.form.changes

    @torch.inference_mode()
    @exact_products()
    def recover(self, i: int, pruned: Weights) -> Recovered:
        """Layer i's pruned tensors, corrected as the settings say. Layers before it must be restored."""
        path = self._reach(i)
        path.let_go()
        assert self._judge is not None
        inputs_blm, target_blm = torch.cat(list(path.mixer_inputs())), self._dense and self._dense.outputs()
        pairs = Pairs(self.stack, inputs_blm, target_blm, torch.arange(len(inputs_blm)), self.team, self._first)
        level, seed = self.settings.recovery, self.settings.seed
        return recover(pairs, self._judge, i, path.stream, pruned, level=level, seed=seed)

    def restore(self, i: int, selection: Selection, stored: Callable[[], Weights] | None = None) -> None:
        """Layer i keeps these channels from now on; the next layers see what it leaves. After the last one, the
        activations are let go. `stored` gives the pruned mixer to the last bit, where the walk `changes` mixers."""
        self._check_turn(i)
        assert (stored is not None) == self.changes, "stored weights, where they are more than a cut, and only there"
        self._selections[i] = selection
        if stored is not None:
            self._stored[i] = stored
        if len(self._selections) == len(self.stack.mixers):
            self._path = self._dense = self._judge = None
            self._stored.clear()

    def _reach(self, i: int) -> PrunedPath:
        """The pruned path at the entry of layer i; where recovery wants its outputs, the dense one keeps up with it."""
        self._check_turn(i)
        if self._path is None:
            if self.recovers:
                self._judge = self._make_judge()
            if self.recovers and self.settings.recovery != "fit":
                self._dense = DensePath(self.stack, self.share_bl)
            self._path = PrunedPath(self.stack, self.share_bl)
        while self._path.position < i:
            if self._dense is not None:
                self._dense.advance()
            self._path.advance(*self._passage(self._path.position))
        return self._path

    def _check_turn(self, i: int) -> None:
        assert i == self.stack.mixers[len(self._selections)], f"layer {i} after {list(self._selections)}"

    def _make_judge(self) -> Judge:
        _, held = split(self._first, len(self.share_bl), *self.tokens_bl.shape)
        return Judge(self.stack, self.share_bl, held, dict(self._look_ahead()), self.team)

    def _look_ahead(self) -> Iterator[tuple[int, Channels]]:
        """What B and C of every layer are going to go through, as far as a walk without recovery can tell on as many
        windows as are held back."""
        plain = self.settings.model_copy(update={"recovery": "none"})
        every = share(*self.tokens_bl.shape[:2], most=HELD_MOST)
        for result in walk(self.stack, self.tokens_bl[::every], plain, self.team):
            channels = self.form.channels(result.selection, result.changed)
            assert channels is not None, "a form that admits recovery"
            yield result.layer, channels

    def _passage(self, i: int) -> tuple[Channels | None, Weights | None]:
        """What B and C of layer i go through on the way on, or the mixer that is taken in place of the source's."""
        stored = self._stored.pop(i, None)
        if i not in self._selections or not self.settings.sequential:
            return None, None
        pruned = stored and stored()
        channels = None if self.recovers else self.form.channels(self._selections[i], pruned)
        return (None, pruned) if channels is None else (channels, None)


def walk(stack: Stack, tokens_bl: Tensor, settings: Pruning, team: Team = ALONE) -> Iterator[LayerResult]:
    """Score and select every mixer in order; holds one layer's weights and the running activations, nothing else."""
    steps = Walk(stack, tokens_bl, settings, team)
    for i in stack.mixers:
        statistics = steps.statistics(i)
        selection = steps.select(i, statistics)
        changed = steps.reduce(i, statistics, selection) if steps.changes else None
        recovered = steps.recover(i, changed) if changed and steps.recovers else None
        changed = recovered.mixer if recovered else changed
        steps.restore(i, selection, partial(dict, changed) if changed else None)
        yield LayerResult(i, statistics, selection, changed, recovered)


def check_source(source: Checkpoint, settings: Pruning) -> None:
    """CheckpointError or SettingsError where this model can't be pruned as the settings say; reads no tensor."""
    if source.mixer_layout.projected_from:
        raise CheckpointError(
            f"{source.folder} is projected and can't be pruned again; give the model it was made from"
        )
    family = family_of(source.config)
    if form_of(settings.method, soft=settings.soft).carries_code and not family.projects:
        able = ", ".join(row.model_type for row in FAMILIES.values() if row.projects)
        raise SettingsError(
            f"method {settings.method} makes a projected checkpoint, which ghost can write for {able} only, not for "
            f"{family.model_type}; choose another method, e.g. ghost with --recovery fit"
        )
