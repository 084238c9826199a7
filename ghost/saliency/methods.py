"""The registry of methods that rank state channels; docs/methods.md says what each one is and needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ghost.errors import SettingsError
from ghost.mixer import MixerInputs
from ghost.saliency.coupling import ghost_joint, measure_coupling, rrqr
from ghost.saliency.energy import ghost, ghost_mean, measure_energies
from ghost.saliency.gradients import taylor, taylor2
from ghost.saliency.ranks import measure_ranks, sparsessm
from ghost.saliency.statistics import LayerStatistics
from ghost.saliency.weights import magnitude, random

Measure = Callable[[LayerStatistics, Sequence[MixerInputs], str], LayerStatistics]
Needs = Literal["weights", "layer", "gradients"]


@dataclass(frozen=True)
class Method:
    """One way to rank. `score` maps a layer's statistics, its number and the seed to a saliency (g, n), float64.

    `needs` says where its statistics come from: the `weights` alone; the `layer`'s inputs, through `measure` (weight
    norms, inputs by batch and where they are from, for errors); or `gradients` of the whole dense model, one-shot.
    """

    name: str
    needs: Needs
    score: Callable[[LayerStatistics, int, int], Tensor]
    measure: Measure = measure_energies

    @property
    def calibrates(self) -> bool:
        """It reads calibration text."""
        return self.needs != "weights"


METHODS = {
    method.name: method
    for method in (
        Method("ghost", "layer", ghost),
        Method("ghost-mean", "layer", ghost_mean),
        Method("ghost-joint", "layer", ghost_joint, measure_coupling),
        Method("rrqr", "layer", rrqr, measure_coupling),
        Method("sparsessm", "layer", sparsessm, measure_ranks),
        Method("taylor", "gradients", taylor),
        Method("taylor2", "gradients", taylor2),
        Method("magnitude", "weights", magnitude),
        Method("random", "weights", random),
    )
}


def find_method(name: str) -> Method:
    """The method of that name; SettingsError lists the known ones."""
    if name not in METHODS:
        raise SettingsError(f"method {name!r} is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]
