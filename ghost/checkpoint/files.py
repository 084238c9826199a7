"""The files of a model folder: what there is, and its JSON files, which are small."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ghost.checkpoint.pickled import AGAIN
from ghost.errors import CheckpointError

JSON_BYTES = 100_000_000
"""As much as safetensors allows a header, which lists the same tensors as an index does; a larger file is no JSON file
of a model."""
POINTER, POINTER_BYTES = b"version https://git-lfs.github.com/spec/v1", 1024


def entries(folder: Path, *, linked: bool = False) -> Iterator[Path]:
    """Files and folders below, each folder before what is in it; what is in hidden ones is left out.

    Links to folders are entered, links to folders in there (`linked`) are not: no circle of links goes on for ever.
    """
    for path in sorted(folder.iterdir()):
        yield path
        if path.name.startswith(".") or not path.is_dir() or (linked and path.is_symlink()):
            continue
        try:
            yield from entries(path, linked=linked or path.is_symlink())
        except PermissionError:  # such as lost+found, where a file system begins
            continue


def check_pointers(paths: Iterable[Path]) -> None:
    """CheckpointError where git-lfs has left a file's address in place of the file."""
    for path in paths:
        if path.stat().st_size > POINTER_BYTES:
            continue
        if path.read_bytes().startswith(POINTER):
            raise CheckpointError(f"{path} is a git-lfs pointer, not the file itself; run git lfs pull in its folder")


def read_json(path: Path) -> Any:
    """The value in a JSON file. ValueError where it is larger than 100 MB, nested too deeply, or not JSON;
    CheckpointError for a git-lfs pointer."""
    if (size := path.stat().st_size) > JSON_BYTES:
        raise ValueError(f"it has {size} bytes, more than {JSON_BYTES}")
    check_pointers([path])
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json, so it is not a model folder; {AGAIN}")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. CheckpointError where it holds none."""
    try:
        value = read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); {AGAIN}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; {AGAIN}")
    return value


def is_taken(folder: Path) -> bool:
    """Whether something is there that is no empty folder."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
