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


def write_weights(folder: Path, tensors: Iterable[Planned], shard_bytes: int = SHARD_BYTES) -> list[str]:
    """safetensors files with the usual names: one file, or shards of at most `shard_bytes` and their index.

    Wider dtypes come first, as the format's own writer has it, so that every tensor starts aligned.
    """
    shards = _shards(sorted(tensors, key=lambda t: -t.dtype.itemsize), shard_bytes)
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", shards[0])
        return ["model.safetensors"]
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard)
    weight_map = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
    index = {"metadata": {"total_size": sum(t.size for s in shards for t in s)}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    return [*names, "model.safetensors.index.json"]


def _shards(tensors: list[Planned], shard_bytes: int) -> list[list[Planned]]:
    shards: list[list[Planned]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.size for t in shards[-1]) + tensor.size > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def write_safetensors(path: Path, tensors: list[Planned]) -> None:
    """One safetensors file, streamed: the library's own writer wants all its tensors in memory at once."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for t in tensors:
        header[t.name] = {"dtype": DTYPE_NAMES[t.dtype], "shape": t.shape, "data_offsets": (offset, offset + t.size)}
        offset += t.size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for t in tensors:
            file.write(t.load().to(t.dtype).contiguous().view(-1).view(torch.uint8).numpy().data)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
