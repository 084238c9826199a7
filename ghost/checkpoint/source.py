"""A model folder opened for reading: config, layout, digest, and tensors layer by layer."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghost.checkpoint.companions import CONFIG, HF_CONFIG, companion_files
from ghost.checkpoint.families import check_biases, mixer_layout, whole_config
from ghost.checkpoint.fields import count, flag
from ghost.checkpoint.files import check_pointers, read_config, read_object
from ghost.checkpoint.hub import download
from ghost.checkpoint.links import check_links
from ghost.checkpoint.names import Names, find_names
from ghost.checkpoint.native import is_native, to_native
from ghost.checkpoint.tensors import AGAIN, TensorFiles, find_tensors
from ghost.errors import CheckpointError
from ghost.mixer import MixerLayout

DEMO = Path(__file__).parent.parent / "demo" / "model"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Checkpoint:
    """One language model with Mamba2 mixers on disk; tensors come in the dtype of the file.

    `raw_config` is config.json as it stands (translated, for native folders), `config` transformers' object of it,
    `names` what the model and the files call its tensors.
    """

    folder: Path
    raw_config: dict[str, Any]
    config: Any
    mixer_layout: MixerLayout
    tensors: TensorFiles
    names: Names

    @property
    def layers(self) -> int:
        """Decoder layers, with a Mamba2 mixer or without."""
        return self.config.num_hidden_layers

    @property
    def mixers(self) -> tuple[int, ...]:
        """The decoder layers that have a Mamba2 mixer."""
        return tuple(self.names.mixers)

    @property
    def native(self) -> bool:
        """Whether its folder is in the state-spaces format; `raw_config` is in transformers' words in any case."""
        return is_native(read_config(self.folder))

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @cached_property
    def digest(self) -> str:
        """sha256 over the names and contents of config, weights and all that is published beside them. CheckpointError
        where a weight is not finite: all are read here, and layers read again and again later are not looked at then.
        """
        self.tensors.check_finite(file for files in self.names.homes.values() for file in files)
        words = [path for name in (CONFIG, HF_CONFIG) if (path := self.folder / name).is_file()]
        return _digest(self.folder, [*words, *self.tensors.files, *self.companions()])

    @property
    def parameters(self) -> int:
        """Elements of all tensors that are the model's own, tied ones counted once."""
        own = {name for files in self.names.homes.values() for name in files} - self.repeated
        return sum(math.prod(self.tensors.shapes[name]) for name in own)

    @cached_property
    def repeated(self) -> set[str]:
        """Tensors of the files that the config ties to others of them, and that are the same to the last bit."""
        homes = self.names.homes
        pairs = [(homes[a][0], homes[b][0]) for a, b in self.names.tied.items() if a in homes and b in homes]
        return {name for name, other in pairs if torch.equal(*self.tensors.load([name, other]).values())}

    def companions(self) -> list[Path]:
        """Tokenizer, generation settings, licence and whatever else travels with the weights as it is."""
        return companion_files(self.folder)

    def mixer(self, layer: int) -> dict[str, Tensor]:
        """The mixer's tensors by their own names (`in_proj.weight`, ...)."""
        names = self.names.mixer(layer)
        loaded = self.tensors.load(names.values())
        return {own: loaded[file] for own, file in names.items()}


def open_checkpoint(model: str | Path) -> Checkpoint:
    """`demo`, a local folder (transformers or native format) or a hub name. CheckpointError with the remedy for
    anything that is not a complete Mamba2 language model; shapes are checked here, before any work."""
    folder = find_folder(model)
    check_links(folder)
    raw = _transformers_words(folder, read_config(folder))
    raw.pop("auto_map", None)  # names code, which is neither run here nor published
    config = whole_config(raw, str(folder / CONFIG))
    config.name_or_path = str(folder)  # as where transformers reads one
    layout, tensors = mixer_layout(config), find_tensors(folder)
    _check_fields(config)
    checkpoint = Checkpoint(folder, raw, config, layout, tensors, model_names(config, tensors, folder))
    check_pointers(checkpoint.companions())
    check_complete(checkpoint)
    return checkpoint


def find_folder(model: str | Path, fetch: Callable[[str], Path] = download) -> Path:
    """The local folder of a model; a hub name is brought into the hub's own cache, whole or as `fetch` does."""
    if str(model) == "demo":
        return DEMO
    folder = Path(os.path.expanduser(model))
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"model {model} is a file; give the folder that holds config.json and the weights")
    if isinstance(model, Path) or str(model).count("/") != 1 or str(model).startswith((".", "/", "~")):
        raise CheckpointError(
            f"model {model}: no such folder; give demo, a local folder, or a hub name such as owner/name"
        )
    return fetch(model)


def _transformers_words(folder: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """config.json as transformers would have it. Of a native one, that is what lies beside it, where something does:
    it has fields that a native config has no words for. CheckpointError where the two don't agree."""
    if not is_native(raw):
        return raw
    config, path = whole_config(raw, str(folder / CONFIG)), folder / HF_CONFIG
    if not path.is_file():
        return json.loads(config.to_json_string())
    beside = read_object(path)
    if to_native(whole_config(beside, str(path))) != to_native(config):
        raise CheckpointError(f"{path} is of another model than {CONFIG} beside it; remove it")
    return beside


def model_names(config: Any, tensors: TensorFiles, where: Path) -> Names:
    """What transformers makes of the config and of the names of the tensors. CheckpointError where it can't."""
    try:
        return find_names(config, tensors.home)
    except Exception as error:
        raise invalid_config(where, config.model_type, error) from None


def check_complete(checkpoint: Checkpoint) -> None:
    """CheckpointError unless the tensors are those of the config, each of its shape; tensors that the model does not
    have may lie beside it, but not among its layers."""
    names, layout, where = checkpoint.names, checkpoint.mixer_layout, checkpoint.folder
    for layer in checkpoint.mixers:
        found = {own: _meta(checkpoint.tensors.shapes[file]) for own, file in names.mixer(layer).items()}
        if found:
            check_biases(checkpoint.config, found, where=f"layer {layer} of {where}")
        layout.check(found, where=f"layer {layer} of {where}")
    checkpoint.tensors.check_floats(file for files in names.homes.values() for file in files)
    mixers = tuple(f"{path}." for path in names.mixers.values())
    for name in names.shapes:
        if not name.startswith(mixers):
            _check_tensor(checkpoint, name)
    for stranger, name in names.foreign.items():
        if name.startswith(f"{names.layers}."):
            raise CheckpointError(
                f"{where}: unexpected tensor {stranger} in a {checkpoint.config.model_type} model of "
                f"{checkpoint.layers} layers; check that config and weights belong together"
            )


def _check_fields(config: Any) -> None:
    """What a whole model's config says besides its mixers' layout."""
    for name in ("num_hidden_layers", "vocab_size", "chunk_size"):
        if hasattr(config, name):
            count(name, getattr(config, name))
    for name in ("tie_word_embeddings", "residual_in_fp32"):
        if hasattr(config, name):
            flag(name, getattr(config, name))


def _check_tensor(checkpoint: Checkpoint, name: str) -> None:
    files = checkpoint.names.homes.get(checkpoint.names.source(name), ())
    if not files:
        untied = " and tie_word_embeddings is false" if name == HEAD else ""
        raise CheckpointError(f"tensor {name} is missing in {checkpoint.folder}{untied}; {AGAIN}")
    found, wanted = checkpoint.tensors.shapes[files[0]], checkpoint.names.shapes[name]
    if len(files) == 1 and len(found) == len(wanted) and found != wanted:  # what is stacked has other shapes
        raise CheckpointError(
            f"{checkpoint.folder}: {name} has shape {found}, but config.json asks for {wanted}; "
            "check that config and weights belong together"
        )


def _meta(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, device="meta")


def invalid_config(where: Path, model_type: str, error: Exception) -> CheckpointError:
    """transformers makes nothing of the config.json in this folder."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return CheckpointError(f"{where / CONFIG} is not a valid {model_type} config ({reason}); {AGAIN}")


def _digest(folder: Path, paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
