"""PyTorch files, read as tensors and nothing else: no code is run, and nothing is larger than the file says."""

import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from ghost.errors import CheckpointError

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES = FLOATS | {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
                   "BOOL": torch.bool}  # fmt: skip
"""Those that are carried along; a model's own tensors are FLOATS."""
AGAIN = "download or copy the checkpoint again"
UNSAFE = "it holds more than tensors"
NAMED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
}
"""What a table of tensors calls by name, beside its storages. torch's own list is longer: with its bytearray and
torch.Tensor, a file of a thousand bytes takes all the memory there is."""
OTHERWISE_NAMED = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


class PickledTensors:
    """A PyTorch file behind the few calls of safetensors' reader that are used here."""

    def __init__(self, path: Path) -> None:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
            raise TypeError("it is no plain table of tensors")
        self._tensors: dict[str, Tensor] = {str(name): tensor for name, tensor in loaded.items()}
        for name, tensor in self._tensors.items():
            if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
                raise ValueError(f"tensor {name} claims more elements than are stored")

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


def open_pickled(path: Path) -> PickledTensors:
    """The tensors of a file of PyTorch 1.6 or newer. CheckpointError where it is no such file, or holds more."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is truncated, damaged, or older than PyTorch 1.6; {AGAIN}, as safetensors")
    try:
        _check_archive(path)
        return PickledTensors(path)
    except Exception as error:
        # torch's own message about unsafe content tells how to load it all the same
        reason = UNSAFE if isinstance(error, UnpicklingError) else str(error).partition("\n")[0]
        raise CheckpointError(f"{path} can't be loaded safely ({reason}); convert it to safetensors") from None


def _check_archive(path: Path) -> None:
    """UnpicklingError or ValueError where unpacking or unpickling could take more memory than the file has bytes."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, as PyTorch never writes it")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries overlap")
        for entry in entries:
            if entry.filename.endswith(".pkl") and any(not _harmless(name) for name in _names(archive.read(entry))):
                raise UnpicklingError(UNSAFE)


def _names(data: bytes) -> Iterator[str]:
    """What a pickle refers to, as `module name`, or as the opcode where that takes it from elsewhere."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            yield str(argument)
        elif opcode.name in OTHERWISE_NAMED:
            yield opcode.name


def _harmless(name: str) -> bool:
    return name in NAMED or (name.startswith("torch ") and name.endswith("Storage"))
