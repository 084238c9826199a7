"""How channels are ranked: one registry of methods, each saying which statistics it needs."""

from ghost.saliency.gradients import GateGradients, gate_gradients
from ghost.saliency.methods import METHODS, Method, find_method
from ghost.saliency.statistics import LayerStatistics, row_norms

__all__ = ["METHODS", "GateGradients", "LayerStatistics", "Method", "find_method", "gate_gradients", "row_norms"]
