"""How channels are ranked: one registry of methods, each saying which statistics it needs."""

from ghost.saliency.methods import METHODS, Method, find_method
from ghost.saliency.statistics import LayerStatistics, row_norms

__all__ = ["METHODS", "LayerStatistics", "Method", "find_method", "row_norms"]
