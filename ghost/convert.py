"""From transformers' format to the native state-spaces one, which mamba_ssm loads, and back: the same tensors."""

import shutil
from pathlib import Path
from typing import Literal

from ghost.checkpoint.companions import CONFIG, HF_CONFIG, PROVENANCE
from ghost.checkpoint.fields import with_infinity
from ghost.checkpoint.names import native_name, spelled
from ghost.checkpoint.native import to_native
from ghost.checkpoint.source import Checkpoint
from ghost.checkpoint.writer import SINGLE, Planned, write_json, write_pickled, write_weights
from ghost.errors import CheckpointError
from ghost.export import as_safetensors, copy_companions

Format = Literal["hf", "native"]
PICKLED = "pytorch_model.bin"
"""The one file of weights that mamba_ssm looks for."""


def convert(source: Checkpoint, folder: Path, form: Format) -> None:
    """Write the checkpoint to `folder`, made where it is not there, in the other format: tensor by tensor, bits and
    dtypes as they are, with tokenizer, ghost.json and what else travels with the weights. CheckpointError where it is
    in that format already, or the format can't hold it."""
    if source.native == (form == "native"):
        raise CheckpointError(f"{source.folder} is in {form} format already; use it as it is")
    if form == "native":
        check_native(source)
    folder.mkdir(parents=True, exist_ok=True)
    (_write_native if form == "native" else _write_hf)(source, folder)
    copy_companions(source, folder)
    if (made := source.folder / PROVENANCE).is_file():
        shutil.copyfile(made, folder / PROVENANCE)


def check_native(source: Checkpoint) -> None:
    """CheckpointError where the native format can't hold the model."""
    config, where = source.config, source.folder
    if source.mixer_layout.projected_from:
        raise CheckpointError(f"{where} is projected, which the native format has no words for; keep transformers'")
    if config.model_type != "mamba2":
        raise CheckpointError(
            f"{where}: model_type is {config.model_type!r}, and the native format holds Mamba2 layers alone; keep "
            "transformers' format"
        )
    for tensor in source.names.foreign:
        raise CheckpointError(f"{where}: tensor {tensor} is none that mamba_ssm's Mamba2 has; remove it")
    to_native(config)


def _write_native(source: Checkpoint, folder: Path) -> None:
    """Both as safetensors and as what mamba_ssm reads, with a head of its own even where it is tied."""
    names = source.names
    files = {native_name(name): names.homes[names.source(name)][0] for name in names.shapes}
    write_weights(folder, {SINGLE: [_planned(source, file, name) for name, file in files.items()]})
    write_pickled(folder / SINGLE, folder / PICKLED)
    write_json(folder / HF_CONFIG, with_infinity(source.raw_config))
    write_json(folder / CONFIG, to_native(source.config))


def _write_hf(source: Checkpoint, folder: Path) -> None:
    shards: dict[str, list[Planned]] = {as_safetensors(path.name): [] for path in source.tensors.files}
    for file, path in source.tensors.home.items():
        if file not in source.repeated:
            shards[as_safetensors(path.name)].append(_planned(source, file, spelled(file)))
    write_weights(folder, shards)
    write_json(folder / CONFIG, with_infinity(source.raw_config))


def _planned(source: Checkpoint, file: str, name: str) -> Planned:
    tensors = source.tensors
    return Planned(name, tensors.shapes[file], tensors.dtypes[file], lambda: tensors.load([file])[file])
