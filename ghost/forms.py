"""Forms: what becomes of a mixer. Each knows how to reduce one, what its B and C go on with in the walk, which layout
comes out, what proves a checkpoint, which settings it admits, and the words for all that.

A method names its form in ghost/saliency/methods.py, and `form_of` there says which one a run has. Whatever depends on
the form is asked of it; nothing else asks which one it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ghost.mixer import PROJECTIONS, MixerLayout, Weights
from ghost.selection import Channels, Masked, Policy, Projection, Selection, select
from ghost.surgery import Thin, project_mixer, slice_mixer, thin_mixer, zero_mixer
from ghost.team import ALONE, Team


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a form that `changes` mixers may read of a layer, beside weights and selection."""

    statistics: Any
    """What the method measured, a `LayerStatistics`."""
    inputs: Callable[[], Iterable[Tensor]]
    """The mixer's normed inputs (b, l, m), batch by batch: those of this process."""
    kept: int
    """The budget: channels, or directions, that stay per group."""
    where: str
    """The layer by name, for errors."""
    team: Team = ALONE
    """The processes that have the inputs."""


class Dense(NamedTuple):
    """A mixer of the source, and what is to stay of it."""

    layout: MixerLayout
    weights: Weights
    selection: Selection
    evidence: Evidence | None = None
    """There where the form `changes` mixers."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What is said of a form. Braces stand for figures of the run, as `ghost.report` fills them in."""

    pruning: str
    """The line in a table of settings."""
    described: str
    """The model card's first sentences."""
    unit: str = "channel"
    """What the state is counted in."""
    ranked: str = "channel"
    """What the method ranks."""
    went: str = "{pruned} of the recurrent state pruned"
    """What was taken from the model."""
    titled: str = "{pruned} of its state pruned"
    """The same in the title of the card, after the model's name."""
    caveat: str = ""
    """What a reader of the verdict must know first."""
    computes: str = "without the dropped channels"
    """How the original has to be run to compute the same."""
    state_left: str = "as kept"
    """What a runtime has to hold; {shares} of the state are read."""


def _chosen(state: str, unit: str, fate: str) -> str:
    """`described`, where part of the state was chosen."""
    return (
        f"This is {{model}} with {state}: of the {{channels}} state {unit}s in {{layers}}, {{kept}} are left. They "
        f"were chosen without training, by {{by}}; the others were {fate}."
    )


def _whole(saliency_gn: Tensor) -> Selection:
    """All channels of a layer whose saliency is 1, and none of another."""
    return Selection(saliency_gn, saliency_gn == 1)


class Form(ABC):
    """What becomes of a mixer."""

    words: ClassVar[Words]
    admits: ClassVar[frozenset[str]] = frozenset()
    """Of the settings that mean something to some forms only, those that do here; `check_pruning` refuses the rest."""
    changes: ClassVar[bool] = False
    """A pruned mixer is more than a cut: it can't be made again from the source's and the selection alone."""
    turns: ClassVar[bool] = False
    """Number n of a layer is a direction of another basis, and no channel of the source."""
    ranks_channels: ClassVar[bool] = True
    """Channels of the source were ranked, one by one."""
    carries_code: ClassVar[bool] = False
    """A checkpoint brings the code that runs it."""

    def with_soft(self, soft: bool) -> "Form":
        """The form of a run that asks for `soft`: what is dropped stays in place, and is zero."""
        return self

    def select(self, saliency_gn: Tensor, kept: int, policy: Policy) -> Selection:
        """What stays of a layer, by its saliency."""
        return select(saliency_gn, kept, policy)

    @abstractmethod
    def reduce(self, dense: Dense) -> dict[str, Tensor]:
        """The pruned mixer."""

    def channels(self, selection: Selection, pruned: Weights | None) -> Channels | None:
        """What B and C of the source's mixer go through, to give what the pruned one does; that is there where the form
        `changes` it. None where nothing else computes the same: such a form admits no recovery."""
        return selection

    def proof(self, selection: Selection, pruned: Weights | None) -> Channels | None:
        """The same for `ghost verify`: what was cut is proved by a mask, and not by the code that made the cut."""
        channels = self.channels(selection, pruned)
        return Masked(selection) if channels is selection else channels

    def layout(self, dense: MixerLayout, selections: Sequence[Selection], round_to: int) -> MixerLayout:
        """The layout of every mixer of the pruned model, wide enough for all; by default the state keeps its size."""
        return dense


class Sliced(Form):
    """Channels are cut out. The state is that of the fullest group, rounded up to a multiple of `round_to`."""

    admits = frozenset({"soft", "policy", "recovery"})
    words = Words(
        pruning="hard: dropped channels are cut out",
        described=_chosen("a smaller recurrent state", "channel", "cut out of the weights"),
    )

    def with_soft(self, soft: bool) -> Form:
        return Zeroed() if soft else self

    def reduce(self, dense: Dense) -> dict[str, Tensor]:
        return slice_mixer(dense.layout, dense.weights, dense.selection)[1]

    def layout(self, dense: MixerLayout, selections: Sequence[Selection], round_to: int) -> MixerLayout:
        widest = max(selection.width for selection in selections)
        return replace(dense, d_state=min(-(-widest // round_to) * round_to, dense.d_state))


class Zeroed(Form):
    """Channels are zeroed, and the state keeps its size. The walk goes on without them, which computes the same."""

    admits = frozenset({"policy", "recovery"})
    words = Words(
        pruning="soft: dropped channels are zeroed",
        titled="{pruned} of its state silenced",
        described=_chosen(
            "part of its recurrent state silenced", "channel", "set to zero; no tensor changed its shape"
        ),
        caveat="Dropped channels were only set to zero, to compare with.",
        state_left="all of it",
    )

    def reduce(self, dense: Dense) -> dict[str, Tensor]:
        return zero_mixer(dense.layout, dense.weights, dense.selection)


class Silenced(Zeroed):
    """The state of whole layers is zeroed: those whose saliency is below 1."""

    admits = frozenset({"recovery"})
    ranks_channels = False
    words = replace(
        Zeroed.words,
        ranked="layer",
        pruning="whole layers: their B and C are zeroed, the state keeps its size",
        went="{pruned} of the recurrent state silenced by whole layers",
        caveat="{pruned} of the state is silent, by whole layers; the others keep theirs, and runtimes keep room for "
        "all.",
        state_left="{shares} of whole layers; the folder keeps d_state",
    )

    def select(self, saliency_gn: Tensor, kept: int, policy: Policy) -> Selection:
        return _whole(saliency_gn)


@dataclass(frozen=True)
class Projected(Form):
    """B and C go through a matrix each, to the first directions of another basis."""

    basis: Callable[[Any], tuple[Tensor, Tensor]]
    """From a layer's statistics to the directions of B and of C, (g, n, n) each, in falling order of their saliency."""

    admits = frozenset({"energy", "recovery"})
    changes = turns = carries_code = True
    ranks_channels = False
    words = Words(
        unit="direction",
        ranked="direction",
        pruning="projected: B and C are turned to the balanced basis, dropped directions are cut out",
        described=_chosen("a smaller recurrent state", "direction", "left out of the projections of B and C"),
        computes="with B and C projected",
    )

    def reduce(self, dense: Dense) -> dict[str, Tensor]:
        assert dense.evidence is not None
        B_gnn, C_gnn = self.basis(dense.evidence.statistics)
        kept = dense.selection.width
        return project_mixer(dense.layout, dense.weights, B_gnn[:, :kept], C_gnn[:, :kept])

    def channels(self, selection: Selection, pruned: Weights | None) -> Channels:
        assert pruned is not None
        return Projection(*(pruned[name] for name in PROJECTIONS))

    def layout(self, dense: MixerLayout, selections: Sequence[Selection], round_to: int) -> MixerLayout:
        return dense.projected_to(max(selection.width for selection in selections))


@dataclass(frozen=True)
class Thinned(Form):
    """Single weights of B and C are zeroed, all channels are left, and the state keeps its size."""

    thin: Thin

    changes = True
    ranks_channels = False
    words = Words(
        ranked="weight",
        pruning="unstructured: single weights of B and C are zeroed, the state keeps its size",
        went="{sparsity} of the weights of B and C zeroed",
        titled="{sparsity} of its weights of B and C zeroed",
        described="This is {model} with {titled}, to compare with: the recurrent state is as large as before. Weights "
        "were ranked by {by}.",
        caveat="{method} zeroes single weights, which saves no state: it is here to compare with.",
        state_left="all of it",
    )

    def select(self, saliency_gn: Tensor, kept: int, policy: Policy) -> Selection:
        return _whole(saliency_gn)

    def reduce(self, dense: Dense) -> dict[str, Tensor]:
        found = dense.evidence
        assert found is not None
        return thin_mixer(dense.layout, dense.weights, self.thin, found.inputs(), found.kept, found.where, found.team)

    def channels(self, selection: Selection, pruned: Weights | None) -> None:
        return None
