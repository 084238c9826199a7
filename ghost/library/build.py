"""The smaller model as a module: what `export` writes to a folder, made in memory."""

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from ghost.checkpoint.source import EMBEDDINGS, HEAD, Checkpoint, mixer_prefix
from ghost.export import changed_config
from ghost.forms import Dense, Form
from ghost.mixer import MixerLayout, Weights
from ghost.surgery import pad_mixer
from ghost.walk import LayerResult

if TYPE_CHECKING:
    from transformers import Mamba2ForCausalLM


def build(
    source: Checkpoint, layers: Sequence[LayerResult], form: Form, round_to: int, device: torch.device
) -> "Mamba2ForCausalLM":
    """A `Mamba2ForCausalLM` in evaluation mode on `device`, in the source's dtypes; it shares nothing with the source.
    Where the form projects, it is a `GhostMamba2ForCausalLM`.

    Its generation settings are transformers' defaults for the config.
    """
    layout = form.layout(source.mixer_layout, [result.selection for result in layers], round_to)
    with torch.device("meta"):
        model = _model(source, layout)
    state = {name: source.tensor(name).to(device, copy=True) for name in source.others()}
    for result in layers:
        mixer, prefix = pad_mixer(layout, pruned_mixer(source, result, form)), mixer_prefix(result.layer)
        state |= {prefix + name: tensor.to(device, copy=True) for name, tensor in mixer.items()}
    is_tied = HEAD not in state
    model.load_state_dict(state | {HEAD: state[EMBEDDINGS]} if is_tied else state, assign=True)
    if is_tied:
        model.lm_head.weight = model.backbone.embeddings.weight
    return model.eval()


def pruned_mixer(source: Checkpoint, result: LayerResult, form: Form) -> Weights:
    """What the walk made of a layer, as far as it holds it; otherwise cut from the source once more."""
    if result.changed is not None:
        return result.changed
    return form.reduce(Dense(source.mixer_layout, source.mixer(result.layer), result.selection))


def _model(source: Checkpoint, layout: MixerLayout) -> Any:
    """The module with no weights yet."""
    changed = changed_config(source, layout)
    if layout.projected_from:
        from ghost.modeling import GhostMamba2Config, GhostMamba2ForCausalLM

        return GhostMamba2ForCausalLM(GhostMamba2Config(**source.config.to_dict() | changed))
    from transformers import Mamba2ForCausalLM

    config = deepcopy(source.config)
    for name, value in changed.items():
        setattr(config, name, value)
    return Mamba2ForCausalLM(config)
