"""A model opened for `ghost fits`: from its config.json, and from the headers of its weights where those are there."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ghost.checkpoint.companions import CONFIG
from ghost.checkpoint.families import mixer_layout, whole_config
from ghost.checkpoint.files import read_config
from ghost.checkpoint.names import Names, find_names
from ghost.checkpoint.sizes import parameters
from ghost.checkpoint.source import invalid_config, open_checkpoint
from ghost.checkpoint.tensors import INDEXED, SINGLE
from ghost.errors import SettingsError
from ghost.serving.sequence import Model, model_of

HALF = ("bfloat16", "float16")


class Opened(NamedTuple):
    """A model, and what else is said of it."""

    model: Model
    config: Any
    layers: int
    counted: bool
    """Its weights were counted in the headers of its files; otherwise they are reckoned from the config."""


def open_model(folder: Path) -> Opened:
    """The model of a folder that holds config.json, with weights or without. CheckpointError for one that `ghost run`
    would refuse."""
    if any((folder / name).exists() for name in (*SINGLE, *INDEXED)):
        source = open_checkpoint(folder)
        model = model_of(source.config, source.mixer_layout, source.names)
        return Opened(replace(model, elements=parameters(source)), source.config, source.layers, True)
    config = whole_config(read_config(folder), str(folder / CONFIG))
    layout = mixer_layout(config)
    return Opened(model_of(config, layout, _names(config, folder)), config, config.num_hidden_layers, False)


def _names(config: Any, folder: Path) -> Names:
    try:
        return find_names(config, ())
    except Exception as error:  # transformers builds what the config says
        raise invalid_config(folder, config.model_type, error) from None


def serving_dtype(asked: str, config: Any) -> torch.dtype:
    """The precision that a server computes in: `auto` is the config's own where that is a half precision, and bfloat16
    for float32 or none, as vLLM has it (vllm/config/model.py, _resolve_auto_dtype). SettingsError for an unknown one.
    """
    if asked == "auto":
        own = str(getattr(config, "dtype", None)).removeprefix("torch.")
        return getattr(torch, own if own in HALF else HALF[0])
    if asked not in (*HALF, "float32"):
        raise SettingsError(f"dtype: {asked!r} is no precision to serve in; give auto, bfloat16, float16 or float32")
    return getattr(torch, asked)
