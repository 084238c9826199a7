"""The tensors of a model folder, read one at a time; what is not asked for is never in memory."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ghost.errors import CheckpointError

SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
AGAIN = "download or copy the checkpoint again"


@dataclass(frozen=True)
class TensorFiles:
    """Where every tensor of a folder lies, with its shape and dtype; contents are read by `load`."""

    files: tuple[Path, ...]
    home: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by name, in the dtype of the file. CheckpointError for one that is missing or not finite.

        The files are opened anew for each call, so that pages of earlier layers don't stay in resident memory.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            if name not in self.home:
                raise CheckpointError(f"tensor {name} is missing in {self.files[0].parent}; {AGAIN}")
            by_file.setdefault(self.home[name], []).append(name)
        loaded = {}
        for path, group in by_file.items():
            with _reader(path) as reader:
                loaded |= {name: reader.get_tensor(name) for name in group}
        for name, tensor in loaded.items():
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"tensor {name} in {self.home[name].name} has NaN or infinite values; {AGAIN}")
        return loaded


def find_tensors(folder: Path) -> TensorFiles:
    """Look the folder's weights over by their headers: safetensors first, else PyTorch files, safely unpickled."""
    files = _weight_files(folder)
    home, shapes, dtypes = {}, {}, {}
    for path in files:
        with _reader(path) as reader:
            for name in reader.keys():  # noqa: SIM118 (the reader of safetensors is no dict)
                found = reader.get_slice(name)
                home[name], shapes[name] = path, tuple(found.get_shape())
                dtypes[name] = _dtype(found.get_dtype(), name, path)
    return TensorFiles(files, home, shapes, dtypes)


def _dtype(name: str, tensor: str, path: Path) -> torch.dtype:
    if name not in DTYPES:
        raise CheckpointError(f"tensor {tensor} in {path.name} is {name}; ghost reads {', '.join(DTYPES)} weights only")
    return DTYPES[name]


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for single, index in zip(SINGLE, INDEXED, strict=True):
        if (folder / single).is_file():
            return (folder / single,)
        if (folder / index).is_file():
            return _shards(folder / index)
    raise CheckpointError(f"{folder} has no weights: neither {SINGLE[0]} (or its index) nor {SINGLE[1]}; {AGAIN}")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not a readable weight index ({error}); {AGAIN}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index} names the shard {name!r}, which is no file beside it; {AGAIN}")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"shard {name} is missing in {index.parent}; {AGAIN}")
    return tuple(index.parent / name for name in names)


class _PickledTensors:
    """A PyTorch file behind the few calls of safetensors' reader that are used here."""

    def __init__(self, path: Path) -> None:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
            raise TypeError("it is no plain table of tensors")
        self._tensors: dict[str, Tensor] = {str(name): tensor for name, tensor in loaded.items()}

    def keys(self) -> Iterable[str]:
        return self._tensors.keys()

    def get_tensor(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def get_slice(self, name: str) -> "_Header":
        return _Header(self._tensors[name])


@dataclass(frozen=True, eq=False)
class _Header:
    tensor: Tensor

    def get_shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def get_dtype(self) -> str:
        return next((name for name, dtype in DTYPES.items() if dtype == self.tensor.dtype), str(self.tensor.dtype))


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as reader:
                yield reader
        except SafetensorError as error:
            raise CheckpointError(f"{path} is truncated or damaged ({error}); {AGAIN}") from None
    else:
        yield _pickled(path)


def _pickled(path: Path) -> _PickledTensors:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is truncated, damaged, or older than PyTorch 1.6; {AGAIN}, as safetensors")
    try:
        return _PickledTensors(path)
    except Exception as error:
        # torch's own message about unsafe content tells how to load it all the same
        reason = "it holds more than tensors" if isinstance(error, UnpicklingError) else str(error).partition("\n")[0]
        raise CheckpointError(f"{path} can't be loaded safely ({reason}); convert it to safetensors") from None
