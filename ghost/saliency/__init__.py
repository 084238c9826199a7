"""How channels are ranked: one registry of methods, each saying which statistics it needs."""

from ghost.saliency.balanced import smallest_rank
from ghost.saliency.gradients import GateGradients
from ghost.saliency.methods import METHODS, Method, check_pruning, find_method, form_of, methods_in_words
from ghost.saliency.statistics import LayerStatistics, row_norms
from ghost.saliency.surveys import Survey, survey

__all__ = [
    "METHODS",
    "GateGradients",
    "LayerStatistics",
    "Method",
    "Survey",
    "check_pruning",
    "find_method",
    "form_of",
    "methods_in_words",
    "row_norms",
    "smallest_rank",
    "survey",
]
