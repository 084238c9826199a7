"""What travels with a model beside its weights: generation settings, tokenizer files, licence."""

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghost.checkpoint.files import read_json
from ghost.checkpoint.in_memory import LiveCheckpoint
from ghost.checkpoint.source import Checkpoint

if TYPE_CHECKING:
    from transformers import GenerationConfig

GENERATION = "generation_config.json"


def companions(source: Checkpoint, tokenizer: Any | None) -> dict[str, bytes]:
    """Files by name: the source folder's own, and over them those of a tokenizer that is not the folder's."""
    files = {path.name: path.read_bytes() for path in source.companions() if path.name != GENERATION}
    if tokenizer is not None:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            files |= {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
    return files


def generation_config(model: Any, source: Checkpoint) -> "GenerationConfig | None":
    """How the model generates by default: of a model in memory its own settings, of a folder its file's, if any."""
    from transformers import GenerationConfig

    if isinstance(source, LiveCheckpoint):
        return deepcopy(model.generation_config)
    path = source.folder / GENERATION
    return GenerationConfig.from_dict(read_json(path)) if path.is_file() else None
