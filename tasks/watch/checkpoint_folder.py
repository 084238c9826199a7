"""One folder that may hold a checkpoint, looked over without downloading it: whose it is, of what kind, and whether it
is all there. What is read is small, and no size that a file claims is believed."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from artifacts.digest import parse_object
from artifacts.folders import MANIFEST, Entry
from ghost.checkpoint.companions import CONFIG, companions
from ghost.checkpoint.families import mixer_layout, whole_config
from ghost.checkpoint.tensors import INDEXED, SINGLE
from ghost.errors import CheckpointError
from ghost.export import PROVENANCE

CONFIG_BYTES = 4 << 20
HEADER_BYTES = 100_000_000
"""The largest header that safetensors itself reads, and more than any index of shards."""
ZIP_END, ZIP_END_BYTES = b"PK\x05\x06", 65_557
"""A PyTorch file is a zip archive, which ends in this mark and a comment of at most 64 KiB."""
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

Read = Callable[[str, int, int | None], bytes]


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder with a config.json, by the names of the files directly in it and of what travels with them."""

    path: str
    """Below the source; '' for the source itself."""
    model: str
    """What a run takes as its model."""
    kind: Literal["local", "s3", "hub"]
    files: Mapping[str, Entry]
    read: Read = field(compare=False)
    commit: str = ""
    """Of a model on the hub."""

    def check(self, families: Collection[str], *, own_tokenizer: bool) -> list[str]:
        """The names of config, weights and what travels with them, where all is there, whole, and of one of the
        families; else CheckpointError.

        `own_tokenizer` asks for a tokenizer beside the weights.
        """
        if not {MANIFEST, PROVENANCE}.isdisjoint(self.files):
            raise CheckpointError("made by ghost itself")
        config = whole_config(self._object(CONFIG, CONFIG_BYTES))
        if config.model_type not in families:
            raise CheckpointError(f"of the family {config.model_type}; the recipe takes {', '.join(families)}")
        mixer_layout(config)
        weights = self._weights()
        if own_tokenizer and not any(name in self.files for name in TOKENIZER):
            raise CheckpointError("has no tokenizer yet; add its files, or give settings.tokenizer in the recipe")
        return sorted({CONFIG, *weights, *companions(self.files)})

    def _weights(self) -> list[str]:
        """The weight files that `open_checkpoint` would take, and their index, each of them whole."""
        for single, index in zip(SINGLE, INDEXED, strict=True):
            if single in self.files:
                return self._whole([single])
            if index in self.files:
                return [index, *self._whole(_shards(self._object(index, HEADER_BYTES), index))]
        raise CheckpointError(f"incomplete: neither {SINGLE[0]} (or its index) nor {SINGLE[1]} is there")

    def _whole(self, names: list[str]) -> list[str]:
        absent = [name for name in names if name not in self.files]
        if absent:
            raise CheckpointError(f"incomplete: {len(absent)} of {len(names)} shards missing, such as {absent[0]}")
        for name in names if self.kind != "hub" else ():  # the hub takes no file whose hash is not as announced
            whole = self._whole_safetensors(name) if name.endswith(".safetensors") else self._whole_zip(name)
            if not whole:
                raise CheckpointError(f"incomplete: {name} has {self.files[name].size:,} bytes, not as many as it says")
        return names

    def _whole_safetensors(self, name: str) -> bool:
        """Whether the file is exactly as long as its header says, as safetensors wants it."""
        size = self.files[name].size
        length = int.from_bytes(self.read(name, 0, 8), "little") if size >= 8 else size
        if length > HEADER_BYTES:
            raise CheckpointError(f"{name} claims a header of {length:,} bytes; copy the file again")
        if size < 8 + length:
            return False
        return size == 8 + length + _data_bytes(self.read(name, 8, length), name)

    def _whole_zip(self, name: str) -> bool:
        size = self.files[name].size
        start = max(0, size - ZIP_END_BYTES)
        return ZIP_END in self.read(name, start, size - start)

    def _object(self, name: str, limit: int) -> dict[str, Any]:
        if (size := self.files[name].size) > limit:
            raise CheckpointError(f"{name} has {size:,} bytes, more than any; copy the file again")
        if (found := parse_object(self.read(name, 0, limit))) is None:
            raise CheckpointError(f"{name} is no JSON object; copy the file again")
        return found


def _shards(index: dict[str, Any], name: str) -> list[str]:
    listed = index.get("weight_map")
    shards = set(listed.values()) if isinstance(listed, dict) and _are_names(listed.values()) else set()
    if not shards:
        raise CheckpointError(f"{name} lists no shards beside it; copy the file again")
    return sorted(shards)


def _are_names(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) and "/" not in value and "\\" not in value for value in values)


def _data_bytes(header: bytes, name: str) -> int:
    """Where the last tensor ends, from the start of the data."""
    try:
        tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
        return max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        raise CheckpointError(f"{name} has no readable header; copy the file again") from None
