"""A model folder opened for reading: config, layout, digest, and tensors layer by layer."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghost.checkpoint.companions import CONFIG, companion_files
from ghost.checkpoint.families import PROJECTED, check_biases, check_whole_model, mixer_layout
from ghost.checkpoint.fields import count, flag
from ghost.checkpoint.files import check_pointers, read_config
from ghost.checkpoint.hub import download
from ghost.checkpoint.links import check_links
from ghost.checkpoint.native import is_native, to_transformers
from ghost.checkpoint.tensors import AGAIN, TensorFiles, find_tensors
from ghost.errors import CheckpointError
from ghost.mixer import MixerLayout

DEMO = Path(__file__).parent.parent / "demo" / "model"
EMBEDDINGS, FINAL_NORM, HEAD = "backbone.embeddings.weight", "backbone.norm_f.weight", "lm_head.weight"
NATIVE_EMBEDDINGS = "backbone.embedding.weight"


@dataclass(frozen=True)
class Checkpoint:
    """One Mamba2 language model on disk. Tensors go by transformers' names and come in the dtype of the file.

    `raw_config` is config.json as it stands (translated, for native folders), `config` transformers' object of it.
    """

    folder: Path
    raw_config: dict[str, Any]
    config: Any
    mixer_layout: MixerLayout
    tensors: TensorFiles

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @cached_property
    def digest(self) -> str:
        """sha256 over the names and contents of config, weights and all that is published beside them."""
        return _digest(self.folder, [self.folder / CONFIG, *self.tensors.files, *self.companions()])

    @property
    def parameters(self) -> int:
        """Elements of all tensors that are the model's own, a tied head counted once."""
        return sum(math.prod(self.tensors.shapes[name]) for name in self._own())

    def _own(self) -> set[str]:
        mixers = {name for name in self.tensors.home if ".mixer." in name}
        return mixers | {self._stored(name) for name in self.others()}

    def companions(self) -> list[Path]:
        """Tokenizer, generation settings, licence and whatever else travels with the weights as it is."""
        return companion_files(self.folder)

    def mixer(self, layer: int) -> dict[str, Tensor]:
        """The mixer's tensors by their own names (`in_proj.weight`, ...)."""
        prefix = mixer_prefix(layer)
        names = [name for name in self.tensors.home if name.startswith(prefix)]
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.load(names).items()}

    def tensor(self, name: str) -> Tensor:
        """Any tensor by transformers' name, in the dtype of the file; the head of a tied model is its embeddings."""
        stored = self._stored(name)
        return self.tensors.load([stored])[stored]

    def has(self, name: str) -> bool:
        return self._stored(name) in self.tensors.home

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors.shapes[self._stored(name)]

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors.dtypes[self._stored(name)]

    def _stored(self, name: str) -> str:
        """Its name in the file: native checkpoints say embedding, tied ones may leave the head out."""
        if name == HEAD and name not in self.tensors.home:
            name = EMBEDDINGS
        return NATIVE_EMBEDDINGS if name == EMBEDDINGS and NATIVE_EMBEDDINGS in self.tensors.home else name

    def others(self) -> Iterator[str]:
        """Names of all tensors outside the mixers, as transformers spells them."""
        yield EMBEDDINGS
        for layer in range(self.layers):
            yield norm_name(layer)
        yield FINAL_NORM
        if self._has_own_head:
            yield HEAD

    @cached_property
    def _has_own_head(self) -> bool:
        """transformers uses a stored head even where the config ties it; one that differs has to travel along."""
        if not self.config.tie_word_embeddings:
            return True
        return HEAD in self.tensors.home and not torch.equal(self.tensor(HEAD), self.tensor(EMBEDDINGS))

    def strangers(self) -> list[str]:
        """Tensors that belong to no layer of the model: pruning would leave them out without a word."""
        mixers = tuple(mixer_prefix(layer) for layer in range(self.layers))
        known = {HEAD, *(self._stored(name) for name in self.others())}
        return [name for name in self.tensors.home if name not in known and not name.startswith(mixers)]


def mixer_prefix(layer: int) -> str:
    return f"backbone.layers.{layer}.mixer."


def norm_name(layer: int) -> str:
    return f"backbone.layers.{layer}.norm.weight"


def open_checkpoint(model: str | Path) -> Checkpoint:
    """`demo`, a local folder (transformers or native format) or a hub name. CheckpointError with the remedy for
    anything that is not a complete Mamba2 language model; shapes are checked here, before any work."""
    folder = find_folder(model)
    check_links(folder)
    raw = read_config(folder)
    raw.pop("auto_map", None)  # names code, which is neither run here nor published
    config = _config_object(raw, folder)
    if is_native(raw):
        raw = json.loads(config.to_json_string())
    checkpoint = Checkpoint(folder, raw, config, mixer_layout(config), find_tensors(folder))
    check_pointers(checkpoint.companions())
    check_complete(checkpoint)
    return checkpoint


def find_folder(model: str | Path) -> Path:
    """The local folder of a model; a hub name is downloaded into the hub's own cache."""
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
    return download(model)


def _config_object(raw: dict[str, Any], folder: Path) -> Any:
    """transformers' own config class: it fills in the defaults that config.json leaves out, and reads its Infinity."""
    check_whole_model(raw, str(folder / "config.json"))
    from transformers import AutoConfig

    if raw.get("model_type") == PROJECTED:
        import ghost.modeling  # noqa: F401  registers it
    try:
        return to_transformers(raw) if is_native(raw) else AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{folder / 'config.json'} is not a valid Mamba2 config ({reason}); {AGAIN}") from None


def check_complete(checkpoint: Checkpoint) -> None:
    """CheckpointError unless the tensors are those of the config, each of its shape, and no others."""
    layout, where = checkpoint.mixer_layout, checkpoint.folder
    _check_fields(checkpoint.config)
    for layer in range(checkpoint.layers):
        prefix = mixer_prefix(layer)
        found = {n.removeprefix(prefix): _meta(s) for n, s in checkpoint.tensors.shapes.items() if n.startswith(prefix)}
        if found:
            check_biases(checkpoint.config, found, where=f"layer {layer} of {where}")
        layout.check(found, where=f"layer {layer} of {where}")
    if not checkpoint.config.tie_word_embeddings and HEAD not in checkpoint.tensors.home:
        raise CheckpointError(f"tensor {HEAD} is missing in {where} and tie_word_embeddings is false; {AGAIN}")
    for name in checkpoint.others():
        table = name in (EMBEDDINGS, HEAD)
        _check_shape(checkpoint, name, (checkpoint.vocab_size, layout.d_model) if table else (layout.d_model,))
    if strangers := checkpoint.strangers():
        raise CheckpointError(
            f"{where}: unexpected tensor {strangers[0]} in a Mamba2 model of {checkpoint.layers} layers; "
            "check that config and weights belong together"
        )


def _check_fields(config: Any) -> None:
    """What a whole model's config says besides its mixers' layout."""
    for name in ("num_hidden_layers", "vocab_size", "chunk_size"):
        count(name, getattr(config, name))
    for name in ("tie_word_embeddings", "residual_in_fp32"):
        flag(name, getattr(config, name))


def _check_shape(checkpoint: Checkpoint, name: str, expected: tuple[int, ...]) -> None:
    if not checkpoint.has(name):
        raise CheckpointError(f"tensor {name} is missing in {checkpoint.folder}; {AGAIN}")
    if checkpoint.shape(name) != expected:
        raise CheckpointError(
            f"{checkpoint.folder}: {name} has shape {checkpoint.shape(name)}, but config.json asks for {expected}; "
            "check that config and weights belong together"
        )


def _meta(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, device="meta")


def _digest(folder: Path, paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
