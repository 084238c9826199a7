"""What runs found, for people: the summary page, the model card and the page of several runs, made from plain data."""

from ghost.report.card import model_card
from ghost.report.comparison_page import render_comparison
from ghost.report.layers import LayerView
from ghost.report.overlap import ComparedRun, overlaps
from ghost.report.page import render
from ghost.report.proxy_gap import ProxyGap, proxy_gap

__all__ = [
    "ComparedRun",
    "LayerView",
    "ProxyGap",
    "model_card",
    "overlaps",
    "proxy_gap",
    "render",
    "render_comparison",
]
