"""What a checkpoint takes in memory and carries as state, by its headers alone: no tensor is read.

A decoder layer is counted as `ghost.stack` brings it to a device: in the dtype of the computation, experts stacked,
together with what it shares with other layers.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from ghost.checkpoint.source import Checkpoint
from ghost.config import free_bytes
from ghost.errors import SettingsError
from ghost.mixer import RECURRENT, MixerLayout

STATE_ELEMENT_BYTES = 4
"""Runtimes keep the recurrent state in fp32, whatever the weights are."""
GB = 1e9


class Part(NamedTuple):
    """What is in memory at once: a decoder layer, the embeddings, or the head."""

    name: str
    bytes: int
    """On the device."""
    file_bytes: int
    """What is read for it from the files and has to be converted or stacked: it lies beside it for that long, in the
    machine's memory."""


def state_bytes(layout: MixerLayout, mixers: int) -> int:
    """Bytes of one sequence's recurrent state in so many mixers."""
    return mixers * layout.state_elements * STATE_ELEMENT_BYTES


def conv_state_bytes(layout: MixerLayout, mixers: int) -> int:
    """Bytes of what the convolutions of so many mixers keep of one sequence, in the same precision."""
    return mixers * layout.conv_state_elements * STATE_ELEMENT_BYTES


def parameters(checkpoint: Checkpoint) -> int:
    """Elements of all tensors that are the model's own; tied ones count once, as the config has it."""
    names = checkpoint.names
    own = [name for name in names.homes if names.tied.get(name) not in names.homes]
    return sum(math.prod(checkpoint.tensors.shapes[file]) for name in own for file in names.homes[name])


def layers(checkpoint: Checkpoint, dtype: torch.dtype) -> list[Part]:
    """Every decoder layer, in their order."""
    names = checkpoint.names
    within = ((i, names.within(f"{names.layers}.{i}")) for i in range(checkpoint.layers))
    return [_part(f"layer {i}", checkpoint, own, dtype) for i, own in within]


def largest_layer(checkpoint: Checkpoint, dtype: torch.dtype) -> Part:
    """The decoder layer that takes most; of several the first."""
    return max(layers(checkpoint, dtype), key=lambda part: part.bytes)


def embeddings(checkpoint: Checkpoint, dtype: torch.dtype) -> Part:
    """What comes before the decoder layers."""
    return _part("the embeddings", checkpoint, checkpoint.names.outside(embeddings=True), dtype)


def head(checkpoint: Checkpoint, dtype: torch.dtype) -> Part:
    """What comes after the decoder layers; a head that is tied is in memory without the embeddings."""
    return _part("the head", checkpoint, checkpoint.names.outside(embeddings=False), dtype)


def check_memory(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, processes: int = 1) -> None:
    """SettingsError where a part of the model is larger than all that is free on the device for each process: nothing
    could be computed with it. That it fits does not say that what is computed beside it does."""
    parts = largest_layer(checkpoint, dtype), embeddings(checkpoint, dtype), head(checkpoint, dtype)
    largest, free = max(parts, key=lambda part: part.bytes), free_bytes(device)
    sharing = processes if device.type == "cpu" else 1  # of several processes each has a GPU of its own
    if largest.bytes * sharing > free:
        each = f" in each of {sharing} processes" if sharing > 1 else ""
        raise SettingsError(
            f"{largest.name} of {checkpoint.folder} takes {largest.bytes / GB:.3g} GB in {_name(dtype)}{each}, and "
            f"{free / GB:.3g} GB are free on {device}; {_remedy(device, dtype, sharing)}"
        )


def _remedy(device: torch.device, dtype: torch.dtype, sharing: int) -> str:
    fewer = "fewer --processes, " if sharing > 1 else ""
    half = "" if dtype == torch.bfloat16 else "--dtype bfloat16, which takes half of it, "
    other = "--device cpu" if device.type == "cuda" else "another --device"
    return f"give {fewer}{half}{other}, or a machine with more memory"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _part(name: str, checkpoint: Checkpoint, tensors: Iterable[str], dtype: torch.dtype) -> Part:
    names, held, read = checkpoint.names, 0, 0
    for tensor in tensors:
        first, *others = names.homes[names.source(tensor)]
        taken = checkpoint.tensors.dtypes[first] if tensor.endswith(RECURRENT) else dtype  # those keep the file's
        held += math.prod(names.shapes[tensor]) * taken.itemsize
        if others or checkpoint.tensors.dtypes[first] != taken:
            read += sum(_in_files(checkpoint, file) for file in (first, *others))
    return Part(name, held, read)


def _in_files(checkpoint: Checkpoint, file: str) -> int:
    return math.prod(checkpoint.tensors.shapes[file]) * checkpoint.tensors.dtypes[file].itemsize
