"""A model in memory, read as a model folder is: the same names, checks and tensors, and nothing written anywhere."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghost.checkpoint.families import check_mixers, mixer_layout
from ghost.checkpoint.pickled import FLOATS
from ghost.checkpoint.source import Checkpoint, check_complete, model_names
from ghost.checkpoint.tensors import TensorFiles, is_finite
from ghost.errors import CheckpointError

PLACE = Path("the model in memory")
"""Stands in messages where a folder's path would."""


@dataclass(frozen=True)
class LiveTensors(TensorFiles):
    """A module's tensors behind the calls of `TensorFiles`: what is asked for comes to the CPU, nothing else."""

    live: Mapping[str, Tensor]

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by name, in the module's dtype; on the CPU already, they are the module's own: don't write to them.
        CheckpointError for one that is not finite."""
        loaded = {name: self.live[name].cpu() for name in names}
        for name, tensor in loaded.items():
            if not is_finite(tensor):
                raise CheckpointError(f"tensor {name} in {PLACE} has NaN or infinite values; load the model again")
        return loaded

    def check_floats(self, names: Iterable[str]) -> None:
        """CheckpointError where one of these tensors is quantized."""
        for name in names:
            if self.dtypes[name] not in FLOATS.values():
                raise CheckpointError(
                    f"tensor {name} of the model is {self.dtypes[name]}; ghost reads {', '.join(FLOATS)} weights only, "
                    "load it unquantized"
                )


@dataclass(frozen=True)
class LiveCheckpoint(Checkpoint):
    """A module in place of a folder. It sees the module's tensors as they are when they are asked for."""

    @cached_property
    def digest(self) -> str:
        """sha256 over config and tensors: names, dtypes, shapes and contents. No folder has the same."""
        total = hashlib.sha256(json.dumps(self.raw_config, sort_keys=True).encode())
        for name in sorted(self.tensors.shapes):
            total.update(f"{name} {self.tensors.dtypes[name]} {self.tensors.shapes[name]}\n".encode())
            tensor = self.tensors.load([name])[name]
            total.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()

    def companions(self) -> list[Path]:
        """A module has no files."""
        return []


def in_memory(model: Any) -> LiveCheckpoint:
    """A model with Mamba2 mixers on any device, opened for reading. CheckpointError with the remedy for anything
    else."""
    if not hasattr(model, "state_dict") or not hasattr(model, "base_model") or not hasattr(model, "lm_head"):
        raise CheckpointError(
            f"model is a {type(model).__name__}; give a causal language model of transformers, a folder or a hub name"
        )
    config, tensors = deepcopy(model.config), _live(model.state_dict())
    raw = json.loads(config.to_json_string()) | {"architectures": [type(model).__name__], "dtype": _dtype_name(model)}
    layout = mixer_layout(config)
    check_mixers(config, PLACE)
    checkpoint = LiveCheckpoint(PLACE, raw, config, layout, tensors, model_names(config, tensors, PLACE))
    check_complete(checkpoint)
    return checkpoint


def _dtype_name(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _live(state: Mapping[str, Tensor]) -> LiveTensors:
    for name, tensor in state.items():
        if tensor.is_meta:
            raise CheckpointError(f"tensor {name} of the model is on device meta; load the model whole, not offloaded")
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    dtypes = {name: tensor.dtype for name, tensor in state.items()}
    return LiveTensors((), dict.fromkeys(state, PLACE), shapes, dtypes, state)
