"""How channels are ranked: one registry of methods, each saying which statistics it needs."""

from ghost.saliency.balanced import smallest_rank
from ghost.saliency.directions import balance_of
from ghost.saliency.gradients import GateGradients
from ghost.saliency.methods import METHODS, Method, find_method
from ghost.saliency.statistics import LayerStatistics, row_norms
from ghost.saliency.surveys import Survey, survey
from ghost.saliency.unstructured import thin_mixer

__all__ = [
    "METHODS",
    "GateGradients",
    "LayerStatistics",
    "Method",
    "Survey",
    "balance_of",
    "find_method",
    "row_norms",
    "smallest_rank",
    "survey",
    "thin_mixer",
]
