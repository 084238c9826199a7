"""What a run with default settings would do with a model, by config and headers: no weight is read."""

from collections import Counter
from typing import Any

import torch

from ghost.calibration.tokens import load_tokenizer
from ghost.checkpoint.families import layer_kinds
from ghost.checkpoint.sizes import (
    check_memory,
    conv_state_bytes,
    embeddings,
    head,
    largest_layer,
    parameters,
    state_bytes,
)
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.config import DTYPES, free_bytes, resolve_device, resolve_dtype
from ghost.errors import GhostError, SettingsError
from ghost.pruning import Pruning
from ghost.saliency import METHODS
from ghost.settings import RunSettings
from ghost.walk import check_source
from tasks.doctor.estimate import memory, times
from tasks.staging import local
from tasks.wording import display_name


def examine_model(model: str) -> dict[str, Any]:
    """Plain values about `demo`, a folder, s3://bucket/prefix or a hub name; sizes are in bytes. Raises the GhostError
    that `ghost run` would raise for the model."""
    settings = RunSettings.make(model=model)
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    source = open_checkpoint(local(model, "model"))
    check_source(source, settings)
    return {
        "model": display_name(model),
        **_shape(source),
        **_state(source, settings),
        "parameters": parameters(source),
        **_parts(source),
        **_cost(source, settings, device, dtype),
        "methods": {name: _refusal(source, name) for name in METHODS},
        "tokenizer": _tokenizer(source),
    }


def _shape(source: Checkpoint) -> dict[str, Any]:
    layout = source.mixer_layout
    dtypes = Counter(str(dtype).removeprefix("torch.") for dtype in source.tensors.dtypes.values())
    return {
        "family": source.config.model_type,
        "dtypes": [name for name, _ in dtypes.most_common()],
        "layers": source.layers,
        "layer_kinds": layer_kinds(source.config),
        "mixers": len(source.mixers),
        "d_model": layout.d_model,
        "d_state": layout.d_state,
        "n_groups": layout.n_groups,
        "nheads": layout.nheads,
        "headdim": layout.headdim,
    }


def _state(source: Checkpoint, settings: RunSettings) -> dict[str, Any]:
    """Of one sequence, as it is and as a default run would leave it."""
    layout, mixers = source.mixer_layout, len(source.mixers)
    smaller = settings.layout(layout)
    assert smaller is not None
    layouts = {"dense": layout, "pruned": smaller}
    return {
        "sparsity": settings.sparsity,
        "pruned_d_state": smaller.d_state,
        "state_bytes": {name: state_bytes(each, mixers) for name, each in layouts.items()},
        "conv_state_bytes": {name: conv_state_bytes(each, mixers) for name, each in layouts.items()},
    }


def _parts(source: Checkpoint) -> dict[str, Any]:
    """Bytes on the device of what is there at once, by the dtype of the computation."""
    largest = {name: largest_layer(source, dtype) for name, dtype in DTYPES.items()}
    return {
        "largest_layer": largest["float32"].name,
        "largest_layer_bytes": {name: part.bytes for name, part in largest.items()},
        "embedding_bytes": {name: embeddings(source, dtype).bytes for name, dtype in DTYPES.items()},
        "head_bytes": {name: head(source, dtype).bytes for name, dtype in DTYPES.items()},
    }


def _cost(source: Checkpoint, settings: RunSettings, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What a run would take on this machine as it is now; the time only where it could be tried."""
    told = {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "calibration_tokens": settings.samples * settings.length,
        "free_bytes": free_bytes(device),
        "memory_bytes": memory(source, settings, device, dtype),
    }
    try:
        check_memory(source, device, dtype, settings.processes)
    except SettingsError as error:
        return told | {"refused": str(error)}
    return told | times(source, settings, device, dtype)


def _refusal(source: Checkpoint, method: str) -> str:
    """Why this method can't be had of the model; empty where it can."""
    try:
        check_source(source, Pruning.make(method=method))
    except GhostError as error:
        return str(error)
    return ""


def _tokenizer(source: Checkpoint) -> str:
    """What is wrong with the folder's own; empty where it serves."""
    try:
        load_tokenizer(source.folder)
    except GhostError as error:
        return str(error)
    return ""
