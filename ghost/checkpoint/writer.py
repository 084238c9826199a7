"""Write the weights of a model folder that transformers loads unmodified, one tensor in memory at a time."""

import json
import mmap
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ghost.checkpoint.pickled import DTYPES
from ghost.checkpoint.tensors import DTYPE_NAMES

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"


class Planned(NamedTuple):
    """A tensor that will be written: its name, shape and dtype, and how to get it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]
    order: int = -1
    """Tensors with the same are loaded one after the other."""

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class _Place(NamedTuple):
    """Where a tensor's bytes go: the file, and how far into it."""

    path: Path
    start: int


def write_weights(folder: Path, shards: Mapping[str, Sequence[Planned]]) -> None:
    """safetensors files by name, and their index where there is more than the one of the usual name.

    Wider dtypes come first in a file, as the format's own writer has it, so that every tensor starts aligned; but the
    tensors of a layer are loaded one after the other, each once, so that what belongs together is read together.
    """
    places: dict[str, _Place] = {}
    for name, shard in shards.items():
        places |= _write_header(folder / name, sorted(shard, key=lambda t: -t.dtype.itemsize))
    planned = [t for shard in shards.values() for t in shard]
    for t in sorted(planned, key=lambda t: t.order):
        _write_tensor(places[t.name], t)
    if set(shards) != {SINGLE}:
        weight_map = {t.name: name for name, shard in shards.items() for t in shard}
        total = sum(t.size for t in planned)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_pickled(safetensors: Path, path: Path) -> None:
    """The tensors of a safetensors file as a PyTorch file. They are mapped, so that torch copies one after the other
    and none has to fit into memory."""
    with safetensors.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants to be able to write
    (length,) = struct.unpack("<Q", mapped[:8])
    header = json.loads(mapped[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, t in header.items():
        dtype, (start, end) = DTYPES[t["dtype"]], t["data_offsets"]
        flat = torch.frombuffer(mapped, dtype=dtype, count=(end - start) // dtype.itemsize, offset=8 + length + start)
        tensors[name] = flat.view(t["shape"])
    torch.save(tensors, path)


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
