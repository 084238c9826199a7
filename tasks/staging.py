"""Models, tokenizers and texts on object storage, brought to a local path. What is local already stays as it is."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from artifacts.digest import parse_object
from artifacts.errors import MissingArtifact
from artifacts.folders import Folder, is_remote, open_folder
from ghost.checkpoint.source import COMPANIONS
from ghost.checkpoint.tensors import INDEXED, SINGLE
from ghost.errors import CheckpointError, CorpusError
from ghost.export import PROVENANCE


def local(spec: str, what: Literal["model", "tokenizer", "text"]) -> str:
    """`spec`, or for an s3:// address the path of a verified copy: of a model folder's config, weights, tokenizer and
    licence, of a tokenizer folder, or of one text (`s3://bucket/texts/a.jsonl:column`).

    CheckpointError or CorpusError where there is nothing of the kind; StoreError where the storage fails.
    """
    if not is_remote(spec):
        return spec
    if what == "text":
        return _text(spec)
    folder = open_folder(spec)
    top = {entry.name for entry in folder.entries() if "/" not in entry.name}
    wanted = _model(folder, top) if what == "model" else {"config.json", *_matching(COMPANIONS, top)} & top
    if not wanted:
        raise CheckpointError(f"{what} {spec}: there are no {what} files; check the address")
    return str(folder.fetch(sorted(wanted)))


def _model(folder: Folder, top: set[str]) -> set[str]:
    """What `open_checkpoint` and `verify` would read of these files; a second format of the weights stays there."""
    if "config.json" not in top:
        raise CheckpointError(f"model {folder.url}: no config.json, so it is no model folder; check the address")
    return {"config.json", *_weights(folder, top), *_matching([*COMPANIONS, PROVENANCE], top)}


def _weights(folder: Folder, top: set[str]) -> set[str]:
    for single, index in zip(SINGLE, INDEXED, strict=True):
        if single in top:
            return {single}
        if index in top:
            listed = (parse_object(folder.read(index)) or {}).get("weight_map")
            return {index, *(top.intersection(map(str, listed.values())) if isinstance(listed, dict) else ())}
    return set()


def _matching(patterns: Iterable[str], names: Iterable[str]) -> set[str]:
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


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
