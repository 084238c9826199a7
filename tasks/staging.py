"""Models, tokenizers and texts on object storage, brought to a local path. What is local already stays as it is."""

import os
from collections.abc import Set
from pathlib import Path
from typing import Literal

from artifacts.digest import parse_object
from artifacts.errors import MissingArtifact
from artifacts.folders import Folder, is_remote, open_folder
from ghost.checkpoint.companions import CONFIG, companions, is_tokenizers
from ghost.checkpoint.tensors import model_files
from ghost.errors import CheckpointError, CorpusError


def local(spec: str, what: Literal["model", "tokenizer", "text"]) -> str:
    """`spec`, or for an s3:// address the path of a verified copy: of a model folder's config, weights and what
    travels with them, of a tokenizer folder, or of one text (`s3://bucket/texts/a.jsonl:column`).

    CheckpointError or CorpusError where there is nothing of the kind; StoreError where the storage fails.
    """
    if not is_remote(spec):
        return spec if what == "text" else os.path.expanduser(spec)
    if what == "text":
        return _text(spec)
    folder = open_folder(spec)
    names = {entry.name for entry in folder.entries()}
    wanted = _model(folder, names) if what == "model" else _tokenizer(names)
    if not wanted:
        raise CheckpointError(f"{what} {spec}: there are no {what} files; check the address")
    return str(folder.fetch(sorted(wanted)))


def _model(folder: Folder, names: Set[str]) -> set[str]:
    if CONFIG not in names:
        raise CheckpointError(f"model {folder.url}: no config.json, so it is no model folder; check the address")
    return model_files(names, lambda index: _shards(folder, index))


def _shards(folder: Folder, index: str) -> list[str]:
    listed = (parse_object(folder.read(index)) or {}).get("weight_map")
    return [str(shard) for shard in listed.values()] if isinstance(listed, dict) else []


def _tokenizer(names: Set[str]) -> set[str]:
    return {CONFIG, *filter(is_tokenizers, companions(names))} & names


def _text(spec: str) -> str:
    """A colon that belongs to an object's name stays in it, as with local paths."""
    parent, _, name = spec.rpartition("/")
    path, colon, column = name.rpartition(":")
    for tried, rest in [(name, ""), *([(path, f":{column}")] if colon else [])]:
        if is_remote(parent) and tried and (found := _fetched(parent, tried)):
            return f"{found}{rest}"
    raise CorpusError(f"corpus {spec}: there is no such object; give s3://bucket/path/text.txt (.jsonl or .parquet)")


def _fetched(parent: str, name: str) -> Path | None:
    try:
        return open_folder(parent).fetch([name]) / name
    except MissingArtifact:
        return None
