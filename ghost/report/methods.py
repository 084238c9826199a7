"""What each method does to a model, in words for the summary page and the model card."""

from collections.abc import Mapping
from typing import Any

METHODS = {
    "ghost": "the empirical Hankel singular value of each state channel, measured on the calibration text",
    "ghost-mean": "the mean energy of each state channel times the mean energy of its output side, measured on the "
    "calibration text",
    "ghost-joint": "what the output loses with each state channel when the channels go one by one and the next choice "
    "allows for those that are gone, measured on the calibration text",
    "rrqr": "rank-revealing QR on what each state channel adds to the output, measured on the calibration text",
    "sparsessm": "the mean rank of each state channel over time by SparseSSM's second-order score, measured on the "
    "calibration text",
    "taylor": "the first-order effect of each state channel on the loss, by gradients of the dense model",
    "taylor2": "the second-order effect of each state channel on the loss, by gradients of the dense model",
    "magnitude": "the norms of each state channel's weights, without any data",
    "random": "a seeded random number for each state channel, as a baseline",
    "wanda": "the size of each weight that makes B and C times the norm of its input, measured on the calibration text",
    "sparsegpt": "what zeroing each weight that makes B and C costs after the others have made up for it, measured on "
    "the calibration text",
    "shedder": "the perplexity of the calibration text without the state of each layer, which go one by one",
    "balanced": "the empirical Hankel singular value of each direction of the balanced basis, measured on the "
    "calibration text",
}
UNSTRUCTURED = ("wanda", "sparsegpt")
"""They zero single weights: every channel is left, and the state keeps its size."""
WHOLE_LAYERS = ("shedder",)
"""They silence the state of whole layers; the checkpoint keeps room for it."""
ROTATED = ("balanced",)
"""They turn to another basis first and drop directions of it: number n of a layer is no channel of the dense model."""


def unit(method: str) -> str:
    """What a method keeps and drops: `channel` or `direction`."""
    return "direction" if method in ROTATED else "channel"


def fate(summary: Mapping[str, Any]) -> str:
    """What became of what the method dropped."""
    if summary["method"] in UNSTRUCTURED:
        return "unstructured: single weights of B and C are zeroed, the state keeps its size"
    if summary["method"] in WHOLE_LAYERS:
        return "whole layers: their B and C are zeroed, the state keeps its size"
    if summary["method"] in ROTATED:
        return "projected: B and C are turned to the balanced basis, dropped directions are cut out"
    return "soft: dropped channels are zeroed" if summary["soft"] else "hard: dropped channels are cut out"
