"""What is found out about the whole dense model at once, and serves every layer: gradients, or what goes first."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ghost.saliency.gradients import GateGradients, gate_gradients
from ghost.saliency.methods import Method
from ghost.saliency.shedder import Place, modules_to_remove, removals
from ghost.stack import Stack
from ghost.team import Team

Survey = Mapping[int, GateGradients] | Mapping[int, Place]
"""One entry per decoder layer with a mixer, whose `means` adds it to the layer's weight norms."""


def survey(method: Method, stack: Stack, batches: Sequence[Tensor], kept: int, d_state: int, team: Team) -> Survey:
    """For the batches of token ids (b, l) that this process of the team has, and a budget of `kept` of `d_state`
    channels. CheckpointError where the losses overflow."""
    if method.needs == "gradients":
        return gate_gradients(stack, batches, team)
    assert method.needs == "removals", f"{method.name} needs no survey"
    return removals(stack, batches, modules_to_remove(len(stack.mixers), kept, d_state), team)
