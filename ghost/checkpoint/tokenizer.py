"""The files of a tokenizer: what keeps one from being read, and what is published of one."""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ghost.checkpoint.companions import companion_files, is_tokenizers
from ghost.checkpoint.files import check_pointers
from ghost.checkpoint.links import check_links

CONFIG = "tokenizer_config.json"
BASE = "TokenizersBackend"
"""transformers 5's class of tokenizers that are all in tokenizer.json."""
OF_THE_LOADING = {"is_local", "local_files_only"}
"""What transformers 5.23 notes in a tokenizer's config about how it was loaded: no part of the tokenizer."""
SENTENCEPIECE = b"\x0a"
"""A sentencepiece model's first byte; tiktoken's files, which end in .model too, are text."""
READERS = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
"""What transformers reads sentencepiece models with, by module: the package."""


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """By name below a model's folder, what is published of a loaded tokenizer, the same however it was loaded: of
    these, AutoTokenizer makes the tokenizer again, whole."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in _files(Path(folder))}
    if CONFIG in found:
        fields = {name: value for name, value in json.loads(found[CONFIG]).items() if name not in OF_THE_LOADING}
        found[CONFIG] = published(CONFIG, _encoded(fields))
    return found


def published(name: str, data: bytes) -> bytes:
    """A file that travels with a model, as transformers 4.57 reads it too; all but a few are what they were.

    transformers 5 calls its own base class in a tokenizer's config, and has a list where 4.57 takes a table.
    """
    if name != CONFIG:
        return data
    try:
        fields = json.loads(data)
    except ValueError:  # whoever reads it will say so
        return data
    if not isinstance(fields, dict):
        return data
    spoken = (
        fields | {"tokenizer_class": "PreTrainedTokenizerFast"} if fields.get("tokenizer_class") == BASE else fields
    )
    if isinstance(spoken.get("extra_special_tokens"), list):
        names = {"extra_special_tokens": "additional_special_tokens"}
        spoken = {names.get(name, name): value for name, value in spoken.items()}
    return data if spoken == fields else _encoded(spoken)


def check_tokenizer(folder: Path) -> None:
    """CheckpointError where a link leads out of a tokenizer's folder, or git-lfs has left pointers in it."""
    check_links(folder)
    check_pointers(_tokenizers(folder))


def missing_packages(folder: Path) -> str | None:
    """What the folder's sentencepiece model can't be read without, in words; None where it isn't that."""
    missing = [package for module, package in READERS.items() if not _is_here(module)]
    models = [path.name for path in _tokenizers(folder) if path.suffix == ".model" and _is_sentencepiece(path)]
    if not missing or not models or (folder / "tokenizer.json").is_file():
        return None
    return f"{models[0]} needs {' and '.join(missing)}: pip install {' '.join(missing)}"


def _encoded(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _tokenizers(folder: Path) -> list[Path]:
    return [path for path in companion_files(folder) if is_tokenizers(path.relative_to(folder).as_posix())]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_sentencepiece(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == SENTENCEPIECE


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False
