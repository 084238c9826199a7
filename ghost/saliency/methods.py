"""The registry of methods that rank state channels; docs/methods.md says what each one is and needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ghost.errors import SettingsError
from ghost.mixer import MixerInputs
from ghost.saliency.coupling import ghost_joint, measure_coupling, rrqr
from ghost.saliency.directions import balanced, measure_gramians
from ghost.saliency.energy import ghost, ghost_mean, measure_energies
from ghost.saliency.gradients import taylor, taylor2
from ghost.saliency.ranks import measure_ranks, sparsessm
from ghost.saliency.shedder import shedder
from ghost.saliency.statistics import LayerStatistics
from ghost.saliency.unstructured import Thin, every_channel, sparsegpt, wanda
from ghost.saliency.weights import magnitude, random

Measure = Callable[[LayerStatistics, Sequence[MixerInputs], str], LayerStatistics]
Needs = Literal["weights", "layer", "gradients", "removals", "inputs"]
Form = Literal["sliced", "projected", "zeroed", "unstructured"]
"""What becomes of a mixer: channels cut out; B and C projected to fewer directions; channels zeroed, so that the state
keeps its size; or single weights of B and C zeroed, with all channels left."""


@dataclass(frozen=True)
class Method:
    """One way to rank. `score` maps a layer's statistics, its number and the seed to a saliency (g, n), float64.

    `needs` says where its statistics come from: the `weights` alone; the `layer`'s inputs, through `measure` (weight
    norms, inputs by batch and where they are from, for errors); `gradients` or `removals` of the whole dense model,
    one-shot; or the mixer's normed `inputs`, which `thin` reads when the layer is pruned.
    """

    name: str
    needs: Needs
    score: Callable[[LayerStatistics, int, int], Tensor]
    measure: Measure = measure_energies
    form: Form = "sliced"
    thin: Thin | None = None

    @property
    def calibrates(self) -> bool:
        """It reads calibration text."""
        return self.needs != "weights"

    def check(self, settings: Any) -> None:
        """SettingsError where these settings don't go with the method."""
        if self.form != "sliced" and settings.soft:
            raise SettingsError(f"soft: {self.name} cuts no channels out that could be zeroed; leave --soft out")
        if self.form != "sliced" and settings.policy != "balanced":
            raise SettingsError(f"policy: {self.name} does not rank a layer's channels; give --policy balanced")
        if self.form != "projected" and settings.energy is not None:
            raise SettingsError(f"energy: {self.name} ranks channels, not directions; give --sparsity")
        if self.form == "unstructured" and settings.recovery != "none":
            raise SettingsError(f"recovery: {self.name} leaves the state as it is; give --recovery none")


METHODS = {
    method.name: method
    for method in (
        Method("ghost", "layer", ghost),
        Method("ghost-mean", "layer", ghost_mean),
        Method("ghost-joint", "layer", ghost_joint, measure_coupling),
        Method("rrqr", "layer", rrqr, measure_coupling),
        Method("balanced", "layer", balanced, measure_gramians, "projected"),
        Method("sparsessm", "layer", sparsessm, measure_ranks),
        Method("taylor", "gradients", taylor),
        Method("taylor2", "gradients", taylor2),
        Method("shedder", "removals", shedder, form="zeroed"),
        Method("wanda", "inputs", every_channel, form="unstructured", thin=wanda),
        Method("sparsegpt", "inputs", every_channel, form="unstructured", thin=sparsegpt),
        Method("magnitude", "weights", magnitude),
        Method("random", "weights", random),
    )
}


def find_method(name: str) -> Method:
    """The method of that name; SettingsError lists the known ones."""
    if name not in METHODS:
        raise SettingsError(f"method {name!r} is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]
