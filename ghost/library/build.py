"""The smaller model as a module: what `export` writes to a folder, made in memory."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ghost.checkpoint.source import EMBEDDINGS, HEAD, Checkpoint, mixer_prefix
from ghost.export import changed_config
from ghost.mixer import MixerLayout
from ghost.pruning import Pruning
from ghost.saliency import find_method
from ghost.selection import Selection
from ghost.surgery import pad_mixer, slice_mixer, zero_mixer
from ghost.walk import LayerResult

if TYPE_CHECKING:
    from transformers import Mamba2ForCausalLM


def build(
    source: Checkpoint, layers: Sequence[LayerResult], settings: Pruning, device: torch.device
) -> "Mamba2ForCausalLM":
    """A `Mamba2ForCausalLM` in evaluation mode on `device`, in the source's dtypes; it shares nothing with the source.
    Where the method projects, it is a `GhostMamba2ForCausalLM`.

    Its generation settings are transformers' defaults for the config.
    """
    layout = pruned_layout(source, [result.selection for result in layers], settings)
    zeroed = settings.soft or find_method(settings.method).form == "zeroed"
    with torch.device("meta"):
        model = _model(source, layout)
    state = {name: source.tensor(name).to(device, copy=True) for name in source.others()}
    for result in layers:
        mixer, prefix = _mixer(source, result, layout, zeroed=zeroed), mixer_prefix(result.layer)
        state |= {prefix + name: tensor.to(device, copy=True) for name, tensor in mixer.items()}
    is_tied = HEAD not in state
    model.load_state_dict(state | {HEAD: state[EMBEDDINGS]} if is_tied else state, assign=True)
    if is_tied:
        model.lm_head.weight = model.backbone.embeddings.weight
    return model.eval()


def pruned_layout(source: Checkpoint, selections: Sequence[Selection], settings: Pruning) -> MixerLayout:
    """The layout of every mixer of the pruned model. Its state is that of the fullest group, rounded up to `round_to`;
    as it was where channels, or single weights, are only zeroed."""
    layout, form = source.mixer_layout, find_method(settings.method).form
    widest = max(selection.width for selection in selections)
    if form == "projected":
        return layout.projected_to(widest)
    if settings.soft or form != "sliced":
        return layout
    return replace(layout, d_state=min(-(-widest // settings.round_to) * settings.round_to, layout.d_state))


def _mixer(source: Checkpoint, result: LayerResult, layout: MixerLayout, *, zeroed: bool) -> dict[str, Tensor]:
    if result.changed is not None:
        return pad_mixer(layout, result.changed)
    dense = source.mixer(result.layer)
    if zeroed:
        return zero_mixer(source.mixer_layout, dense, result.selection)
    return pad_mixer(layout, slice_mixer(source.mixer_layout, dense, result.selection)[1])


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
