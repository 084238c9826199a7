"""The registry of methods that rank state channels; docs/methods.md says what each one is and needs."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from ghost.errors import SettingsError
from ghost.forms import Form, Projected, Silenced, Sliced, Thinned
from ghost.mixer import MixerInputs
from ghost.saliency.coupling import ghost_joint, measure_coupling, rrqr
from ghost.saliency.directions import balanced, directions, measure_gramians
from ghost.saliency.energy import ghost, ghost_mean, measure_energies
from ghost.saliency.gradients import taylor, taylor2
from ghost.saliency.ranks import measure_ranks, sparsessm
from ghost.saliency.shedder import shedder
from ghost.saliency.statistics import LayerStatistics
from ghost.saliency.unstructured import every_channel, sparsegpt, wanda
from ghost.saliency.weights import magnitude, random
from ghost.team import Team

Measure = Callable[[LayerStatistics, Iterable[MixerInputs], str, Team], LayerStatistics]
Needs = Literal["weights", "layer", "gradients", "removals", "inputs"]
PLAIN: dict[str, tuple[Any, str]] = {
    "soft": (False, "cuts no channels out that could be zeroed; leave --soft out"),
    "policy": ("balanced", "does not rank a layer's channels; give --policy balanced"),
    "energy": (None, "ranks channels, not directions; give --sparsity"),
    "recovery": ("none", "leaves the state as it is; give --recovery none"),
}
"""Settings that not every form admits: the value that asks for nothing, and what is said of methods that admit no
other."""
MEASURED = "measured on the calibration text"


class Asked(Protocol):
    """What `check_pruning` looks at in a run's settings."""

    @property
    def method(self) -> str: ...
    @property
    def soft(self) -> bool: ...
    @property
    def policy(self) -> str: ...
    @property
    def energy(self) -> float | None: ...
    @property
    def recovery(self) -> str: ...


@dataclass(frozen=True)
class Method:
    """One way to rank. `score` maps a layer's statistics, its number and the seed to a saliency (g, n), float64.

    `needs` says where its statistics come from: the `weights` alone; the `layer`'s inputs, through `measure` (weight
    norms, inputs by batch, where they are from, for errors, and the processes that have them); `gradients` or
    `removals` of the whole dense model, one-shot; or nothing but the mixer's normed `inputs`, which its form reads when
    the layer is pruned. `form` is what becomes of a mixer, and `words` say in a line what it ranks by.
    """

    name: str
    needs: Needs
    score: Callable[[LayerStatistics, int, int], Tensor]
    words: str
    measure: Measure = measure_energies
    form: Form = field(default_factory=Sliced)
    draws: bool = False
    """Its saliency is drawn, by the seed."""

    @property
    def calibrates(self) -> bool:
        """It reads calibration text."""
        return self.needs != "weights"

    @property
    def seeded(self) -> bool:
        """Another seed, of which calibration windows are drawn too, gives another selection."""
        return self.calibrates or self.draws


METHODS = {
    method.name: method
    for method in (
        Method("ghost", "layer", ghost, f"the empirical Hankel singular value of each state channel, {MEASURED}"),
        Method("ghost-mean", "layer", ghost_mean,
               f"the mean energy of each state channel times the mean energy of its output side, {MEASURED}"),
        Method("ghost-joint", "layer", ghost_joint,
               "what the output loses with each state channel when the channels go one by one and the next choice "
               f"allows for those that are gone, {MEASURED}", measure_coupling),
        Method("rrqr", "layer", rrqr,
               f"rank-revealing QR on what each state channel adds to the output, {MEASURED}", measure_coupling),
        Method("balanced", "layer", balanced,
               f"the empirical Hankel singular value of each direction of the balanced basis, {MEASURED}",
               measure_gramians, Projected(directions)),
        Method("sparsessm", "layer", sparsessm,
               f"the mean rank of each state channel over time by SparseSSM's second-order score, {MEASURED}",
               measure_ranks),
        Method("taylor", "gradients", taylor,
               "the first-order effect of each state channel on the loss, by gradients of the dense model"),
        Method("taylor2", "gradients", taylor2,
               "the second-order effect of each state channel on the loss, by gradients of the dense model"),
        Method("shedder", "removals", shedder,
               "the perplexity of the calibration text without the state of each layer, which go one by one",
               form=Silenced()),
        Method("wanda", "inputs", every_channel,
               f"the size of each weight that makes B and C times the norm of its input, {MEASURED}",
               form=Thinned(wanda)),
        Method("sparsegpt", "inputs", every_channel,
               f"what zeroing each weight that makes B and C costs after the others have made up for it, {MEASURED}",
               form=Thinned(sparsegpt)),
        Method("magnitude", "weights", magnitude, "the norms of each state channel's weights, without any data"),
        Method("random", "weights", random, "a seeded random number for each state channel, as a baseline",
               draws=True),
    )
}  # fmt: skip


def find_method(name: str) -> Method:
    """The method of that name; SettingsError lists the known ones."""
    if name not in METHODS:
        raise SettingsError(f"method {name!r} is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def form_of(method: str, *, soft: bool) -> Form:
    """What becomes of the mixers of a run with this method. SettingsError where there is no such method."""
    return find_method(method).form.with_soft(soft)


def check_pruning(asked: Asked) -> None:
    """SettingsError where a run's settings don't go with its method, or there is no such method. Needs no model."""
    method = find_method(asked.method)
    for name, (plain, why) in PLAIN.items():
        if name not in method.form.admits and getattr(asked, name) != plain:
            raise SettingsError(f"{name}: {method.name} {why}")


def methods_in_words() -> str:
    """The names of all methods, by what they rank: one line of help."""
    ranked: dict[str, list[str]] = {}
    for method in METHODS.values():
        ranked.setdefault(method.form.words.ranked, []).append(method.name)
    return "; ".join(f"{unit}s by {', '.join(names)}" for unit, names in ranked.items())
