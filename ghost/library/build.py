"""The smaller model as a module: what `export` writes to a folder, made in memory."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ghost.checkpoint.families import family_of
from ghost.checkpoint.source import EMBEDDINGS, HEAD, Checkpoint, mixer_prefix
from ghost.config import RunSettings
from ghost.export import LOAD_AS_STORED
from ghost.selection import Selection
from ghost.surgery import pad_mixer, slice_mixer, zero_mixer
from ghost.walk import LayerResult

if TYPE_CHECKING:
    from transformers import Mamba2ForCausalLM


def build(
    source: Checkpoint, layers: Sequence[LayerResult], settings: RunSettings, device: torch.device
) -> "Mamba2ForCausalLM":
    """A `Mamba2ForCausalLM` in evaluation mode on `device`, in the source's dtypes; it shares nothing with the source.

    Its generation settings are transformers' defaults for the config.
    """
    from transformers import Mamba2ForCausalLM

    d_state = state_size(source, [result.selection for result in layers], settings)
    with torch.device("meta"):
        model: Any = Mamba2ForCausalLM(_config(source, d_state))
    state = {name: source.tensor(name).to(device, copy=True) for name in source.others()}
    for result in layers:
        mixer, prefix = _mixer(source, result, d_state, soft=settings.soft), mixer_prefix(result.layer)
        state |= {prefix + name: tensor.to(device, copy=True) for name, tensor in mixer.items()}
    is_tied = HEAD not in state
    model.load_state_dict(state | {HEAD: state[EMBEDDINGS]} if is_tied else state, assign=True)
    if is_tied:
        model.lm_head.weight = model.backbone.embeddings.weight
    return model.eval()


def state_size(source: Checkpoint, selections: Sequence[Selection], settings: RunSettings) -> int:
    """State size of the whole model: that of its fullest group, rounded up to `round_to`; as it was where soft."""
    d_state, multiple = source.mixer_layout.d_state, settings.round_to
    widest = max(selection.width for selection in selections)
    return d_state if settings.soft else min(-(-widest // multiple) * multiple, d_state)


def _mixer(source: Checkpoint, result: LayerResult, d_state: int, *, soft: bool) -> dict[str, Tensor]:
    layout = source.mixer_layout
    if soft:
        return zero_mixer(layout, source.mixer(result.layer), result.selection)
    recovered = result.recovered
    sliced = recovered.mixer if recovered else slice_mixer(layout, source.mixer(result.layer), result.selection)[1]
    return pad_mixer(replace(layout, d_state=d_state), sliced)


def _config(source: Checkpoint, d_state: int) -> Any:
    config = deepcopy(source.config)
    for name, value in ({family_of(config).state_size_field: d_state} | LOAD_AS_STORED).items():
        setattr(config, name, value)
    return config
