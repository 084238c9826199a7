"""What is found out about the whole dense model at once, and serves every layer: gradients, or what goes first."""

from collections.abc import Sequence

from torch import Tensor

from ghost.saliency.gradients import GateGradients, Model, gate_gradients
from ghost.saliency.methods import Method
from ghost.saliency.shedder import Place, modules_to_remove, removals

Survey = Sequence[GateGradients] | Sequence[Place]
"""One entry per layer, whose `means` adds it to the layer's weight norms."""


def survey(method: Method, model: Model, batches: Sequence[Tensor], kept: int, d_state: int) -> Survey:
    """For batches of token ids (b, l), and a budget of `kept` of `d_state` channels. CheckpointError where the losses
    overflow."""
    if method.needs == "gradients":
        return gate_gradients(model, batches)
    assert method.needs == "removals", f"{method.name} needs no survey"
    return removals(model, batches, modules_to_remove(model.layers, kept, d_state))
