"""What a run found, for people: the summary page and the model card, both made from plain data."""

from ghost.report.card import model_card
from ghost.report.layers import LayerView
from ghost.report.page import render

__all__ = ["LayerView", "model_card", "render"]
