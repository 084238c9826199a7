"""The tensors of a model folder, read one at a time; what is not asked for is never in memory."""

import math
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ghost.checkpoint.companions import CONFIG, HF_CONFIG, PROVENANCE, companions
from ghost.checkpoint.files import check_pointers, read_json
from ghost.checkpoint.pickled import AGAIN, DTYPES, FLOATS, open_pickled
from ghost.errors import CheckpointError

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

CHECKED_AT_ONCE = 1 << 22
"""Elements."""
HELD_TO_CHECK = 64 << 20
"""Bytes, or one tensor: opening a pickled file of a 1.3B model takes 35 milliseconds, once a tensor 15 seconds."""


@dataclass(frozen=True)
class TensorFiles:
    """Where every tensor of a folder lies, with its shape and dtype; contents are read by `load`."""

    files: tuple[Path, ...]
    home: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    finite: set[str] = field(default_factory=set, init=False, compare=False, repr=False)
    """Those that were found to be. Reading the whole of a tensor for that takes longer than a GPU computes with it."""

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
            if name not in self.finite and not is_finite(tensor):
                raise CheckpointError(f"tensor {name} in {self.home[name].name} has NaN or infinite values; {AGAIN}")
            self.finite.add(name)
        return loaded

    def check_finite(self, names: Iterable[str]) -> None:
        """CheckpointError for one of these tensors that is not finite; HELD_TO_CHECK of them in memory at a time."""
        group: list[str] = []
        for name in names:
            if group and self._bytes((*group, name)) > HELD_TO_CHECK:
                self.load(group)
                group = []
            group.append(name)
        self.load(group)

    def _bytes(self, names: Iterable[str]) -> int:
        return sum(math.prod(self.shapes[name]) * self.dtypes[name].itemsize for name in names)

    def check_floats(self, names: Iterable[str]) -> None:
        """CheckpointError where one of these tensors, weights of the model, is of integers."""
        for name in names:
            if not self.dtypes[name].is_floating_point:
                _refuse_dtype(DTYPE_NAMES[self.dtypes[name]], name, self.home[name])


def is_finite(tensor: Tensor) -> bool:
    """Without NaN and infinity; in pieces, since torch makes several times the tensor's bytes of the question."""
    return all(bool(torch.isfinite(piece).all()) for piece in tensor.reshape(-1).split(CHECKED_AT_ONCE))


def find_tensors(folder: Path) -> TensorFiles:
    """Look the folder's weights over by their headers: safetensors first, else PyTorch files, safely unpickled."""
    files = _weight_files(folder)
    check_pointers(files)
    home, shapes, dtypes = {}, {}, {}
    for path in files:
        with _reader(path) as reader:
            for name in reader.keys():  # noqa: SIM118 (the reader of safetensors is no dict)
                found = reader.get_slice(name)
                home[name], shapes[name] = path, tuple(found.get_shape())
                dtypes[name] = _dtype(found.get_dtype(), name, path)
    return TensorFiles(files, home, shapes, dtypes)


def model_files(names: Set[str], shards: Callable[[str], Iterable[str]]) -> set[str]:
    """Of the names below a model folder those that are read, or travel with the weights; a second format of the
    weights stays where it is. `shards` gives the names that an index lists."""
    return {CONFIG, HF_CONFIG, PROVENANCE, *_weight_names(names, shards), *companions(names)} & names


def _weight_names(names: Set[str], shards: Callable[[str], Iterable[str]]) -> set[str]:
    for single, index in zip(SINGLE, INDEXED, strict=True):
        if single in names:
            return {single}
        if index in names:
            return {index, *shards(index)}
    return set()


def _dtype(name: str, tensor: str, path: Path) -> torch.dtype:
    if name not in DTYPES:
        _refuse_dtype(name, tensor, path)
    return DTYPES[name]


def _refuse_dtype(name: str, tensor: str, path: Path) -> NoReturn:
    raise CheckpointError(f"tensor {tensor} in {path.name} is {name}; ghost reads {', '.join(FLOATS)} weights only")


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for single, index in zip(SINGLE, INDEXED, strict=True):
        if (folder / single).is_file():
            return (folder / single,)
        if (folder / index).is_file():
            return _shards(folder / index)
    raise CheckpointError(f"{folder} has no weights: neither {SINGLE[0]} (or its index) nor {SINGLE[1]}; {AGAIN}")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not a readable weight index ({error}); {AGAIN}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index} names the shard {name!r}, which is no file beside it; {AGAIN}")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"shard {name} is missing in {index.parent}; {AGAIN}")
    return tuple(index.parent / name for name in names)


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as reader:
                yield reader
        except SafetensorError as error:
            raise CheckpointError(f"{path} is truncated or damaged ({error}); {AGAIN}") from None
    else:
        yield open_pickled(path)
