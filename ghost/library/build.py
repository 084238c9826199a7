"""The smaller model as a module: what `export` writes to a folder, made in memory."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from ghost.checkpoint.source import Checkpoint
from ghost.export import changed_config
from ghost.forms import Dense, Form
from ghost.mixer import MixerLayout, Weights
from ghost.stock import whole_model
from ghost.surgery import pad_mixer
from ghost.walk import LayerResult


def build(source: Checkpoint, layers: Sequence[LayerResult], form: Form, round_to: int, device: torch.device) -> Any:
    """The smaller model in evaluation mode on `device`, in the source's dtypes; it shares nothing with the source.
    Where the form projects, it is a `GhostMamba2ForCausalLM`.

    Its generation settings are transformers' defaults for the config.
    """
    layout = form.layout(source.mixer_layout, [result.selection for result in layers], round_to)
    mixers = {result.layer: pad_mixer(layout, pruned_mixer(source, result, form)) for result in layers}
    return whole_model(source, _config(source, layout), mixers, device)


def pruned_mixer(source: Checkpoint, result: LayerResult, form: Form) -> Weights:
    """What the walk made of a layer, as far as it holds it; otherwise cut from the source once more."""
    if result.changed is not None:
        return result.changed
    return form.reduce(Dense(source.mixer_layout, source.mixer(result.layer), result.selection))


def _config(source: Checkpoint, layout: MixerLayout) -> Any:
    changed = changed_config(source, layout)
    if layout.projected_from:
        from ghost.modeling import GhostMamba2Config

        return GhostMamba2Config(**source.config.to_dict() | changed)
    config = deepcopy(source.config)
    for name, value in changed.items():
        setattr(config, name, value)
    return config
