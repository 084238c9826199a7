"""What lies beside a model's weights and travels with them: all but weights, code, and what ghost writes itself.

One rule, by names, for folders here, on object storage and on the hub. A list of what to take would age: tokenizers
come in new files, licences under new names.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

from ghost.checkpoint.files import entries
from ghost.errors import CheckpointError

CONFIG, PROVENANCE = "config.json", "ghost.json"
HF_CONFIG = "hf-config.json"
"""In a native folder: the config.json of the transformers folder that it was made from."""
WRITTEN = {CONFIG, PROVENANCE, HF_CONFIG, "ghost-manifest.json", "readme.md", "params.json"}
"""Top names, in lower case, that the pruned model has others of: its config, where it comes from, its card. Mistral's
params.json is a config too, of weights that stay behind."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".keras",
           ".msgpack", ".ot", ".npy", ".npz", ".pb", ".pkl", ".pickle", ".tflite", ".nemo", ".distcp",
           ".index.json")  # fmt: skip
"""Endings of weights in any format, training states included, and of their indices."""
CODE = (".py", ".pyc", ".so")
UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".incomplete", ".crdownload", ".aria2", "~")
"""How uploads and downloads name files and folders that are not there yet."""
MARKS = {CONFIG, "ghost-store.json"}
"""A folder below with one of these, or with weights, is another model, or a store of ghost's."""
TOKENIZER = ("tokenizer*", "*tokenizer", "*vocab*", "merges*", "special_tokens_map*", "added_tokens*", "chat_template*",
             "additional_chat_templates/*", "*.jinja", "*.model", "*.spm", "*.tiktoken", "tekken*.json", "bpe.codes",
             "dict.txt", "normalizer.json", "emoji.json", "byte_maps.json", "word_*.json")  # fmt: skip
"""Of the companions those that a tokenizer is read from, by the names that transformers 5.23 knows."""


def companions(names: Iterable[str]) -> set[str]:
    """Those of the names below a model folder ('/' between segments) that travel with its weights."""
    seen = {name for name in names if not any(map(_is_hidden_or_unfinished, name.split("/")))}
    foreign = {_top(name) for name in seen if "/" in name and _is_of_a_model(name.rpartition("/")[-1])}
    return {name for name in seen if _top(name) not in foreign and not _stays(name)}


def is_tokenizers(name: str) -> bool:
    """Whether a companion belongs to the tokenizer, and so is replaced where another one is given."""
    return any(fnmatchcase(name, pattern) for pattern in TOKENIZER)


def companion_files(folder: Path) -> list[Path]:
    """The companions in a folder, sorted. CheckpointError for a name that no store and no digest takes."""
    names = companions(path.relative_to(folder).as_posix() for path in entries(folder) if path.is_file())
    for name in names:
        if not name.isprintable() or "\\" in name:
            raise CheckpointError(f"{folder}: {name!a} beside the weights is no name to publish; rename or remove it")
    return sorted(folder / name for name in names)


def companions_digest(files: Mapping[str, bytes]) -> str:
    """sha256 over names and contents."""
    total = sha256()
    for name, data in sorted(files.items()):
        total.update(f"{name} {sha256(data).hexdigest()}\n".encode())
    return total.hexdigest()


def is_unfinished(segment: str) -> bool:
    return segment.lower().endswith(UNFINISHED)


def _is_hidden_or_unfinished(segment: str) -> bool:
    return segment.startswith(".") or is_unfinished(segment)


def _top(name: str) -> str:
    """The folder right below that the file is in; empty for one that is in none."""
    return name.partition("/")[0] if "/" in name else ""


def _is_of_a_model(name: str) -> bool:
    return name in MARKS or name.lower().endswith(WEIGHTS)


def _stays(name: str) -> bool:
    return name.lower() in WRITTEN or name.lower().endswith((*WEIGHTS, *CODE))
