"""How channels are ranked: one registry of methods, each saying which statistics it needs."""

from ghost.saliency.balanced import smallest_rank
from ghost.saliency.directions import balance_of
from ghost.saliency.gradients import GateGradients, gate_gradients
from ghost.saliency.methods import METHODS, Method, find_method
from ghost.saliency.shedder import Place, modules_to_remove, removals
from ghost.saliency.statistics import LayerStatistics, row_norms
from ghost.saliency.unstructured import thin_mixer

__all__ = [
    "METHODS",
    "GateGradients",
    "LayerStatistics",
    "Method",
    "Place",
    "balance_of",
    "find_method",
    "gate_gradients",
    "modules_to_remove",
    "removals",
    "row_norms",
    "smallest_rank",
    "thin_mixer",
]
