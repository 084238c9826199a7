"""What travels with a model beside its weights: generation settings, tokenizer files, licence, and the rest."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ghost.checkpoint.companions import is_tokenizers
from ghost.checkpoint.files import read_json
from ghost.checkpoint.in_memory import LiveCheckpoint
from ghost.checkpoint.pickled import AGAIN
from ghost.checkpoint.source import Checkpoint
from ghost.checkpoint.tokenizer import published, tokenizer_files
from ghost.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import GenerationConfig

GENERATION = "generation_config.json"


def companions(source: Checkpoint, tokenizer: Any | None) -> dict[str, bytes]:
    """Files by name below the model's folder: the source folder's own, with those of a tokenizer that is given in
    place of all of its own."""
    named = {path.relative_to(source.folder).as_posix(): path for path in source.companions()}
    kept = {name for name in named if name != GENERATION and (tokenizer is None or not is_tokenizers(name))}
    files = {name: published(name, named[name].read_bytes()) for name in sorted(kept)}
    return files if tokenizer is None else files | tokenizer_files(tokenizer)


def generation_config(model: Any, source: Checkpoint) -> "GenerationConfig | None":
    """How the model generates by default: of a model in memory its own settings, of a folder its file's, if any."""
    from transformers import GenerationConfig

    if isinstance(source, LiveCheckpoint):
        return deepcopy(model.generation_config)
    path = source.folder / GENERATION
    if not path.is_file():
        return None
    try:
        return GenerationConfig.from_dict(read_json(path))
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path} holds no generation settings ({reason}); {AGAIN}, or remove it") from None
