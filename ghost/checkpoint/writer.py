"""Write a model folder that transformers loads unmodified, one tensor in memory at a time."""

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ghost.checkpoint.tensors import DTYPES

SHARD_BYTES = 5_000_000_000
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Planned(NamedTuple):
    """A tensor that will be written: its name, shape and dtype, and how to get it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class _Place(NamedTuple):
    """Where a tensor's bytes go: the file, and how far into it."""

    path: Path
    start: int


def write_weights(folder: Path, tensors: Iterable[Planned], shard_bytes: int = SHARD_BYTES) -> list[str]:
    """safetensors files with the usual names: one file, or shards of at most `shard_bytes` and their index.

    Wider dtypes come first in a file, as the format's own writer has it, so that every tensor starts aligned; but
    tensors are loaded in the order given, each once, so that what belongs together is read together.
    """
    planned = list(tensors)
    shards = _shards(sorted(planned, key=lambda t: -t.dtype.itemsize), shard_bytes)
    names = _names(len(shards))
    places: dict[str, _Place] = {}
    for name, shard in zip(names, shards, strict=True):
        places |= _write_header(folder / name, shard)
    for t in planned:
        _write_tensor(places[t.name], t)
    if len(shards) == 1:
        return names
    weight_map = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
    index = {"metadata": {"total_size": sum(t.size for t in planned)}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    return [*names, "model.safetensors.index.json"]


def _names(shards: int) -> list[str]:
    if shards == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]


def _shards(tensors: list[Planned], shard_bytes: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.size for t in shards[-1]) + tensor.size > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def _write_header(path: Path, tensors: list[Planned]) -> dict[str, _Place]:
    """Begin a safetensors file; the library's own writer wants all its tensors in memory at once."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for t in tensors:
        header[t.name] = {"dtype": DTYPE_NAMES[t.dtype], "shape": t.shape, "data_offsets": (offset, offset + t.size)}
        offset += t.size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    start = struct.pack("<Q", len(encoded))
    path.write_bytes(start + encoded)
    data = len(start) + len(encoded)
    return {t.name: _Place(path, data + header[t.name]["data_offsets"][0]) for t in tensors}


def _write_tensor(place: _Place, t: Planned) -> None:
    """A gap that a later tensor fills is no place on the disk yet."""
    with place.path.open("r+b") as file:
        file.seek(place.start)
        file.write(t.load().to(t.dtype).contiguous().view(-1).view(torch.uint8).numpy().data)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
